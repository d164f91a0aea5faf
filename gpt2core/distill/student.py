"""What a student learns by: the divergence from the model that it was, and the contrast between classes.

Legend: `B` texts, `T` tokens, `C` channels, `V` vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from gpt2core.model import GPT2, IGNORE, upcast

CONTRAST_TEMPERATURE = 0.3  # that of Gunel et al.


def student_losses(
    model: GPT2, hidden: Tensor, teacher: GPT2, input_ids: Tensor, labels: Tensor, weight: float
) -> Tensor:
    """Return (B,) sums over tokens of CE(y | x) + weight * KL(student || teacher), in nats (Jung et al. 2023, section 3.3).

    `hidden` (B, T, C) is what the student `model` made of `input_ids` (B, T); `labels` are (B, T). Position t is scored
    against `labels[:, t + 1]`, and those of IGNORE (x, padding) carry no loss of either kind. The teacher is frozen: it gets
    no gradient, whatever its parameters say.
    """
    keep = labels[:, 1:] != IGNORE
    targets = labels[:, 1:][keep]
    student = upcast(model.logits(hidden[:, :-1][keep])).log_softmax(dim=-1)
    losses = functional.nll_loss(student, targets, reduction="none")
    if weight:
        losses = losses + weight * _divergence(student, _teacher_logits(teacher, input_ids, keep))
    return losses.new_zeros(len(input_ids)).index_add(0, keep.nonzero()[:, 0], losses)


@torch.no_grad()
def _teacher_logits(teacher: GPT2, input_ids: Tensor, keep: Tensor) -> Tensor:
    """Log-probabilities (N, V) of the teacher, without its dropout."""
    teacher = teacher.to(input_ids.device)
    was_training = teacher.training
    hidden = teacher.train(False)(input_ids)[:, :-1][keep]
    teacher.train(was_training)
    return upcast(teacher.logits(hidden)).log_softmax(dim=-1)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student || teacher) (N,) of log-probabilities (N, V)."""
    return (student.exp() * (student - teacher)).sum(dim=-1)


def contrastive_losses(hidden: Tensor, classes: Tensor, temperature: float = CONTRAST_TEMPERATURE) -> Tensor:
    """Return (B,) supervised contrastive losses of hidden states (B, C), in nats (Khosla et al. 2020, arXiv 2004.11362).

    Texts of one class are drawn together, others pushed apart, by the cosine of their states; as Gunel et al. 2021
    (arXiv 2011.01403) use it beside cross-entropy. A text that has no other of its class in the batch has none.
    """
    states = functional.normalize(upcast(hidden), dim=-1)
    itself = torch.eye(len(states), dtype=torch.bool, device=states.device)
    similarity = (states @ states.T / temperature).masked_fill(itself, -torch.inf)
    log_share = similarity.log_softmax(dim=-1)
    alike = (classes[:, None] == classes) & ~itself
    log_share_alike = log_share.masked_fill(~alike, 0.0).sum(dim=-1)
    return -log_share_alike / alike.sum(dim=-1).clamp(min=1)
