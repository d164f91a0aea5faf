"""Critics say how surely one sentence entails another. To add one: a file with its class, a line in CRITICS.

The keys of a critic are called `critic_NAME`; the class takes each as an argument NAME.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gpt2core.component import Component, Keys, Table, key
from gpt2core.distill.critics.classifier import Classifier
from gpt2core.distill.critics.embedding import Embedding
from gpt2core.distill.critics.nli import Nli
from gpt2core.distill.critics.overlap import Overlap


class Critic(Protocol):
    """A judge of entailment. `identity` names what decides its scores: the critic, its model and that model's digest.

    `stand_in` says in words why it is one for a real entailment model; it is empty for those that are.
    """

    identity: Mapping[str, str]
    stand_in: str

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return (N,) how surely, 0 to 1, each premise entails its hypothesis. A row that cannot be judged may raise."""
        ...


class ModelKeys(Keys):
    """Keys of critics that are models."""

    critic_model: str | None = key(None, "the critic's model: a folder, or owner/name of the hub")


@dataclass(frozen=True, kw_only=True)
class CriticEntry(Component):
    """An entry of CRITICS: `make` gives the critic, or raises UserError."""

    make: Callable[..., Critic]

    def of(self, settings: Mapping[str, Any]) -> Critic:
        """The critic with these values of its keys; raise UserError, ConfigError for a value that is wrong or of no key."""
        return self.make(**{name.removeprefix("critic_"): value for name, value in self.keys.of(settings)})


CRITICS: Table[CriticEntry] = Table(
    "critic",
    {
        "overlap": CriticEntry(make=Overlap),
        "embedding": CriticEntry(make=Embedding, keys=ModelKeys),
        "classifier": CriticEntry(make=Classifier, keys=ModelKeys),
        "nli": CriticEntry(make=Nli, keys=ModelKeys),
    },
)
