"""The contract of critics."""

import json

import numpy as np
import pytest

from gpt2core.distill.critics import CRITICS, Critic
from gpt2core.testing.contract import Contract, Settings

PREMISES = ["thy love is a rose", "time shall never dim", "death", "a summer", "nor time nor death can dim thy love"]
HYPOTHESES = ["a rose is thy love", "love shall never dim", "death", "can a rose dim", "thy love"]


def made(settings: Settings) -> Critic:
    """Return a critic by its name, `critic`, and the values of its keys."""
    return CRITICS[settings["critic"]].of({key: value for key, value in settings.items() if key != "critic"})


class CriticContract(Contract):
    """The contract of a critic. A case has the critic's name as `critic`, and the values of its keys."""

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, case: Settings) -> Settings:
        """The name of the critic and the values of its keys."""
        return case

    @pytest.fixture(scope="class")
    @classmethod
    def critic(cls, settings: Settings) -> Critic:
        """The critic of a case."""
        return made(settings)

    def test_scores_are_a_row_each_from_0_to_1(self, critic: Critic) -> None:
        scores = critic.entailment(PREMISES, HYPOTHESES)
        assert scores.shape == (5,)
        assert scores.dtype == np.float64
        assert ((scores >= 0) & (scores <= 1)).all()
        assert len(set(scores.round(4))) > 1

    def test_batches_and_order_do_not_change_them(self, critic: Critic) -> None:
        together = critic.entailment(PREMISES, HYPOTHESES)
        alone = [critic.entailment([p], [h])[0] for p, h in zip(PREMISES, HYPOTHESES, strict=True)]
        assert together == pytest.approx(alone, abs=1e-5)
        assert critic.entailment(PREMISES[::-1], HYPOTHESES[::-1]) == pytest.approx(together[::-1], abs=1e-5)
        assert critic.entailment(PREMISES * 30, HYPOTHESES * 30) == pytest.approx(np.tile(together, 30), abs=1e-5)

    def test_no_pairs_have_no_scores(self, critic: Critic) -> None:
        assert critic.entailment([], []).shape == (0,)

    def test_the_same_pairs_have_the_same_scores_twice(self, critic: Critic) -> None:
        first, second = (critic.entailment(PREMISES, HYPOTHESES) for _ in range(2))
        assert first.tolist() == second.tolist()

    def test_premises_without_hypotheses_are_refused(self, critic: Critic) -> None:
        with pytest.raises(ValueError, match="zip"):
            critic.entailment(PREMISES, HYPOTHESES[:2])

    def test_the_identity_is_of_words_that_json_takes(self, critic: Critic) -> None:
        identity = json.loads(json.dumps(dict(critic.identity)))
        assert CRITICS.keys() >= {identity["critic"]}
        assert all(isinstance(value, str) and value for value in identity.values())
        assert len(identity["digest"]) == 64
        assert isinstance(critic.stand_in, str)

    def test_its_identity_is_the_same_again(self, critic: Critic, settings: Settings) -> None:
        assert made(settings).identity == critic.identity
