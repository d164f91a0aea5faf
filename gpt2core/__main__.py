"""One model or one run without Ray: `python -m gpt2core describe | train | evaluate | generate | export`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from gpt2core.cli import Parser, run_or_explain
from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError

#: Keys of a run that are flags, and what they say; `--set` takes the others.
KEYS = {
    "task": "what is learnt: sonnet or pretraining",
    "model": "gpt2-nano, gpt2, gpt2-medium, -large, -xl, a folder, or owner/name of the hub",
    "data_dir": "folder with the course's files (default: what the installed packages hold)",
    "adapter": "which parameters train: full, freeze or lora",
    "blocks": "blocks that the adapter means: all, lower-half, upper-half, or numbers like 0-5,8",
    "rank": "rank of LoRA",
    "alpha": "alpha of LoRA: a number, r or 2r",
    "targets": "projections that LoRA adapts: qkv, qkv+dense or all",
    "lr": "learning rate",
    "epochs": "epochs",
    "decoder": "greedy, top-k, top-p, top-k-p or top-k-p-study",
    "temperature": "temperature; 0 is greedy",
    "top_k": "how many of the likeliest tokens may be drawn",
    "top_p": "mass of the likeliest tokens that may be drawn",
    "max_new_tokens": "at most so many new tokens",
    "seed": "seed of everything",
}
RUN_FLAGS = ("task", "model", "data_dir", "adapter", "blocks", "rank", "alpha", "targets", "lr", "epochs", "seed")
DECODING_FLAGS = ("decoder", "temperature", "top_k", "top_p", "max_new_tokens")


def parser() -> Parser:
    """Return the parser of all commands; `gpt2core.commands` holds the function of each."""
    top = Parser(prog="python -m gpt2core", description=__doc__, allow_abbrev=False)
    commands = top.add_subparsers(dest="command", parser_class=Parser, metavar="COMMAND")

    p = commands.add_parser(
        "describe", help="count total and trainable parameters; needs no weights", allow_abbrev=False
    )
    _keys(p, ("model", "adapter", "blocks", "rank", "alpha", "targets"))
    p.add_argument(
        "--preset", default="plain", choices=("plain", "study"), help="which blocks an adapter means (default: plain)"
    )
    p.add_argument("--json", action="store_true", help="print JSON")

    p = commands.add_parser("train", help="train one run; the same command goes on with it", allow_abbrev=False)
    p.add_argument("--out", required=True, help="folder of its checkpoints and metrics")
    _keys(p, RUN_FLAGS)
    _set(p)

    p = commands.add_parser("evaluate", help="score a run or a model beside the floors", allow_abbrev=False)
    _source(p)
    _keys(p, ("task", "data_dir", *DECODING_FLAGS, "seed"), of_run=True)
    p.add_argument("--split", default="dev", choices=("dev", "test"), help="which split (default: dev)")
    _set(p)

    p = commands.add_parser("generate", help="continue prompts", allow_abbrev=False)
    _source(p)
    p.add_argument("--prompt", action="append", required=True, help=r"text to continue, \n a new line; may be repeated")
    p.add_argument("--samples", type=int, default=1, help="continuations of each prompt (default: 1)")
    _keys(p, (*DECODING_FLAGS, "seed"), of_run=True)

    p = commands.add_parser("export", help="write a run's best epoch as a Hugging Face folder", allow_abbrev=False)
    p.add_argument("--checkpoint", required=True, help="folder of a run")
    p.add_argument("--out", required=True, help="folder to write")
    return top


def _keys(p: argparse.ArgumentParser, keys: Sequence[str], *, of_run: bool = False) -> None:
    """Add a flag for each key of a run; its value is validated by RunConfig. `of_run`: a checkpoint's value goes first."""
    for key in keys:
        value = RunConfig.model_fields[key].default
        words = KEYS[key]
        if value not in (None, "default"):
            words += f" (default: {'that of the run, else ' if of_run else ''}{value})"
        p.add_argument(f"--{key.replace('_', '-')}", default=argparse.SUPPRESS, help=words)


def _set(p: argparse.ArgumentParser) -> None:
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other value; may be repeated")


def _source(p: argparse.ArgumentParser) -> None:
    either = p.add_mutually_exclusive_group(required=True)
    either.add_argument("--checkpoint", help="folder of a run: its best epoch")
    either.add_argument("--model", help=KEYS["model"])


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 2 bad input, 130 interrupted."""

    def command() -> int:
        options = parser().parse(argv)
        if options.command is None:
            raise ConfigError("A command is missing; valid: describe, train, evaluate, generate, export")
        from gpt2core import commands  # PyTorch takes a second to import

        commands.COMMANDS[options.command](options)
        return 0

    run_or_explain(command, f"python -m gpt2core {shlex.join(sys.argv[1:] if argv is None else argv)}")


if __name__ == "__main__":
    main()
