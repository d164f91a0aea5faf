"""One model or one run, without Ray.

`gpt2-search keys | describe | train | evaluate | predict | generate | export | cut | convert | submit`.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from gpt2core.cli import Parser, add_checkpoint_minutes, add_import, run_or_explain
from gpt2core.config import OWN_FLAGS, DecodingKeys, LoraKeys, PatternKeys, RunConfig, meaning
from gpt2core.console import status
from gpt2core.parts import import_modules

ATTENTION_FLAGS = ("attention", *PatternKeys.model_fields)
ADAPTER_FLAGS = ("adapter", *LoraKeys.model_fields)
DECODING_FLAGS = ("decoder", *DecodingKeys.model_fields)


def parser() -> Parser:
    """Return the parser of all commands; `gpt2core.commands` holds the function of each."""
    top = Parser(prog="gpt2-search", description=__doc__)

    p = top.add_command(
        "keys", help="list the keys of a run and what reads them: all, or with flags those that such a run reads"
    )
    _add_keys(p, "task", "adapter", "attention", "decoder", "pretrain")
    p.add_argument("--json", action="store_true", help="print JSON")
    _add_set(p)

    p = top.add_command("describe", help="count total and trainable parameters; needs no weights")
    _add_keys(p, "task", "model", *ATTENTION_FLAGS, *ADAPTER_FLAGS)
    p.add_argument("--preset", default="plain", choices=("plain", "study"), help="an adapter's blocks (default: plain)")
    p.add_argument("--length", type=int, help="tokens to count attention for (default: the model's n_positions)")
    p.add_argument("--json", action="store_true", help="print JSON")
    _add_set(p)

    p = top.add_command("train", help="train one run; the same command resumes it")
    p.add_argument("--out", required=True, help="folder for checkpoints and metrics")
    _add_keys(p, "task", "model", "data_dir", *OWN_FLAGS, *ATTENTION_FLAGS, *ADAPTER_FLAGS, "lr", "epochs", "seed")
    add_checkpoint_minutes(p)
    _add_set(p)

    p = top.add_command("evaluate", help="score a run or a model next to the baselines")
    _add_source(p)
    _add_keys(p, "task", "data_dir", *OWN_FLAGS, *DECODING_FLAGS, "seed", of_run=True)
    p.add_argument("--split", default="dev", choices=("dev", "test"), help="split to score (default: dev)")
    _add_set(p)

    p = top.add_command("predict", help="write the predicted classes of a split")
    _add_source(p)
    _add_keys(p, "task", "data_dir", *OWN_FLAGS, of_run=True)
    p.add_argument("--split", default="test", choices=("dev", "test"), help="split to classify (default: test)")
    p.add_argument("--out", required=True, help="file to write, in the course's submission format")
    _add_set(p)

    p = top.add_command("generate", help="continue prompts")
    _add_source(p)
    prompt = r"text to continue, with \n for a new line and \\ for a backslash; may be repeated"
    p.add_argument("--prompt", action="append", required=True, help=prompt)
    p.add_argument("--samples", type=int, default=1, help="continuations of each prompt (default: 1)")
    _add_keys(p, *DECODING_FLAGS, "seed", of_run=True)

    p = top.add_command("export", help="write the best epoch of a run as a Hugging Face folder")
    p.add_argument("--checkpoint", required=True, help="folder of a run")
    p.add_argument("--out", required=True, help="folder to write")
    formats = "a model of transformers, or only the LoRA adapter for peft"
    p.add_argument("--format", default="model", choices=("model", "adapter"), help=formats)

    p = top.add_command("cut", help="score patterns of ranks that are cut out of a trained nested LoRA")
    p.add_argument("--checkpoint", required=True, help="folder of a run with the adapter nested")
    p.add_argument("--rank", type=int, required=True, help="mean rank of the patterns, which equals their parameters")
    p.add_argument("--patterns", type=int, default=50, help="patterns to score, most of them random (default: 50)")
    alone = "patterns to train alone, to see how far their scores agree with those of the cut-outs (default: 0)"
    p.add_argument("--alone", type=int, default=0, help=alone)
    p.add_argument("--out", help="JSON file for the scores of all patterns")
    _add_keys(p, "data_dir", of_run=True)

    p = top.add_command("submit", help="write the files that CS224N's GPT-2 project asks for, and a zip of them")
    p.add_argument(
        "--runs", required=True, nargs="+", metavar="RUN", help="folders of runs or models, one for each task"
    )
    p.add_argument("--out", required=True, help="folder to write")
    labels = "paraphrases as GPT-2's tokens of no and yes, 3919 and 8505, or as classes 0 and 1 (default: tokens)"
    p.add_argument("--labels", default="tokens", choices=("tokens", "classes"), help=labels)
    p.add_argument("--data-dir", help=meaning("data_dir"))

    p = top.add_command("convert", help="write weights saved by torch.save as a Hugging Face folder")
    p.add_argument("file", metavar="FILE", help="pytorch_model.bin, or a checkpoint of CS224N's GPT-2 project")
    p.add_argument("--out", required=True, help="folder to write")
    like = "model with the same shape and tokenizer (default: FILE's folder if it has a config.json, else by shape)"
    p.add_argument("--like", metavar="MODEL", help=like)

    for p in top.commands.values():
        add_import(p)
    return top


def _add_keys(p: Parser, *keys: str, of_run: bool = False) -> None:
    """Add a flag for each key of a run; RunConfig validates its value. `of_run`: a checkpoint's value is the default."""
    for key in keys:
        value, text = RunConfig.model_fields[key].default, meaning(key)
        if value not in (None, "default", False):
            text += f" (default: {'that of the run, else ' if of_run else ''}{value})"
        switch: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(value, bool) else {}
        p.add_argument(f"--{key.replace('_', '-')}", default=argparse.SUPPRESS, help=text, **switch)


def _add_set(p: Parser) -> None:
    text = "any other key, see `gpt2-search keys`; may be repeated"
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def _add_source(p: Parser) -> None:
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="folder of a run (its best epoch is used), or of transformers or peft")
    source.add_argument("--model", help=meaning("model"))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with status 0 (done), 2 (bad input) or 130 (interrupted)."""

    def command() -> int:
        options = parser().parse(argv)
        with status("Loading PyTorch", as_json="--json" in words):
            from gpt2core import commands

        import_modules(options.imports)
        commands.COMMANDS[options.command](options)
        return 0

    words = sys.argv[1:] if argv is None else argv
    run_or_explain(command, f"gpt2-search {shlex.join(words)}", as_json="--json" in words)


if __name__ == "__main__":
    main()
