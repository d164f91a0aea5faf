"""Compare training with transformers and peft on the same weights, in time and memory: python -m tests.benchmarks.training.

Weights and tokens are random, lengths are those of SST and Quora's prompts. Losses and gradients are compared first, in float32
without dropout. A step is batch, forward and backward pass and fused AdamW. The peers run a bare loop without `Trainer`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import logging

from gpt2core.adapters.lora import lora_layers
from gpt2core.config import RunConfig
from gpt2core.data.batches import epoch_batches
from gpt2core.model import GPT2
from gpt2core.run import Run
from gpt2core.weights import save_model, to_hugging_face
from tests.benchmarks.attention import peak_bytes
from tests.benchmarks.compare import TURNS, Comparison, differs, show
from tests.benchmarks.shapes import SHAPES, lengths_of, random_model, random_texts

EXAMPLES = 4096  # of an epoch
BATCHES = {"17.5M": 4, "small": 2}  # of an epoch that are timed, from short ones to long ones
TOLERANCE = 1e-4  # of the largest gradient of a tensor
#: Times as fast as the peer, by whether a step trains LoRA and has dropout.
REACH = {(False, False): 1.05, (False, True): 1.3, (True, False): 1.2, (True, True): 1.25}

Step = Callable[[np.ndarray], None]


def main() -> None:
    logging.disable_progress_bar(), logging.set_verbosity_error()
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--turns", type=int, default=TURNS, help=f"of each side (default: {TURNS})")
    options.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    chosen = options.parse_args()
    for name in chosen.models:
        title = f"Training, {name} model, float32, {torch.get_num_threads()} threads"
        show(title, comparisons(name), chosen.turns)


def comparisons(name: str) -> Iterator[Comparison]:
    """The rows of one model: dropout is 0.1, but where 0 is said."""
    base = random_model(name)
    for task, batch_size in (("sst", 32), ("paraphrase", 16)):
        yield from epochs(name, base, RunConfig(task=task, batch_size=batch_size))
    for dropout in (0.0, 0.1):
        config = RunConfig(batch_size=8, dropout=dropout, lora_dropout=dropout)
        what = f"8 x 128 tokens, dropout {dropout:g}"
        pair = Pair(config, base, np.full(8, 128))
        yield same_tokens(f"step, {what}", "transformers, sdpa", pair)
        if name == "small":
            yield memory(f"memory of a step, {what}", pair)
        adapted = Pair(config.but(adapter="lora"), base, np.full(8, 128))
        yield same_tokens(f"LoRA step, {what}", "transformers, sdpa, and peft", adapted)


# -- the two ways


class Pair:
    """A run of the project, and a loop around transformers that starts at the same weights and trains on the same tokens."""

    def __init__(self, config: RunConfig, base: GPT2, lengths: np.ndarray) -> None:
        self.run = Run(config.but(precision="float32"), base, random_texts(lengths, base.config))
        self.tokens, self.classes = self.run.tokens, self.run.task.classes(config)
        self.padding = base.config.vocab_size - 1
        self.peer: Any = as_transformers(self.run.model if self.classes else base, config)
        if config.adapter == "lora":
            self.peer = with_peft(self.peer, config)
            make_alike(self.run.model, self.peer)
        trained = [p for p in self.peer.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.run.model.train()
        self.peer.train()

    def ours(self, batch: np.ndarray) -> None:
        self.run.step(0, batch)

    def theirs(self, batch: np.ndarray) -> None:
        self.their_loss(batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def their_loss(self, batch: np.ndarray) -> Tensor:
        """The mean loss of a batch that is padded to its longest text, with a mask where there is padding."""
        texts = [torch.from_numpy(self.tokens[i].astype(np.int64)) for i in batch]
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self.padding)
        if not self.classes:
            return self.peer(input_ids=ids, labels=ids, use_cache=False).loss  # type: ignore[no-any-return]
        labels = torch.from_numpy(self.tokens.labels[batch])
        mask = (ids != self.padding).long()
        return self.peer(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss  # type: ignore[no-any-return]

    def check(self) -> None:
        """Compare loss and gradients of one batch without dropout; raise SystemExit where they differ."""
        run, batch = self.run, np.arange(self.run.config.batch_size)
        run.model.train(False), self.peer.train(False)
        loss = run.forward(run.collate(batch)) / run.weight(batch)
        other = self.their_loss(batch)
        loss.backward(), other.backward()
        here, there = gradients(run.model), peers_gradients(self.peer)
        run.discard_gradients(), self.optimizer.zero_grad()
        run.model.train(), self.peer.train()
        if here.keys() != there.keys() or not close(loss.detach(), other.detach()):
            raise differs(f"loss {loss:.7f} and {other:.7f}")
        for name, gradient in here.items():
            if not close(gradient, there[name]):
                raise differs(f"gradient of {name}")


def close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) <= TOLERANCE * float(other.abs().max())


def gradients(model: GPT2) -> dict[str, Tensor]:
    """Gradients by the names that transformers has; of LoRA those of B, and the sum of those of A, in each block."""
    layers = dict(lora_layers(model))
    if not layers:
        return to_hugging_face({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    found = {}
    for block in range(len(model.blocks)):
        trio = [layers[f"blocks.{block}.attention.{part}"] for part in ("query", "key", "value")]
        found[f"{block} A"] = sum(layer.lora_A.weight.grad for layer in trio)
        found[f"{block} B"] = torch.cat([layer.lora_B.weight.grad for layer in trio])
    return found


def peers_gradients(peer: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    if any(".lora_" in name for name in found):
        parts = {name: name.split(".h.")[1].split(".") for name in found}
        return {f"{parts[name][0]} {parts[name][-3][-1]}": gradient for name, gradient in found.items()}
    head = "score.weight"
    return {n if n == head else f"transformer.{n.removeprefix('transformer.')}": g for n, g in found.items()}


def as_transformers(model: GPT2, config: RunConfig) -> Any:
    """The same weights in transformers, with the same dropout."""
    made = GPT2ForSequenceClassification if model.head is not None else GPT2LMHeadModel
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        return made.from_pretrained(folder, attn_implementation="sdpa", **rates)


def with_peft(peer: Any, config: RunConfig) -> Any:
    """A pair of the same rank at the projection that makes queries, keys and values at once."""
    keys: dict[str, Any] = {"lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    return get_peft_model(peer, LoraConfig(r=config.rank, target_modules=["c_attn"], fan_in_fan_out=True, **keys))


@torch.no_grad()
def make_alike(model: GPT2, peer: Any) -> None:
    """Let three pairs here do what one does there: the A of all three are its A, their B the thirds of its B."""
    layers = dict(lora_layers(model))
    for block, theirs in enumerate(peer.base_model.model.transformer.h):
        down, up = (getattr(theirs.attn.c_attn, part)["default"].weight for part in ("lora_A", "lora_B"))
        up.normal_(std=0.02)
        for part, third in zip(("query", "key", "value"), up.chunk(3), strict=True):
            layers[f"blocks.{block}.attention.{part}"].lora_A.weight.copy_(down)
            layers[f"blocks.{block}.attention.{part}"].lora_B.weight.copy_(third)


# -- rows


@dataclass(frozen=True)
class Epoch:
    """A way to train on some of the batches of an epoch: what it returns is seconds for each 1,000 tokens of texts."""

    step: Step
    lengths: np.ndarray
    batches: Sequence[np.ndarray]

    def __call__(self) -> float:
        started = time.perf_counter()
        for batch in self.batches:
            self.step(batch)
        tokens = sum(int(self.lengths[batch].sum()) for batch in self.batches)
        return 1000 * (time.perf_counter() - started) / tokens


def epochs(name: str, base: GPT2, config: RunConfig) -> Iterator[Comparison]:
    """An epoch of classification, beside random batches and beside those that `group_by_length` makes."""
    pair, size = Pair(config, base, lengths_of(config.task, EXAMPLES)), config.batch_size
    lengths = pair.tokens.lengths
    shuffled = np.random.default_rng(2).permutation(EXAMPLES)
    grouped = np.array(get_length_grouped_indices(lengths, size, generator=torch.Generator().manual_seed(2)))
    here = Epoch(pair.ours, lengths, spread(epoch_batches(lengths, size, seed=2, epoch=1), lengths, BATCHES[name]))
    like = {"sst": "SST", "paraphrase": "Quora"}[config.task]
    rows = ((shuffled, "random batches", 2.5, pair.check), (grouped, "group_by_length", 1.4, None))
    for order, peer, reach, check in (
        rows if name == "17.5M" else rows[:1]
    ):  # the second is checked no more: both trained
        beside = spread(np.split(order, EXAMPLES // size), lengths, BATCHES[name])
        yield Comparison(
            what=f"epoch like {like}, batches of {size}",
            peer=f"transformers, sdpa, {peer}",
            ours=here,
            theirs=Epoch(pair.theirs, lengths, beside),
            reach=reach,
            check=check,
            unit="s / 1,000 tokens",
        )


def spread(batches: Sequence[np.ndarray], lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` of the batches, evenly from those of the shortest texts to those of the longest."""
    ordered = sorted(batches, key=lambda batch: len(batch) * int(lengths[batch].max()))
    return [ordered[int((place + 0.5) / count * len(ordered))] for place in range(count)]


def same_tokens(what: str, peer: str, pair: Pair) -> Comparison:
    ours, theirs = (partial(way, np.arange(8)) for way in (pair.ours, pair.theirs))
    config = pair.run.config
    reach = REACH[config.adapter == "lora", config.dropout > 0]
    return Comparison(what=what, peer=peer, ours=ours, theirs=theirs, reach=reach, check=pair.check)


def memory(what: str, pair: Pair) -> Comparison:
    """The most that a step has allocated at once, beside weights and the optimizer's state."""
    batch = np.arange(8)
    return Comparison(
        what=what,
        peer="transformers, sdpa",
        ours=lambda: peak_bytes(lambda: pair.ours(batch)) / 2**20,
        theirs=lambda: peak_bytes(lambda: pair.theirs(batch)) / 2**20,
        reach=round(1 / (0.45 if pair.run.config.dropout else 0.50), 2),
        unit="MiB",
        varies=False,
    )


if __name__ == "__main__":
    main()
