"""Losses of a student: cross-entropy with a KL penalty towards its teacher, a supervised contrastive loss, and R-Drop.

Legend: `B` texts, `T` tokens, `C` channels, `V` vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.config import DecodingConfig
from gpt2core.data.batches import Batch, collate
from gpt2core.data.tokens import Example, Tokens
from gpt2core.decoding.generate import generate, prompt_seed
from gpt2core.model import GPT2, hidden_in_evaluation, select, upcast
from gpt2core.tokenizer import Tokenizer

CONTRAST_TEMPERATURE = 0.3  # of Gunel et al. 2021
SAMPLED = DecodingConfig(strategy="top-p", top_p=1.0)  # from the student's own distribution


def student_losses(model: GPT2, hidden: Tensor, teacher: GPT2, batch: Batch, weight: float) -> Tensor:
    """Return (B,) sums over tokens of CE(y | x) + weight * KL(student || teacher), in nats (Jung et al. 2023, section 3.3).

    `hidden` (B, T, C) are the hidden states of the student `model` for the batch. Only the tokens y behind the given ones x have
    a loss. The teacher gets no gradient.
    """
    kept, targets = select(hidden, batch.next_tokens(), batch.predicted)
    student = upcast(model.logits(kept)).log_softmax(dim=-1)
    losses = functional.nll_loss(student, targets, reduction="none")
    if weight:
        losses = losses + weight * _divergence(student, teacher, batch)
    return _by_text(losses, batch)


def divergences(model: GPT2, hidden: Tensor, teacher: GPT2, batch: Batch) -> Tensor:
    """Return (B,) sums over tokens of KL(student || teacher), in nats, as in `student_losses`.

    With texts of the student itself (`own_texts`), this is on-policy distillation by the reverse KL (GKD: Agarwal et al. 2024,
    arXiv 2306.13649, with lambda = 1), without a gradient through the sampling.
    """
    kept, _ = select(hidden, batch.input_ids, batch.predicted)
    return _by_text(_divergence(upcast(model.logits(kept)).log_softmax(dim=-1), teacher, batch), batch)


def own_texts(model: GPT2, batch: Batch, tokenizer: Tokenizer, seed: int) -> Batch:
    """Return the given tokens of each text with a continuation that `model` samples now, as long as the text at most.

    On the meta device, which has no weights to sample with, the texts themselves stand for them.
    """
    device = batch.input_ids.device
    if device.type == "meta":
        return batch
    given, lengths = batch.given.tolist(), batch.lengths.tolist()
    prompts = [ids[:count] for ids, count in zip(batch.input_ids.tolist(), given, strict=True)]
    rooms = [max(1, length - count) for length, count in zip(lengths, given, strict=True)]
    seeds = [prompt_seed(seed, prompt) for prompt in prompts]
    decodings = [SAMPLED.model_copy(update={"max_new_tokens": room}) for room in rooms]
    new = generate(model, prompts, decodings, seeds=seeds, eos=tokenizer.stops)
    texts = [[*prompt, *[*ids, tokenizer.eos][:room]] for prompt, ids, room in zip(prompts, new, rooms, strict=True)]
    written = Tokens.of(Example("", "", text, given=count) for text, count in zip(texts, given, strict=True))
    return collate(written, range(len(texts)), device)


def _divergence(student: Tensor, teacher: GPT2, batch: Batch) -> Tensor:
    """Return KL(student || teacher) (N,) of the predicted tokens, from the student's log-probabilities (N, V)."""
    return (student.exp() * (student - _teacher_log_probabilities(teacher, batch))).sum(dim=-1)


def _by_text(losses: Tensor, batch: Batch) -> Tensor:
    """Return the sum (B,) of the losses (N,) of each text's predicted tokens."""
    texts = batch.predicted // batch.input_ids.shape[1]
    return losses.new_zeros(len(batch.input_ids)).index_add(0, texts, losses)


@torch.no_grad()
def _teacher_log_probabilities(teacher: GPT2, batch: Batch) -> Tensor:
    """Return the teacher's log-probabilities (N, V) of the predicted tokens, without dropout."""
    hidden = hidden_in_evaluation(teacher, batch.input_ids)
    kept, _ = select(hidden, batch.input_ids, batch.predicted)
    return upcast(teacher.logits(kept)).log_softmax(dim=-1)


def contrastive_losses(hidden: Tensor, classes: Tensor, temperature: float = CONTRAST_TEMPERATURE) -> Tensor:
    """Return (B,) supervised contrastive losses of hidden states (B, C), in nats (Khosla et al. 2020, arXiv 2004.11362).

    It pulls texts of one class together and pushes others apart, by the cosine of their states; Gunel et al. 2021 (arXiv
    2011.01403) add it to cross-entropy. The loss is 0 for the only text of its class in the batch.
    """
    states = functional.normalize(upcast(hidden), dim=-1)
    diagonal = torch.eye(len(states), dtype=torch.bool, device=states.device)
    similarity = (upcast(states @ states.T) / temperature).masked_fill(diagonal, -torch.inf)
    log_probabilities = similarity.log_softmax(dim=-1)
    same_class = (classes[:, None] == classes) & ~diagonal
    total = log_probabilities.masked_fill(~same_class, 0.0).sum(dim=-1)
    return -total / same_class.sum(dim=-1).clamp(min=1)


def r_drop_losses(logits: Tensor) -> Tensor:
    """Return (B,) divergences of two passes with different dropout, in nats (R-Drop: Liang et al. 2021, arXiv 2106.14448).

    That is (KL(p || q) + KL(q || p)) / 2 of the classes' probabilities p in the first pass and q in the second. `logits` (2B, K)
    are those of the first pass and then those of the second.
    """
    first, second = logits.log_softmax(dim=-1).chunk(2)
    return ((first.exp() - second.exp()) * (first - second)).sum(dim=-1) / 2
