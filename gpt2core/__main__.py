"""One model or one run without Ray: `python -m gpt2core keys | describe | train | evaluate | predict | generate | export`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from gpt2core.cli import Parser, run_or_explain
from gpt2core.config import DecodingKeys, LoraKeys, PatternKeys, RunConfig, meaning

ATTENTION_FLAGS = ("attention", *PatternKeys.model_fields)
ADAPTER_FLAGS = ("adapter", *LoraKeys.model_fields)
DECODING_FLAGS = ("decoder", *DecodingKeys.model_fields)


def parser() -> Parser:
    """Return the parser of all commands; `gpt2core.commands` holds the function of each."""
    top = Parser(prog="python -m gpt2core", description=__doc__)

    p = top.add_command("keys", help="list all keys of a run, and what reads each")
    p.add_argument("--json", action="store_true", help="print JSON")

    p = top.add_command("describe", help="count total and trainable parameters; needs no weights")
    _keys(p, ("task", "model", *ATTENTION_FLAGS, *ADAPTER_FLAGS))
    p.add_argument(
        "--preset", default="plain", choices=("plain", "study"), help="which blocks an adapter means (default: plain)"
    )
    p.add_argument(
        "--length", type=int, help="tokens that attention is counted for (default: all the model's positions)"
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    _set(p)

    p = top.add_command("train", help="train one run; the same command goes on with it")
    p.add_argument("--out", required=True, help="folder of its checkpoints and metrics")
    _keys(p, ("task", "model", "data_dir", *ATTENTION_FLAGS, *ADAPTER_FLAGS, "lr", "epochs", "seed"))
    _set(p)

    p = top.add_command("evaluate", help="score a run or a model beside the baselines")
    _source(p)
    _keys(p, ("task", "data_dir", *DECODING_FLAGS, "seed"), of_run=True)
    p.add_argument("--split", default="dev", choices=("dev", "test"), help="which split (default: dev)")
    _set(p)

    p = top.add_command("predict", help="write the classes of a split's texts")
    _source(p)
    _keys(p, ("task", "data_dir"), of_run=True)
    p.add_argument("--split", default="test", choices=("dev", "test"), help="which split (default: test)")
    p.add_argument("--out", required=True, help="file to write, in the course's submission format")
    _set(p)

    p = top.add_command("generate", help="continue prompts")
    _source(p)
    p.add_argument(
        "--prompt",
        action="append",
        required=True,
        help=r"text to continue, in which \n is a new line and \\ a backslash; may be repeated",
    )
    p.add_argument("--samples", type=int, default=1, help="continuations of each prompt (default: 1)")
    _keys(p, (*DECODING_FLAGS, "seed"), of_run=True)

    p = top.add_command("export", help="write a run's best epoch as a Hugging Face folder")
    p.add_argument("--checkpoint", required=True, help="folder of a run")
    p.add_argument("--out", required=True, help="folder to write")
    p.add_argument(
        "--format",
        default="model",
        choices=("model", "adapter"),
        help="transformers' model, or peft's adapter (of LoRA)",
    )
    return top


def _keys(p: Parser, keys: Sequence[str], *, of_run: bool = False) -> None:
    """Add a flag for each key of a run; its value is validated by RunConfig. `of_run`: a checkpoint's value goes first."""
    for key in keys:
        value, words = RunConfig.model_fields[key].default, meaning(key)
        if value not in (None, "default", False):
            words += f" (default: {'that of the run, else ' if of_run else ''}{value})"
        switch: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(value, bool) else {}
        p.add_argument(f"--{key.replace('_', '-')}", default=argparse.SUPPRESS, help=words, **switch)


def _set(p: Parser) -> None:
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key, see `python -m gpt2core keys`; may be repeated",
    )


def _source(p: Parser) -> None:
    either = p.add_alternatives()
    either.add_argument("--checkpoint", help="folder of a run (its best epoch), of transformers or of peft")
    either.add_argument("--model", help=meaning("model"))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 2 bad input, 130 interrupted."""

    def command() -> int:
        options = parser().parse(argv)
        from gpt2core import commands  # PyTorch takes a second to import

        commands.COMMANDS[options.command](options)
        return 0

    run_or_explain(command, f"python -m gpt2core {shlex.join(sys.argv[1:] if argv is None else argv)}")


if __name__ == "__main__":
    main()
