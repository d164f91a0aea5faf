"""Rows that are decoded together: their parameters, and their prompts, each of which is run through the model once.

Legend: `B` rows, `U` distinct prompts, `T` tokens of the longest prompt, `N` new tokens, `C` channels, `V` vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.component import declared_keys
from gpt2core.config import DecodingConfig
from gpt2core.model import GPT2, KVCache

LOOK = 8  # tokens from one look at which rows are finished to the next, for which the host waits; on a CPU 1

K = TypeVar("K")
T = TypeVar("T")


class Request(NamedTuple):
    """One row: a prompt and everything that determines its continuation of at most `limit` tokens."""

    prompt: tuple[int, ...]
    config: DecodingConfig
    seed: int
    limit: int


@dataclass(frozen=True)
class Batch:
    """The starting point of decoding. Rows may share prompts."""

    requests: list[Request]
    columns: dict[str, Tensor]  # the parameters of the rows, (B, 1) by key
    limits: Tensor  # (B,): the largest number of new tokens
    tokens: Tensor  # (B, T + N): the prompts, left-padded with V, then N times V for the new tokens
    hidden: Tensor  # (B, T, C): last hidden states of the prompts
    source: Tensor  # (B,): the prompt of each row in `prompts`
    prompts: KVCache  # of the U distinct prompts

    @property
    def width(self) -> int:
        """T, the position of the first new token."""
        return self.hidden.shape[1]

    @property
    def steps(self) -> int:
        """N, the largest number of new tokens of any row."""
        return self.tokens.shape[1] - self.width

    def cache(self, times: int = 1) -> KVCache:
        """Return a KV cache of the prompts of all rows, each repeated `times`, with room for N new tokens."""
        return self.prompts.select(self.source.repeat_interleave(times), self.tokens.shape[1])

    def subset(self, rows: Sequence[int]) -> "Batch":
        """Return a batch of some rows, with its own tensors."""
        index = torch.tensor(rows, device=self.tokens.device)
        limits = self.limits[index]
        return replace(
            self,
            requests=[self.requests[row] for row in rows],
            columns={key: column[index] for key, column in self.columns.items()},
            limits=limits,
            tokens=self.tokens[index, : self.width + int(limits.max())],
            hidden=self.hidden[index],
            source=self.source[index],
        )


def columns(configs: Sequence[DecodingConfig], device: torch.device | None = None) -> dict[str, Tensor]:
    """Return the numeric parameters of the rows, (B, 1) by key, and mirostat's state: tokens drawn and their total surprise."""
    defaults = {name: keys.model_fields[name].default for name, keys in declared_keys("decoder").items()}
    numbers = [name for name, value in defaults.items() if isinstance(value, int | float)]
    rows = [defaults | dict(config) for config in configs]
    parameters = {name: torch.tensor([[row[name]] for row in rows], device=device) for name in numbers}
    return parameters | {key: torch.zeros(len(configs), 1, device=device) for key in ("drawn", "surprise")}


def looks(device: torch.device) -> int:
    """Return how many tokens are generated from one look at which rows are finished to the next."""
    return 1 if device.type == "cpu" else LOOK


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return the items by key, in order of first occurrence."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def prefill(model: GPT2, requests: Sequence[Request]) -> Batch:
    """Run the model over each distinct prompt, unless a frozen model did so in its last call; return the batch of all rows."""
    device = model.wte.weight.device
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(request.prompt for request in requests))}
    width, vocabulary = max(map(len, numbers)), model.config.vocab_size
    padded = torch.tensor([[vocabulary] * (width - len(prompt)) + list(prompt) for prompt in numbers], device=device)
    prompts = tuple(numbers)
    if model.prefixes and prompts in model.prefixes:
        hidden, cache = model.prefixes[prompts]
    else:
        real, cache = padded < vocabulary, KVCache(model, *padded.shape)
        hidden = model(padded.where(real, 0), real.long(), cache)
    if model.prefixes is not None:
        model.prefixes = {prompts: (hidden, cache)}
    source = torch.tensor([numbers[request.prompt] for request in requests], device=device)
    limits = torch.tensor([request.limit for request in requests], device=device)
    return Batch(
        requests=list(requests),
        columns=columns([request.config for request in requests], device),
        limits=limits,
        tokens=functional.pad(padded[source], (0, int(limits.max())), value=vocabulary),
        hidden=hidden[source],
        source=source,
        prompts=cache,
    )
