"""How fast text is generated, beside transformers on the same weights: `python -m tests.benchmarks.generation`.

Both ways of a row take turns, after one turn each that does not count; the table has the medians. Greedy tokens, and those of
beam search, are compared before anything is timed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from gpt2core.config import DecodingConfig
from gpt2core.data.shakespeare import load_sonnets
from gpt2core.decoding.generate import generate
from gpt2core.metrics.floors import split_given
from gpt2core.model import GPT2
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import load_model, model_folder, save_model

NEVER = 10**9  # an EOS that no model draws: all texts are of the same length
CONSOLE = Console()


def main() -> None:
    """Compare, then time; print one table."""
    logging.disable_progress_bar()
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--prompts", type=int, default=12)
    options.add_argument("--tokens", type=int, default=128)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--model", default="gpt2-nano")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = options.parse_args()
    ours, theirs = models(chosen.model, chosen.device)
    rows = load_sonnets(None).splits["train"][: chosen.prompts]
    prompts = Tokenizer.load(model_folder(chosen.model)).encode([split_given(row.text)[0] + "\n" for row in rows])
    shape = ours.config
    table = Table(
        "what",
        title=f"{chosen.prompts} prompts x {chosen.tokens} tokens, {shape.n_layer} layers of {shape.n_embd}, {chosen.device}",
    )
    for heading in ("here, s", "beside it, s", "times as fast"):
        table.add_column(heading, justify="right")
    for name, here, beside in comparisons(ours, theirs, prompts, chosen.tokens):
        if name.startswith(("greedy", "beam")) and here() != beside():
            raise SystemExit(f"{name}: the tokens differ")
        first, second = medians(here, beside, chosen.repeats)
        table.add_row(name, f"{first:.3f}", f"{second:.3f}", f"{second / first:.2f}")
    CONSOLE.print(table)


def models(name: str, device: str) -> tuple[GPT2, GPT2LMHeadModel]:
    """The same weights here and in transformers."""
    ours = load_model(name)
    with tempfile.TemporaryDirectory() as folder:
        save_model(ours, Path(folder))
        theirs = GPT2LMHeadModel.from_pretrained(folder)
    return ours.train(False).to(device), theirs.train(False).to(device)


def comparisons(
    ours: GPT2, theirs: GPT2LMHeadModel, prompts: list[list[int]], tokens: int
) -> list[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """Name, our way and the other way of each row."""
    many = [
        DecodingConfig(temperature=0.7 + 0.1 * (n % 4), top_p=0.8 + 0.05 * (n // 4), max_new_tokens=tokens)
        for n in range(16)
    ]

    def here(**keys: object) -> Callable[[], list[list[int]]]:
        config = DecodingConfig.of({"max_new_tokens": tokens, **keys})
        return lambda: generate(ours, prompts, config, seeds=range(len(prompts)), eos=NEVER)

    def beside(**keys: object) -> Callable[[], list[list[int]]]:
        return lambda: by_transformers(theirs, prompts, tokens, **keys)

    def one_call() -> list[list[int]]:
        configs = [config for config in many for _ in prompts]
        return generate(ours, prompts * len(many), configs, seeds=range(len(configs)), eos=NEVER)

    def call_by_call() -> list[list[list[int]]]:
        return [generate(ours, prompts, one, seeds=range(len(prompts)), eos=NEVER) for one in many]

    return [
        ("greedy, beside transformers", here(strategy="greedy"), beside()),
        ("top-p 0.9, beside transformers", here(), beside(do_sample=True, top_p=0.9, top_k=0)),
        ("beam 5, beside transformers", here(strategy="beam"), beside(num_beams=5)),
        ("16 settings in a call, beside a call each", one_call, call_by_call),
    ]


@torch.inference_mode()
def by_transformers(model: GPT2LMHeadModel, prompts: Sequence[list[int]], tokens: int, **keys: Any) -> list[list[int]]:
    """The new tokens of prompts padded on the left."""
    width = max(map(len, prompts))
    found = model.generate(
        torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=model.device),
        attention_mask=torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device),
        max_new_tokens=tokens,
        **{"do_sample": False, "eos_token_id": None, "pad_token_id": 0, **keys},
    )
    rows: list[list[int]] = found[:, width:].tolist()
    return rows


def medians(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds of two ways that take turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for way, times in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            way()
            times.append(time.perf_counter() - start)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


if __name__ == "__main__":
    main()
