"""Direct preference optimisation (DPO): the texts of the corpus against those of the model that the run started from.

A pair is one example: the whole text, which ends with EOS, and then its given tokens with the model's own continuation. They are
two segments, so neither sees the other, and one pass computes both.

Legend: `B` pairs, `T` tokens, `C` channels.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.config import DecodingConfig, RunConfig
from gpt2core.data.batches import Batch
from gpt2core.data.tokens import Tokens
from gpt2core.decoding.generate import prompt_seed
from gpt2core.decoding.text_cache import generate_cached
from gpt2core.errors import ConfigError
from gpt2core.model import GPT2, TrunkInput, hidden_in_evaluation, select, upcast
from gpt2core.precision import for_generation
from gpt2core.tokenizer import Tokenizer

#: How the rejected texts are written: as in the study's best samples, whatever the run itself decodes with.
OWN = DecodingConfig(strategy="top-p", top_p=0.9, max_new_tokens=200)


def paired(tokens: Tokens, base: GPT2, tokenizer: Tokenizer, config: RunConfig) -> Tokens:
    """Return a pair for each text: the text, then its `given` tokens with their continuation by `base`.

    The continuation depends only on the weights of `base`, the given tokens and `config.seed`, and is cut where the context is
    full. Raises ConfigError for a text that leaves the context no room.
    """
    texts = [tokens[number].tolist() for number in range(len(tokens))]
    prompts = [text[:given] for text, given in zip(texts, tokens.given, strict=True)]
    rooms = [base.config.n_positions - len(text) - len(prompt) for text, prompt in zip(texts, prompts, strict=True)]
    if min(rooms) < 1:
        worst = int(np.argmin(rooms))
        raise ConfigError(
            f"The text {tokens.ids[worst]} has {len(texts[worst])} tokens, {len(prompts[worst])} of them given, but a pair must "
            f"fit into the model's n_positions, {base.config.n_positions}; use a shorter text, or `loss` likelihood"
        )
    rows = [(prompt, OWN, prompt_seed(config.seed, prompt)) for prompt in prompts]
    new = generate_cached(for_generation(base, config), rows, eos=tokenizer.stops, tokenizer=tokenizer)
    ended = [[*ids, tokenizer.eos][: OWN.max_new_tokens] for ids in new]  # a text that was cut has no end to learn from
    pairs = [
        [*text, *prompt, *ids[:room]] for text, prompt, ids, room in zip(texts, prompts, ended, rooms, strict=True)
    ]
    lengths = np.array([len(pair) for pair in pairs])
    values = np.concatenate(pairs).astype(np.int32)
    return replace(tokens, values=values, starts=lengths.cumsum() - lengths, lengths=lengths, activations=None)


def pair_input(batch: Batch, eos: int) -> TrunkInput:
    """Return pairs with their two segments."""
    return TrunkInput(batch.input_ids, _segments(batch, eos), cached_activations=batch.cached_activations)


def dpo_losses(model: GPT2, hidden: Tensor, base: GPT2, batch: Batch, eos: int, beta: float) -> Tensor:
    """Return (B,) losses -log sigmoid(beta * (m - m_base)) in nats (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    m is the log-likelihood of the first continuation of a pair minus that of the second under `model`, whose last hidden states
    are `hidden` (B, T, C), and m_base the same under `base`, which gets no gradient and has no dropout.
    """
    with torch.no_grad():
        hidden_of_base = hidden_in_evaluation(base, batch.input_ids, _segments(batch, eos))
        unmoved = margins(base, hidden_of_base, batch, eos)
    return -functional.logsigmoid(beta * (margins(model, hidden, batch, eos) - unmoved))


def margins(model: GPT2, hidden: Tensor, batch: Batch, eos: int) -> Tensor:
    """Return (B,): the log-likelihood of the first continuation minus that of the second, in nats; `hidden` is (B, T, C)."""
    kept, targets = select(hidden, batch.input_ids, batch.predicted)
    losses = functional.cross_entropy(upcast(model.logits(kept)), targets, reduction="none")
    signs = _signs(batch, eos).flatten().index_select(0, batch.predicted + 1)
    pairs = batch.predicted // batch.input_ids.shape[1]
    return losses.new_zeros(len(batch.input_ids)).index_add(0, pairs, losses * signs)


def _segments(batch: Batch, eos: int) -> Tensor:
    """Return (B, T): 0 for tokens up to the first EOS, 1 for those behind it up to the second, and 2 for padding behind that."""
    ends = (batch.input_ids == eos).long()
    return ends.cumsum(dim=-1) - ends  # EOS belongs to the text that it ends


def _signs(batch: Batch, eos: int) -> Tensor:
    """Return -1 for the tokens of the first continuation, 1 for those of the second, and 0 for the given ones, (B, T)."""
    second = _segments(batch, eos) > 0
    place = (
        torch.arange(second.shape[1], device=second.device) - second.logical_not().sum(dim=-1, keepdim=True) * second
    )
    return torch.where(second, 1.0, -1.0).where(place >= batch.given[:, None], 0.0)
