"""Compare text generation with transformers on the same weights: python -m tests.benchmarks.generation.

`small` (GPT-2 small) and `mini` (6 blocks of 256) have random weights, whose nucleus is half the vocabulary: the hardest case.
Other names and folders are models with their own weights. Prompts are first lines of sonnets. Tokens of greedy decoding and beam
search are compared first, in float32. bfloat16 is left out where the CPU lacks it. On a CPU, time is that of one thread.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from gpt2core.config import DecodingConfig, ModelConfig
from gpt2core.data.shakespeare import load_sonnets
from gpt2core.decoding.generate import generate
from gpt2core.metrics.baselines import split_given
from gpt2core.model import GPT2, initialise
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import load_model, model_folder, save_model
from tests.benchmarks.compare import TURNS, Comparison, differs, show

NEVER = 10**9  # an EOS that no model draws: all texts are of the same length
SHAPES = {"small": ModelConfig(), "mini": ModelConfig(n_embd=256, n_layer=6, n_head=4)}
PEER = "transformers.generate"


@dataclass(frozen=True)
class Size:
    """New tokens of each row, and the number of decoding settings. Of the course's loop, one in `every` tokens is timed."""

    tokens: int = 128
    beam: int = 128
    loop: int = 128
    every: int = 1
    settings: int = 8
    by_setting: int = 64


FULL = {"small": Size(), "mini": Size(settings=16, by_setting=32)}
SHORT = {
    "small": Size(tokens=32, beam=4, every=128, by_setting=2),
    "mini": Size(tokens=32, beam=16, every=32, settings=16, by_setting=4),
}

#: Times as fast as the peer, by row.
REACH: dict[str, dict[str, float]] = {
    "small": {"top-p": 1.8, "beam": 2.4, "settings": 6.0, "settings bfloat16": 6.0, "loop": 20.0},
    "mini": {"top-p": 3.5, "beam": 1.4, "settings": 6.0, "settings bfloat16": 6.0, "loop": 20.0},
}


def main() -> None:
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(SHAPES), help="small, mini, or names of models")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of each side (default: {TURNS})")
    parser.add_argument("--full", action="store_true", help="longer texts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    given = [split_given(row.text)[0] for row in load_sonnets(None).splits["train"][: chosen.prompts]]
    prompts = Tokenizer.load(model_folder("gpt2-nano")).encode([f"{text}\n" for text in given])
    for name in chosen.model:
        ours, theirs = models(name, chosen.device)
        shape, size = ours.config, (FULL if chosen.full else SHORT).get(name, Size())
        title = f"{name}: {shape.n_layer} blocks of {shape.n_embd}, vocabulary {shape.vocab_size}, {chosen.device}"
        pair = Pair(ours, theirs, prompts, size, REACH.get(name, {}))
        rows = (replace(row, ours=timed(row.ours), theirs=timed(row.theirs)) for row in comparisons(pair))
        show(title, rows, chosen.turns)


def models(name: str, device: str) -> tuple[GPT2, GPT2LMHeadModel]:
    """The same weights here and in transformers."""
    if name in SHAPES:
        ours = GPT2(SHAPES[name])
        initialise(ours, seed=0)
    else:
        ours = load_model(name)
    with tempfile.TemporaryDirectory() as folder:
        save_model(ours, Path(folder))
        theirs = GPT2LMHeadModel.from_pretrained(folder)
    return ours.train(False).to(device), theirs.train(False).to(device)


def timed(way: Callable[[], object]) -> Callable[[], float]:
    """A way that returns its seconds: of the processor, but with a GPU those that pass."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time

    def run() -> float:
        started = clock()
        way()
        return clock() - started

    return run


@dataclass(frozen=True)
class Pair:
    """Both models, and what they are to write."""

    ours: GPT2
    theirs: GPT2LMHeadModel
    prompts: list[list[int]]
    size: Size
    reach: Mapping[str, float]

    def cast(self) -> "Pair":
        return replace(self, ours=deepcopy(self.ours).bfloat16(), theirs=deepcopy(self.theirs).bfloat16())

    def here(self, tokens: int, **keys: object) -> list[list[int]]:
        config = DecodingConfig.of({"max_new_tokens": tokens, **keys})
        return generate(self.ours, self.prompts, config, seeds=range(len(self.prompts)), eos=NEVER)

    def beside(self, tokens: int, **keys: Any) -> list[list[int]]:
        return by_transformers(self.theirs, self.prompts, tokens, **keys)

    def same(self, tokens: int, ours: Mapping[str, object], theirs: Mapping[str, object]) -> Callable[[], None]:
        """A check that both give the same tokens."""

        def check() -> None:
            if self.here(tokens, **ours) != self.beside(tokens, **theirs):
                raise differs(f"{ours}")

        return check


def comparisons(pair: Pair) -> Iterator[Comparison]:
    size, reach = pair.size, pair.reach
    texts = f"{len(pair.prompts)} prompts x"
    yield top_p(pair)
    yield Comparison(
        what=f"beam 5, {texts} {size.beam} tokens",
        peer=f"{PEER}, one batch",
        ours=lambda: pair.here(size.beam, strategy="beam"),
        theirs=lambda: pair.beside(size.beam, num_beams=5),
        reach=reach.get("beam"),
        check=pair.same(min(size.beam, 16), {"strategy": "beam"}, {"num_beams": 5}),
    )
    yield Comparison(
        what=f"top-p 0.9, {texts} {size.loop} tokens",
        peer=f"the course's loop: one prompt at a time, no cache (1 of {size.every} tokens timed)",
        ours=lambda: pair.here(size.loop),
        theirs=lambda: loop(pair.ours, pair.prompts, size.loop, size.every),
        part=len(range(0, size.loop, size.every)) / size.loop,
        reach=reach.get("loop"),
        check=lambda: check_loop(pair),
    )
    yield settings(pair, len(pair.prompts))
    yield settings(pair, 1)
    if pair.ours.wte.weight.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported():
        cast, kind = pair.cast(), " bfloat16"
        yield from (top_p(cast, kind), settings(cast, 1, kind))


def top_p(pair: Pair, kind: str = "") -> Comparison:
    """Nucleus sampling in one batch; the greedy tokens of both are compared first, but for rounded weights."""
    return Comparison(
        what=f"top-p 0.9, {len(pair.prompts)} prompts x {pair.size.tokens} tokens{kind}",
        peer=f"{PEER}, one batch{kind}",
        ours=lambda: pair.here(pair.size.tokens),
        theirs=lambda: pair.beside(pair.size.tokens, do_sample=True, top_p=0.9, top_k=0),
        reach=pair.reach.get("top-p"),
        check=None if kind else pair.same(16, {"strategy": "greedy"}, {}),
    )


def settings(pair: Pair, prompts: int, kind: str = "") -> Comparison:
    """Many decoding settings in one batch that computes each prompt once, beside a call for each setting."""
    size, first = pair.size, replace(pair, prompts=pair.prompts[:prompts])
    many = [{"temperature": 0.7 + 0.1 * (n % 4), "top_p": 0.8 + 0.05 * (n // 4)} for n in range(size.settings)]

    def at_once() -> list[list[int]]:
        configs = [DecodingConfig.of({"max_new_tokens": size.by_setting, **one}) for one in many]
        rows = [(prompt, config) for config in configs for prompt in first.prompts]
        texts, each = zip(*rows, strict=True)
        return generate(pair.ours, texts, each, seeds=range(len(rows)), eos=NEVER)

    return Comparison(
        what=f"{size.settings} settings x {prompts} prompt{'s' * (prompts > 1)} x {size.by_setting} tokens, one batch{kind}",
        peer=f"{PEER}, a call for each setting{kind}",
        ours=at_once,
        theirs=lambda: [first.beside(size.by_setting, do_sample=True, top_k=0, **one) for one in many],
        reach=pair.reach.get(f"settings{kind}"),
    )


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
    return found[:, width:].tolist()


@torch.inference_mode()
def next_token(model: GPT2, text: Sequence[int], top_p: float = 0.9) -> int:
    """Draw a token the plain way: run the whole text through the model, compute logits at each position, sort the vocabulary."""
    ids = torch.tensor([text], device=model.wte.weight.device)
    ordered, index = model.logits(model(ids))[:, -1].softmax(dim=-1).sort(dim=-1, descending=True)
    kept = ordered * (ordered.cumsum(dim=-1) - ordered < top_p)
    return int(index.gather(-1, kept.multinomial(1)))


def loop(model: GPT2, prompts: Sequence[list[int]], tokens: int, every: int) -> None:
    """Draw one in `every` tokens of each text as the course's loop does; other tokens of a text do not change the time."""
    for prompt in prompts:
        for place in range(every // 2, tokens, every):
            next_token(model, prompt + [0] * place)


def check_loop(pair: Pair) -> None:
    """A nucleus of one token makes the loop greedy: it must give what greedy decoding gives."""
    texts = list(pair.prompts)
    for _ in range(4):
        texts = [[*text, next_token(pair.ours, text, top_p=1e-9)] for text in texts]
    if [text[-4:] for text in texts] != pair.here(4, strategy="greedy"):
        raise differs("the loop without a cache")


if __name__ == "__main__":
    main()
