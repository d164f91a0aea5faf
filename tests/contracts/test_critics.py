"""What every critic promises; a new entry of CRITICS needs a line in MODELS, and fails without."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt2core.distill.critics import CRITICS, Critic
from tests import critics

#: What each critic judges by: an empty folder -> the model's name or folder.
MODELS: dict[str, Callable[[Path], str | None]] = {
    "overlap": lambda _: None,
    "embedding": lambda _: None,
    "classifier": lambda path: str(critics.run_folder(path)),
    "nli": lambda path: str(critics.nli_folder(path)),
}
PREMISES = ["thy love is a rose", "time shall never dim", "death", "a summer", "nor time nor death can dim thy love"]
HYPOTHESES = ["a rose is thy love", "love shall never dim", "death", "can a rose dim", "thy love"]


def made(name: str, folder: Path) -> Critic:
    model = MODELS[name](folder)
    return CRITICS[name].of({} if model is None else {"critic_model": model})


@pytest.fixture(scope="module", params=sorted(CRITICS))
def critic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Critic:
    return made(request.param, tmp_path_factory.mktemp("critic"))


def test_every_critic_is_tested() -> None:
    assert sorted(MODELS) == sorted(CRITICS)


def test_scores_are_a_row_each_from_0_to_1(critic: Critic) -> None:
    scores = critic.entailment(PREMISES, HYPOTHESES)
    assert scores.shape == (5,)
    assert scores.dtype == np.float64
    assert ((scores >= 0) & (scores <= 1)).all()
    assert len(set(scores.round(4))) > 1


def test_batches_and_order_do_not_change_them(critic: Critic) -> None:
    together = critic.entailment(PREMISES, HYPOTHESES)
    alone = [critic.entailment([p], [h])[0] for p, h in zip(PREMISES, HYPOTHESES, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert critic.entailment(PREMISES[::-1], HYPOTHESES[::-1]) == pytest.approx(together[::-1], abs=1e-5)
    assert critic.entailment(PREMISES * 30, HYPOTHESES * 30) == pytest.approx(np.tile(together, 30), abs=1e-5)


def test_no_pairs_have_no_scores(critic: Critic) -> None:
    assert critic.entailment([], []).shape == (0,)


def test_the_same_pairs_have_the_same_scores_twice(critic: Critic) -> None:
    first, second = (critic.entailment(PREMISES, HYPOTHESES) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_premises_without_hypotheses_are_refused(critic: Critic) -> None:
    with pytest.raises(ValueError, match="zip"):
        critic.entailment(PREMISES, HYPOTHESES[:2])


def test_the_identity_is_of_words_that_json_takes(critic: Critic) -> None:
    identity = json.loads(json.dumps(dict(critic.identity)))
    assert CRITICS.keys() >= {identity["critic"]}
    assert all(isinstance(value, str) and value for value in identity.values())
    assert len(identity["digest"]) == 64
    assert isinstance(critic.stand_in, str)


def test_the_identity_is_the_same_again(critic: Critic, tmp_path: Path) -> None:
    name = critic.identity["critic"]
    again = made(name, tmp_path)
    # A run's configuration holds where its model is: another place may have another model.
    assert again.identity["digest"] == critic.identity["digest"] or name == "classifier"
