"""Critics say how surely one sentence entails another. To add one: a file with a function like `Make`, a line in CRITICS."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

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


#: A model's name or folder, or None for the default -> the critic. Raises UserError.
Make = Callable[[str | None], Critic]

CRITICS: dict[str, Make] = {
    "overlap": Overlap,
    "embedding": Embedding,
    "classifier": Classifier,
    "nli": Nli,
}
