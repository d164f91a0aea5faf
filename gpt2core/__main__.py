"""One model or one run without Ray: `python -m gpt2core describe | train | evaluate | predict | generate | export`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from gpt2core.cli import Parser, run_or_explain
from gpt2core.config import DecodingKeys, RunConfig

#: Keys of a run that are flags, and what they say; `--set` takes the others.
KEYS = {
    "task": "what is learnt: sst, cfimdb, paraphrase, rewriting, sonnet, pretraining or poems",
    "model": "gpt2-nano, gpt2, gpt2-medium, -large, -xl, a folder, or owner/name of the hub",
    "data_dir": "folder with the course's files (default: what the installed packages hold)",
    "attention": "attention of the blocks: dense, logsparse, auto, or several in turn, as in dense,logsparse",
    "attention_window": "logsparse, auto: how many of the last tokens are always seen",
    "attention_restart": "logsparse, auto: after how many tokens the pattern repeats; 0 is never",
    "adapter": "which parameters train: full, freeze, last-linear (the task's own head alone), lora or frozen (none)",
    "blocks": "blocks that the adapter means: all, lower-half, upper-half, or numbers like 0-5,8",
    "rank": "rank of LoRA",
    "alpha": "alpha of LoRA: a number, r or 2r",
    "targets": "projections that LoRA adapts: qkv, qkv+dense or all",
    "rslora": "scale LoRA by alpha / sqrt(rank) in place of alpha / rank",
    "dora": "train the magnitude of each output beside LoRA",
    "lora_init": "how LoRA's pairs start: default, or pissa (the largest singular directions of the weights)",
    "lora_plus": "learning rate of LoRA's B in units of that of A",
    "lr": "learning rate",
    "epochs": "epochs",
    "decoder": "how tokens are chosen: greedy, top-k, top-p, top-k-p (top-p of what top-k left), top-k-p-study (what is in "
    "both sets), min-p, typical, eta, mirostat, contrastive or beam",
    "temperature": "what logits are divided by; 0, or below 1e-5, is greedy whatever the decoder",
    "top_k": "how many of the likeliest tokens may be drawn; contrastive weighs so many, 4 to 10 as a rule",
    "top_p": "mass of the likeliest tokens that may be drawn",
    "min_p": "least probability of a token that may be drawn, in units of that of the likeliest",
    "typical_p": "mass of the most typical tokens that may be drawn",
    "epsilon": "threshold of eta: least probability where the distribution is narrow",
    "mirostat_tau": "surprise that mirostat aims at, in bits a token",
    "mirostat_eta": "how fast mirostat adapts",
    "penalty_alpha": "weight of contrastive search's penalty for resembling the text so far",
    "num_beams": "hypotheses that beam search follows; 1 is greedy",
    "length_penalty": "beam search divides log-probabilities by the length to this power; above 0 favours long texts",
    "beam_early_stopping": "end a beam search as soon as `num_beams` hypotheses have ended",
    "repetition_penalty": "what the logits of tokens of the text are divided by; 1 is off",
    "no_repeat_ngram": "no n-gram of so many tokens comes twice; 0, the default, is off",
    "max_new_tokens": "at most so many new tokens",
    "seed": "seed of everything",
}
ADAPTER_FLAGS = ("adapter", "blocks", "rank", "alpha", "targets", "rslora", "dora", "lora_init", "lora_plus")
ATTENTION_FLAGS = ("attention", "attention_window", "attention_restart")
RUN_FLAGS = ("task", "model", "data_dir", *ATTENTION_FLAGS, *ADAPTER_FLAGS, "lr", "epochs", "seed")
DECODING_FLAGS = ("decoder", *DecodingKeys.model_fields)


def parser() -> Parser:
    """Return the parser of all commands; `gpt2core.commands` holds the function of each."""
    top = Parser(prog="python -m gpt2core", description=__doc__)

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
    _keys(p, RUN_FLAGS)
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
        value = RunConfig.model_fields[key].default
        words = KEYS[key]
        if value not in (None, "default", False):
            words += f" (default: {'that of the run, else ' if of_run else ''}{value})"
        switch: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(value, bool) else {}
        p.add_argument(f"--{key.replace('_', '-')}", default=argparse.SUPPRESS, help=words, **switch)


def _set(p: Parser) -> None:
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other value; may be repeated")


def _source(p: Parser) -> None:
    either = p.add_alternatives()
    either.add_argument("--checkpoint", help="folder of a run (its best epoch), of transformers or of peft")
    either.add_argument("--model", help=KEYS["model"])


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
