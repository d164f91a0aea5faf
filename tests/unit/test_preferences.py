"""Direct preference optimisation: pairs, the loss against a slow reference, and training with it."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2core.config import RunConfig
from gpt2core.data.batches import collate
from gpt2core.data.tokens import Tokens
from gpt2core.decoding.generate import generate
from gpt2core.errors import ConfigError
from gpt2core.identity import identity
from gpt2core.model import GPT2
from gpt2core.preferences import OWN, dpo_losses, margins, pair_input, paired
from gpt2core.run import Run
from gpt2core.testing import toys
from gpt2core.training import train
from gpt2core.workers import ALONE, Workers
from tests.workers import two_workers

DPO = toys.RUN.but(loss="dpo", max_new_tokens=12)
GIVEN = 4
CPU = torch.device("cpu")


def pairs(config: RunConfig = DPO) -> Tokens:
    tokens = toys.data().splits["train"].take(np.arange(5))
    return paired(replace(tokens, given=np.full(5, GIVEN)), toys.model(), toys.tokenizer(), config)


@torch.no_grad()
def log_likelihood(model: GPT2, ids: list[int]) -> float:
    """The log-likelihood of the tokens behind the given ones, token by token."""
    total = 0.0
    for place in range(GIVEN, len(ids)):
        logits = model.logits(model(torch.tensor([ids[:place]]))[0, -1]).double()
        total += float(logits.log_softmax(dim=-1)[ids[place]])
    return total


def halves(pair: list[int]) -> tuple[list[int], list[int]]:
    first = pair.index(toys.tokenizer().eos) + 1
    return pair[:first], pair[first:]


def test_a_pair_is_the_text_and_what_the_model_itself_writes_behind_the_given_tokens() -> None:
    words, tokens = toys.tokenizer(), toys.data().splits["train"]
    for number, pair in enumerate(pairs()[i].tolist() for i in range(5)):
        gold, own = halves(pair)
        assert gold == tokens[number].tolist()
        prompt = gold[:GIVEN]
        room = toys.SHAPE.n_positions - len(gold) - GIVEN
        seed = int(np.random.SeedSequence((DPO.seed, *prompt)).generate_state(1)[0])
        (written,) = generate(toys.model(), [prompt], OWN, seeds=[seed], eos=words.stops)
        assert own == [*prompt, *[*written, words.eos][:room]]


def test_pairs_do_not_depend_on_the_other_texts_but_on_the_seed() -> None:
    every, tokens = pairs(), toys.data().splits["train"].take(np.array([3]))
    alone = paired(replace(tokens, given=np.full(1, GIVEN)), toys.model(), toys.tokenizer(), DPO)
    assert alone[0].tolist() == every[3].tolist()
    other = pairs(DPO.but(seed=1))
    assert any(other[i].tolist() != every[i].tolist() for i in range(5))


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_losses_equal_the_formula(beta: float) -> None:
    model, base, tokens = toys.model(1), toys.model(0), pairs()
    batch, eos = collate(tokens, range(5), CPU), toys.tokenizer().eos
    losses = dpo_losses(model, model.run_trunk(pair_input(batch, eos)), base, batch, eos, beta)
    for number, loss in enumerate(losses.tolist()):
        gold, own = halves(tokens[number].tolist())
        (of_model, of_base) = (log_likelihood(m, gold) - log_likelihood(m, own) for m in (model, base))
        assert loss == pytest.approx(math.log1p(math.exp(-beta * (of_model - of_base))), rel=1e-4)


def test_the_starting_model_has_the_loss_of_guessing_and_gets_no_gradient() -> None:
    model, base = toys.model(0), toys.model(0).train()
    batch, eos = collate(pairs(), range(5), CPU), toys.tokenizer().eos
    losses = dpo_losses(model, model.run_trunk(pair_input(batch, eos)), base, batch, eos, 0.5)
    assert losses.tolist() == pytest.approx([math.log(2)] * 5, abs=1e-6)
    losses.sum().backward()
    assert base.wte.weight.grad is None
    assert base.training, "its mode is as before"
    gradient = model.wte.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@torch.no_grad()
def test_margins_do_not_depend_on_padding() -> None:
    model, tokens, eos = toys.model(1), pairs(), toys.tokenizer().eos
    together = collate(tokens, range(5), CPU)
    joint = margins(model, model.run_trunk(pair_input(together, eos)), together, eos)
    for number in range(5):
        batch = collate(tokens, [number], CPU)
        alone = margins(model, model.run_trunk(pair_input(batch, eos)), batch, eos)
        torch.testing.assert_close(alone[0], joint[number], rtol=1e-5, atol=1e-4)


def test_a_text_that_leaves_no_room_is_an_error() -> None:
    tokens = toys.data().splits["train"].take(np.array([0]))
    short = toys.model(shape=toys.SHAPE.model_copy(update={"n_positions": int(tokens.lengths[0]) + GIVEN}))
    with pytest.raises(ConfigError, match="but a pair must fit into the model's n_positions"):
        paired(replace(tokens, given=np.full(1, GIVEN)), short, toys.tokenizer(), DPO)


def losses(config: RunConfig, folder: Path | None = None, workers: Workers = ALONE, epochs: int = 99) -> list[float]:
    reports = itertools.islice(train(config, toys.model(), toys.data(), folder=folder, workers=workers), epochs)
    return [report.metrics["train_loss"] for report in reports]


@pytest.mark.parametrize("adapter", ["full", "lora", "freeze"])
def test_training_prefers_the_texts_and_resumes_to_the_same_losses(adapter: str, tmp_path: Path) -> None:
    config = DPO.but(adapter=adapter, lr=3e-3, dropout=0.0)
    whole = losses(config)
    assert whole[-1] < whole[0] < math.log(2) + 0.1
    assert losses(config, tmp_path, epochs=1) == whole[:1]
    assert losses(config, tmp_path) == whole


def _two(workers: Workers) -> list[float]:
    return losses(DPO.but(batch_size=8, accumulation=2), workers=workers)


def test_two_workers_compute_the_losses_of_one(tmp_path: Path) -> None:
    alone = losses(DPO.but(batch_size=8, accumulation=4))
    for spread in two_workers(tmp_path, _two):
        assert spread == pytest.approx(alone, rel=1e-4)


def test_only_dpo_has_a_beta_and_reports_no_perplexity_of_its_loss() -> None:
    assert "dpo_beta" not in identity(toys.RUN.but(dpo_beta=0.3))
    assert identity(DPO.but(dpo_beta=0.3))["dpo_beta"] == 0.3
    assert identity(toys.RUN) == identity(toys.RUN.but(loss="likelihood"))
    (report,) = train(DPO.but(epochs=1), toys.model(), toys.data())
    assert "train_perplexity" not in report.metrics
    assert Run(DPO, toys.model(), toys.data()).weight(np.arange(4)) == 4, "a pair counts once"
