"""GPT-2 (Radford et al. 2019): pre-LN blocks, learned positions, tanh GELU, a head tied to the embeddings.

Legend: `B` batch, `T` tokens of this call, `S` tokens of cache and call, `C` channels, `H` heads, `D` = C / H channels of a head,
`V` vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import LinearCrossEntropyOptions, functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gpt2core.attention import Attend, kernels
from gpt2core.config import AttentionConfig, ModelConfig
from gpt2core.dropout import Dropout, start_block
from gpt2core.errors import ConfigError
from gpt2core.projection import Projection, linear

DENSE = AttentionConfig()
IGNORE = -100  # label of a position without loss
LOGITS = 256  # positions whose logits are in memory at once


class KVCache:
    """Preallocated keys and values (B, H, capacity, D) of all tokens so far for each block, and the segments of the tokens."""

    def __init__(self, model: "GPT2", batch: int, capacity: int) -> None:
        c = model.config
        weight = model.wte.weight
        if capacity > c.n_positions:
            raise ConfigError(f"The context has {capacity} tokens, but must have at most n_positions, {c.n_positions}")
        shape = (c.n_layer, 2, batch, c.n_head, capacity, c.n_embd // c.n_head)
        self.store = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self.segments = torch.zeros(batch, capacity, dtype=torch.long, device=weight.device)
        self.length = 0
        self.starts: Tensor | None = None  # (B, 1): where the last segment of each row starts, if there are several

    def remember(self, segments: Tensor | None, tokens: int) -> tuple[Tensor | None, Tensor]:
        """Store the segments (B, T) of a call; return those of all S tokens, and the positions (T,) or (B, T) of the call's.

        The segments are None if there is only one. Without segments, tokens continue the segment of the previous token.
        """
        past, end = self.length, self.length + tokens
        if segments is not None:
            self.segments[:, past:] = segments[:, -1:]
            self.segments[:, past:end] = segments
            every = self.segments[:, :end]
            if self.starts is not None or bool((every != every[:, :1]).any()):
                positions = _positions(tokens, every)
                self.starts = end - 1 - positions[:, -1:]
                return every, positions
        index = torch.arange(past, end, device=self.segments.device)
        return (None, index) if self.starts is None else (self.segments[:, :end], index - self.starts)

    def extend(self, block: int, keys_values: Tensor) -> Tensor:
        """Store the keys and values (2, B, H, T, D) of a call; return those of all S tokens, (2, B, H, S, D)."""
        end = self.length + keys_values.shape[-2]
        self.store[block, ..., self.length : end, :] = keys_values
        return self.store[block, ..., :end, :]

    def select(self, rows: Tensor, capacity: int) -> "KVCache":
        """Return a new cache of `capacity` tokens with copies of rows (B',) of this one, possibly repeated, in that order."""
        chosen = copy(self)
        n_layer, _, _, n_head, _, d = self.store.shape
        chosen.store = _empty((n_layer, 2, len(rows), n_head, capacity, d), self.store)
        for old, new in zip(self.store.flatten(0, 1), chosen.store.flatten(0, 1), strict=True):
            new[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
        chosen.segments = self.segments.new_zeros(len(rows), capacity)
        chosen.segments[:, : self.length] = self.segments[rows, : self.length]
        chosen.segments[:, self.length :] = chosen.segments[:, self.length - 1 : self.length]
        chosen.starts = None if self.starts is None else self.starts[rows]
        return chosen

    def keep(self, alive: Tensor) -> Tensor:
        """Remove the rows that are not `alive` (B,), in place; return the former numbers (B',) of the rows in their new order.

        The last rows replace the removed ones, so the cost depends on the number of removed rows, not on that of kept ones.
        """
        count = int(alive.sum())
        free, moved = (~alive[:count]).nonzero()[:, 0], count + alive[count:].nonzero()[:, 0]
        self.store[:, :, free, :, : self.length] = self.store[:, :, moved, :, : self.length]
        self.segments[free] = self.segments[moved]
        self.store, self.segments = self.store[:, :, :count], self.segments[:count]
        kept = torch.arange(count, device=alive.device)
        kept[free] = moved
        self.starts = None if self.starts is None else self.starts[kept]
        return kept

    def reorder(self, rows: Tensor, since: int) -> None:
        """Replace each row i by row `rows[i]`, where all tokens before `since` are equal in both."""
        tokens = self.store[..., since : self.length, :]
        tokens.copy_(tokens.index_select(2, rows))


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return an uninitialised tensor, on a CPU allocated by NumPy, which uses huge pages on Linux."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(math.prod(shape) * like.element_size(), np.uint8)).view(like.dtype).view(shape)


class Attention(nn.Module):
    """Multi-head self-attention with separate query, key and value projections, so that each can have its own adapter."""

    def __init__(self, config: ModelConfig, kernel: Attend, dropout: float) -> None:
        super().__init__()
        self.n_head, self.kernel, self.dropout = config.n_head, kernel, dropout
        self.query = Projection(config.n_embd, config.n_embd)
        self.key = Projection(config.n_embd, config.n_embd)
        self.value = Projection(config.n_embd, config.n_embd)
        self.dense = Projection(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, segments: Tensor | None, cache: KVCache | None, block: int) -> Tensor:
        projected = self._query_key_value(x)
        if cache is None:
            q, k, v = (self.split_heads(y) for y in projected)
        else:
            q, keys_values = self.split_heads(projected[0]), projected[1:]
            if not isinstance(keys_values, Tensor):
                keys_values = torch.stack(list(keys_values))
            k, v = cache.extend(block, self.split_heads(keys_values))
        return cast(Tensor, self.dense(self.attend(q, k, v, segments)))

    def _query_key_value(self, x: Tensor) -> Sequence[Tensor] | Tensor:
        """Return the queries, keys and values (3, B, T, C) of x (B, T, C)."""
        layers = (self.query, self.key, self.value)
        joined = getattr(self.query, "joined", None)  # other libraries' layers have none
        if joined is None:
            return [layer(x) for layer in layers]
        return layers[0].adapt_joined(layers, linear(x, *joined), x)

    @property
    def groups(self) -> list[list[Projection]]:
        """Groups of weights that can be joined, so that one product makes queries, keys and values."""
        parts = [layer.parts for layer in (self.query, self.key, self.value)]
        return [list(group) for group in zip(*parts, strict=True)] if len({len(p) for p in parts}) == 1 else []

    def forward_last_token(self, x: Tensor, segments: Tensor) -> Tensor:
        """Return only the output of the last token: (B, T, C), left-padded with tokens of another segment -> (B, 1, C)."""
        q, k, v = (self.split_heads(y) for y in (self.query(x[:, -1:]), self.key(x), self.value(x)))
        return cast(Tensor, self.dense(self.attend(q, k, v, segments)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, segments: Tensor | None) -> Tensor:
        """Return the concatenated heads: queries (B, H, T, D), keys and values (B, H, S, D) -> (B, T, C)."""
        out = self.kernel(q, k, v, segments, self.dropout if self.training else 0.0)
        return out.transpose(1, 2).flatten(2)

    def split_heads(self, x: Tensor) -> Tensor:
        """Reshape (..., T, C) to (..., H, T, D)."""
        return x.view(*x.shape[:-1], self.n_head, -1).transpose(-3, -2)


class Block(nn.Module):
    """A pre-LN transformer block."""

    def __init__(self, config: ModelConfig, kernel: Attend, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attention = Attention(config, kernel, dropout)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp_in = Projection(config.n_embd, 4 * config.n_embd)
        self.mlp_out = Projection(4 * config.n_embd, config.n_embd)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, segments: Tensor | None, cache: KVCache | None, block: int) -> Tensor:
        start_block(block)
        return self._mlp(x + self.drop(self.attention(self.ln_1(x), segments, cache, block)))

    def forward_last_token(self, x: Tensor, lengths: Tensor, block: int) -> Tensor:
        """Return only the output of each text's last real token: right-padded (B, T, C), lengths (B,) -> (B, C)."""
        start_block(block, from_end=True)
        x, segments = self.pad_left(x, lengths)
        return self._mlp(x[:, -1:] + self.drop(self.attention.forward_last_token(self.ln_1(x), segments)))[:, 0]

    @staticmethod
    def pad_left(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Move padding to the left, since queries are the last tokens of a kernel; return (B, T, C) and its segments (B, T)."""
        batch, t, _ = x.shape
        index = torch.arange(t, device=x.device) - (t - lengths[:, None])
        rows = torch.arange(batch, device=x.device)[:, None] * t
        return x.flatten(0, 1).index_select(0, (rows + index % t).flatten()).view_as(x), (index >= 0).long()

    def _mlp(self, x: Tensor) -> Tensor:
        # With the erf form, logits differ by 1e-3 from those of the released weights.
        hidden = functional.gelu(self.mlp_in(self.ln_2(x)), approximate="tanh")
        return cast(Tensor, x + self.drop(self.mlp_out(hidden)))


class TrunkInput(NamedTuple):
    """Input of the trunk: right-padded tokens (B, T) and, for several segments, their segments (B, T).

    With `lengths` (B,), only the hidden states of the last real tokens are computed. `cached_activations` are the output
    (B, T, C) of the blocks before `GPT2.first_trainable_block`, which are then skipped; (B, C) if no block trains and `lengths`
    are given.
    """

    input_ids: Tensor
    segments: Tensor | None = None
    lengths: Tensor | None = None
    cached_activations: Tensor | None = None


class GPT2(nn.Module):
    """GPT-2's trunk. `forward` returns hidden states; `logits` and `losses` apply the tied head to them."""

    def __init__(self, config: ModelConfig, *, attention: AttentionConfig = DENSE, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.attention = config, attention
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, kernel, dropout) for kernel in kernels(attention, config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.head: nn.Linear | None = None  # the classification head, if the task has one
        self.class_names: tuple[str, ...] = ()  # from the folder of the head, if it has names
        self.origin: str | None = None  # the digest of its first stage, see `weights.origin`
        self.first_trainable_block = 0  # the embeddings and all blocks before it are frozen; 0 if the embeddings train
        self.gradient_checkpointing = False
        self.models: nn.ModuleDict | None = None  # by task, in a run of several (`gpt2core.multitask`)
        self.packed_head: Tensor | None = None  # the tied head as `projection.packed_weights` packs it
        #: Hidden states and KV cache of the last prompts of a frozen model.
        self.prefixes: dict[tuple[tuple[int, ...], ...], tuple[Tensor, KVCache]] | None = None

    def forward(self, input_ids: Tensor, segments: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Return the last hidden states (B, T, C) of `input_ids` (B, T).

        Tokens attend only to their own segment, and positions count from its first token. An attention mask, 1 for real tokens
        and 0 for padding, is a valid `segments` (B, T). It is needed only for left padding or with a cache, since causal
        attention ignores right padding. Raises ConfigError if the context exceeds `n_positions`.
        """
        if cache is None:
            x = self.embed(input_ids, segments)
        else:
            self._check_context(cache.length + input_ids.shape[1])
            segments, positions = cache.remember(segments, input_ids.shape[1])
            x = self._embed_at(input_ids, positions)
        for number, block in enumerate(self.blocks):
            x = block(x, segments, cache, number)
        if cache is not None:
            cache.length += input_ids.shape[1]
        return cast(Tensor, self.ln_f(x))

    def embed(self, input_ids: Tensor, segments: Tensor | None) -> Tensor:
        """Return the embeddings (B, T, C) of tokens (B, T); raise ConfigError as `forward`."""
        tokens = input_ids.shape[1]
        self._check_context(tokens)
        if segments is None:
            return self._embed_at(input_ids, torch.arange(tokens, device=input_ids.device))
        return self._embed_at(input_ids, _positions(tokens, segments))

    def _embed_at(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        return cast(Tensor, self.drop(self.wte(input_ids) + self.wpe(positions)))

    def _check_context(self, tokens: int) -> None:
        most = self.config.n_positions
        if tokens > most:
            raise ConfigError(f"The context has {tokens} tokens, but must have at most n_positions, {most}")

    def run_trunk(self, inputs: TrunkInput) -> Tensor:
        """Return the last hidden states: (B, T, C), or (B, C) if `inputs` has `lengths`."""
        x, first = inputs.cached_activations, self.first_trainable_block
        if x is None:
            x, first = self.embed(inputs.input_ids, inputs.segments), 0
        x = self.run_blocks(x, inputs, first, len(self.blocks))
        start_block(len(self.blocks))  # the dropout layers of the head, whichever blocks were run
        return cast(Tensor, self.ln_f(x))

    def run_blocks(self, x: Tensor, inputs: TrunkInput, first: int, end: int) -> Tensor:
        """Run the blocks `first` to `end` - 1 on `x` (B, T, C); shapes as in `run_trunk`."""
        for number in range(first, end):
            block = cast(Block, self.blocks[number])
            if number + 1 == len(self.blocks) and inputs.lengths is not None:
                x = block.forward_last_token(x, inputs.lengths, number)
            elif self.gradient_checkpointing and self.training:
                x = cast(Tensor, checkpoint(block, x, inputs.segments, None, number, use_reentrant=False))
            else:
                x = block(x, inputs.segments, None, number)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the next-token logits (..., V) of hidden states (..., C)."""
        return linear(hidden, self.packed_head if self.packed_head is not None else self.wte.weight)

    def losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of next-token cross-entropies of each text, (B,) in nats, from hidden states (B, T, C).

        The label of position t is `labels[:, t + 1]`. Positions with label IGNORE have no loss and no logits.
        """
        scored = _scored(labels)
        kept, targets = select(hidden, labels, scored)
        pieces = zip(kept.split(LOGITS), targets.split(LOGITS), strict=True)
        losses = [functional.cross_entropy(upcast(self.logits(h)), t, reduction="none") for h, t in pieces]
        texts = scored // labels.shape[1]
        return kept.new_zeros(len(labels), dtype=losses[0].dtype).index_add(0, texts, torch.cat(losses))

    def loss(self, hidden: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
        """Return the sum of `losses`, for training. Logits and gradients of only LOGITS positions are in memory at once.

        `scored` (N,) has all positions with loss in the flattened (B, T), so that a GPU need not be waited for.
        """
        kept, targets = select(hidden, labels, scored)
        options = LinearCrossEntropyOptions(batch_chunk_size=LOGITS, acc_policy="auto")
        weight = self.wte.weight
        return functional.linear_cross_entropy(kept, weight, targets, reduction="sum", options=options)


@torch.no_grad()
def hidden_in_evaluation(model: GPT2, input_ids: Tensor, segments: Tensor | None = None) -> Tensor:
    """Return the last hidden states (B, T, C) without dropout and gradients, on the device of `input_ids`; the mode stays."""
    was_training = model.training
    hidden: Tensor = model.to(input_ids.device).train(False)(input_ids, segments)
    model.train(was_training)
    return hidden


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trainable_size(model: nn.Module) -> int:
    """Return how many numbers the trainable parameters have."""
    return sum(parameter.numel() for parameter in trainable_parameters(model).values())


def upcast(x: Tensor) -> Tensor:
    """Return a tensor in float32 or its own type, whichever is wider, for sums over many numbers."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _scored(labels: Tensor) -> Tensor:
    """Return the positions (N,) with loss in the flattened (B, T); the host waits for a GPU."""
    return functional.pad(labels[:, 1:] != IGNORE, (0, 1)).flatten().nonzero()[:, 0]


def select(hidden: Tensor, labels: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states (N, C) of positions `scored` (N,) and their targets (N,), the next tokens."""
    return hidden.flatten(0, 1).index_select(0, scored), labels.flatten().index_select(0, scored + 1)


def without_weights(config: ModelConfig, *, attention: AttentionConfig = DENSE, dropout: float = 0.0) -> GPT2:
    """Return a model on the meta device, whose parameters have shapes but no memory."""
    with torch.device("meta"), _SkipInit():
        return GPT2(config, attention=attention, dropout=dropout)


class _SkipInit(TorchFunctionMode):
    """Skip torch.nn.init, which would import torch's compiler on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def initialise(model: GPT2, seed: int) -> None:
    """Initialise `model` as GPT-2: N(0, 0.02), with residual projections scaled by 1 / sqrt(2 n_layer)."""
    generator = torch.Generator().manual_seed(seed)
    residual = 0.02 / (2 * model.config.n_layer) ** 0.5
    for name, parameter in model.named_parameters():
        if ".ln_" in name or name.startswith("ln_") or name.endswith(".bias"):
            nn.init.constant_(parameter, 0.0 if name.endswith(".bias") else 1.0)
        else:
            std = residual if name.endswith(("dense.weight", "mlp_out.weight")) else 0.02
            nn.init.normal_(parameter, std=std, generator=generator)


def _positions(t: int, segments: Tensor) -> Tensor:
    """Return the positions (B, T) of the last `t` tokens of segments (B, S), counted from the first token of their segment."""
    index = torch.arange(segments.shape[1], device=segments.device)
    starts = torch.where(segments[:, 1:] != segments[:, :-1], index[1:], 0)
    return (index - functional.pad(starts, (1, 0)).cummax(dim=-1).values)[:, -t:]
