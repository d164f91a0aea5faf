"""The losses of a student, compared with slow references."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch
from gpt2core.decoding.generate import generate
from gpt2core.distill.student import SAMPLED, contrastive_losses, divergences, own_texts, r_drop_losses, student_losses
from gpt2core.model import GPT2, IGNORE
from gpt2core.tasks import TASKS
from gpt2core.testing import toys

IDS = torch.tensor([[5, 17, 99, 4, 250, 1], [8, 3, 3, 77, 0, 0]])
BATCH = Batch(
    IDS, torch.tensor([6, 4]), torch.tensor([-1, -1]), torch.tensor([2, 1]), torch.tensor([1, 2, 3, 4, 6, 7, 8])
)


@torch.no_grad()
def slow(student: GPT2, teacher: GPT2, weight: float) -> list[float]:
    """Token by token: CE + weight * sum over the vocabulary of S log(S / P)."""
    found = []
    for row, (length, given) in enumerate(zip(BATCH.lengths.tolist(), BATCH.given.tolist(), strict=True)):
        total = 0.0
        for place in range(max(given, 1), length):
            context = IDS[row : row + 1, :place]
            s, p = (model.logits(model(context)[0, -1]).double().softmax(-1) for model in (student, teacher))
            total += -math.log(s[IDS[row, place]]) + weight * float((s * (s / p).log()).sum())
        found.append(total)
    return found


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_losses_equal_the_formula(weight: float) -> None:
    student, teacher = toys.model(1), toys.model(2)
    losses = student_losses(student, student(IDS), teacher, BATCH, weight)
    assert losses.tolist() == pytest.approx(slow(student, teacher, weight), rel=1e-5)


def test_divergences_are_those_of_the_losses() -> None:
    student, teacher = toys.model(1), toys.model(2)
    alone, both = (slow(student, teacher, weight) for weight in (0.0, 1.0))
    found = divergences(student, student(IDS), teacher, BATCH).tolist()
    assert found == pytest.approx([b - a for a, b in zip(alone, both, strict=True)], rel=1e-5)


def test_a_student_samples_its_own_texts_from_the_given_tokens() -> None:
    student, words = toys.model(1).train(), toys.tokenizer()
    own = own_texts(student, BATCH, words, seed=3)
    assert student.training
    assert own.given.tolist() == BATCH.given.tolist()
    for row, (length, given) in enumerate(zip(own.lengths.tolist(), BATCH.given.tolist(), strict=True)):
        assert own.input_ids[row, :given].tolist() == IDS[row, :given].tolist()
        assert given < length <= BATCH.lengths[row], "no longer than the text that it stands for"
        config = SAMPLED.model_copy(update={"max_new_tokens": int(BATCH.lengths[row]) - given})
        seed = int(np.random.SeedSequence((3, *IDS[row, :given].tolist())).generate_state(1)[0])
        (new,) = generate(student, [IDS[row, :given].tolist()], config, seeds=[seed], eos=words.stops)
        assert own.input_ids[row, given:length].tolist() == [*new, words.eos][: config.max_new_tokens]
    assert own_texts(toys.model(4), BATCH, words, seed=3).input_ids.tolist() != own.input_ids.tolist()


def test_training_on_own_texts_adds_their_divergence_to_the_cross_entropy() -> None:
    config = RunConfig(task="rewriting", kl_on="own", kl_weight=0.7, pairs="/pairs", seed=3)
    student, teacher, words = toys.model(1), toys.model(2), toys.tokenizer()
    loss = TASKS["rewriting"].training_loss(student, teacher, student(IDS), BATCH, words, config)
    own = own_texts(student, BATCH, words, seed=3)
    expected = student_losses(student, student(IDS), teacher, BATCH, 0.0).sum()
    expected = expected + 0.7 * divergences(student, student(own.input_ids), teacher, own).sum()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.wte.weight.grad is not None


def test_a_student_equal_to_its_teacher_has_no_divergence() -> None:
    model = toys.model(1)
    alone = model.losses(model(IDS), BATCH.next_tokens())
    torch.testing.assert_close(student_losses(model, model(IDS), toys.model(1), BATCH, 5.0), alone)


def test_prompts_and_padding_have_no_loss() -> None:
    labels = BATCH.next_tokens()
    assert (labels != IGNORE).int().tolist() == [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0]]


def test_the_teacher_gets_no_gradient_and_keeps_its_mode() -> None:
    student, teacher = toys.model(1), toys.model(2).train()
    student_losses(student, student(IDS), teacher, BATCH, 1.0).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.wte.weight.grad is not None
    assert teacher.training


def slow_contrast(hidden: Tensor, classes: list[int], temperature: float) -> list[float]:
    states = [row / row.norm() for row in hidden.double()]
    found = []
    for i, own in enumerate(classes):
        others = [j for j in range(len(classes)) if j != i]
        total = sum(math.exp(float(states[i] @ states[j]) / temperature) for j in others)
        alike = [j for j in others if classes[j] == own]
        terms = [-math.log(math.exp(float(states[i] @ states[j]) / temperature) / total) for j in alike]
        found.append(sum(terms) / len(terms) if terms else 0.0)
    return found


@pytest.mark.parametrize("classes", [[0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]])
def test_the_contrastive_loss_equals_the_formula(classes: list[int]) -> None:
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    losses = contrastive_losses(hidden, torch.tensor(classes), 0.3)
    assert losses.tolist() == pytest.approx(slow_contrast(hidden, classes, 0.3), rel=1e-4)


def test_the_contrastive_loss_of_one_text_is_zero_with_a_gradient() -> None:
    hidden = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses = contrastive_losses(hidden, torch.tensor([1]))
    losses.sum().backward()
    assert losses.tolist() == [0.0]
    assert hidden.grad.tolist() == [[0.0] * 8]


def test_the_divergence_of_two_passes_equals_the_formula() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    found = r_drop_losses(logits).tolist()
    for number, loss in enumerate(found):
        p, q = (logits[row].double().softmax(-1).tolist() for row in (number, number + 4))
        both = sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(p, q, strict=True))
        assert loss == pytest.approx(both / 2, rel=1e-4)
    assert r_drop_losses(torch.cat([logits, logits])).tolist() == pytest.approx([0.0] * 8)
