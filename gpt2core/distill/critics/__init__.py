"""Critics estimate how surely one sentence entails another. To add a critic: a file with its class, a line in CRITICS.

A critic's keys are called `critic_NAME`; its class takes each as the argument NAME.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gpt2core.component import Component, Keys, Table, first_clause, key
from gpt2core.distill.critics.classifier import Classifier
from gpt2core.distill.critics.embedding import Embedding
from gpt2core.distill.critics.nli import Nli
from gpt2core.distill.critics.overlap import Overlap


class Critic(Protocol):
    """Scores entailment. `identity` holds what decides the scores: the critic's name, its model and the model's digest.

    `stand_in` says why the critic is only a stand-in for an entailment model; it is empty for a real one.
    """

    identity: Mapping[str, str]
    stand_in: str

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return scores (N,), 0 to 1, of how surely each premise entails its hypothesis; may raise if one cannot be scored."""
        ...


class ModelKeys(Keys):
    """Keys of critics that load a model."""

    critic_model: str | None = key(None, "the critic's model: a folder, or owner/name of the hub")


@dataclass(frozen=True, kw_only=True)
class CriticEntry(Component):
    """An entry of CRITICS: `make` returns the critic, or raises UserError."""

    make: Callable[..., Critic]

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return first_clause(self.make)

    def of(self, settings: Mapping[str, Any]) -> Critic:
        """Return the critic with these values of its keys; raise UserError, or ConfigError for a wrong key or value."""
        return self.make(**{name.removeprefix("critic_"): value for name, value in self.keys.of(settings)})


CRITICS: Table[CriticEntry] = Table(
    "critic",
    CriticEntry,
    {
        "overlap": CriticEntry(make=Overlap),
        "embedding": CriticEntry(make=Embedding, keys=ModelKeys),
        "classifier": CriticEntry(make=Classifier, keys=ModelKeys),
        "nli": CriticEntry(make=Nli, keys=ModelKeys),
    },
)
