"""Rows that are continued together: their prompts, each computed once, and their parameters.

Legend: `B` rows, `U` distinct prompts, `T` tokens of the longest prompt, `N` new tokens, `C` channels, `V` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.component import declared_keys
from gpt2core.config import DecodingConfig
from gpt2core.model import GPT2, KVCache


class Request(NamedTuple):
    """One row: a prompt and all that decides its continuation, of at most `limit` tokens."""

    prompt: tuple[int, ...]
    config: DecodingConfig
    seed: int
    limit: int


@dataclass(frozen=True)
class Batch:
    """The starting point of a search procedure. Its U prompts may be shared by rows; `source` (B,) is the prompt of each."""

    requests: list[Request]
    columns: dict[str, Tensor]  # the parameters of the rows, (B, 1) by key
    limits: Tensor  # (B,)
    tokens: Tensor  # (B, T + N): the prompts, padded on the left with V, and room for what is new, also V
    hidden: Tensor  # (B, T, C): last hidden states of the prompts
    source: Tensor
    prompts: KVCache

    @property
    def width(self) -> int:
        """T, where new tokens start."""
        return self.hidden.shape[1]

    @property
    def steps(self) -> int:
        """N, the largest number of new tokens of a row."""
        return self.tokens.shape[1] - self.width

    def cache(self, times: int = 1) -> KVCache:
        """A KV cache of the prompts of all rows, each repeated `times`, with room for N new tokens."""
        return self.prompts.select(self.source.repeat_interleave(times), self.tokens.shape[1])

    def subset(self, rows: Sequence[int]) -> "Batch":
        """The batch of some rows, with tensors of its own."""
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
    """The parameters of each row as columns (B, 1), and the state of adaptive strategies: tokens drawn and their surprise."""
    defaults = {name: keys.model_fields[name].default for name, keys in declared_keys("decoder").items()}
    numbers = [name for name, value in defaults.items() if isinstance(value, int | float)]
    rows = [defaults | dict(config) for config in configs]
    made = {name: torch.tensor([[row[name]] for row in rows], device=device) for name in numbers}
    return made | {key: torch.zeros(len(configs), 1, device=device) for key in ("drawn", "surprise")}


def _computed(model: GPT2, padded: Tensor) -> tuple[Tensor, KVCache]:
    """Last hidden states (U, T, C) and KV cache of prompts (U, T) that are padded with V."""
    real = padded < model.config.vocab_size
    cache = KVCache(model, *padded.shape)
    return model(padded.where(real, 0), real.long(), cache), cache


def prefill(model: GPT2, requests: Sequence[Request]) -> Batch:
    """Run the model over each distinct prompt once (a frozen model, once for consecutive calls); return the batch of all rows."""
    device = model.wte.weight.device
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(request.prompt for request in requests))}
    width, vocabulary = max(map(len, numbers)), model.config.vocab_size
    padded = torch.tensor([[vocabulary] * (width - len(prompt)) + list(prompt) for prompt in numbers], device=device)
    prompts = tuple(numbers)
    known = model.prefixes or {}
    hidden, cache = known[prompts] if prompts in known else _computed(model, padded)
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
