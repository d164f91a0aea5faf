"""How the settings that a search finds are compared: by which metric, on which texts. Fixed by the plan, before anything runs."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpt2core.errors import ConfigError

if TYPE_CHECKING:
    from gpt2core.tasks import TaskData

On = Literal["dev", "test"]


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """What `--objective`, `--margin`, `--confirm each`, `--confirm-on` and `--folds` say; None is as the task has it.

    Trials are chosen by the search part of dev, or with `folds` by cross-validation over the training texts. What is found is
    judged on other texts: the rest of dev, folds of the training texts where dev is small, or the test split.
    """

    objective: str | None = None
    margin: float | None = None
    each: bool = False
    on: On = "dev"
    folds: int = 1

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise ConfigError(f"The value of `--margin` is {self.margin:g}, but must be > 0 and finite")

    @property
    def words(self) -> str:
        """On which texts settings are judged, before the data is known."""
        if self.on == "test":
            return "the test split, once"
        if self.folds > 1:
            return "the dev split, which chose nothing"
        return "the half of dev that the search does not see (of a small dev split: on folds of the training texts)"

    def of_trials(self) -> dict[str, Any]:
        """Values of the runs of all trials."""
        values: dict[str, Any] = {} if self.objective is None else {"objective": self.objective}
        if self.folds > 1:
            return {**values, "folds": self.folds, "scored_on": "folds"}
        return values if self.on == "test" else {**values, "dev_part": "search"}


AS_PLANNED = Comparing()


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The texts that judge what was found, none of which chose it: their number, and the values of a run that scores them."""

    on: Literal["dev", "folds", "test"]
    texts: int
    run: dict[str, Any]

    @property
    def cost(self) -> float:
        """What a run takes that scores them, in units of a run that does not: K folds are K trainings on K - 1 of K parts."""
        return max(1.0, float(self.run.get("folds", 1)) - 1.0)

    @property
    def words(self) -> str:
        """Which texts they are."""
        folds = self.run.get("folds", 1)
        of = {
            "dev": f"{self.texts} dev texts that the search did not see",
            "folds": f"{self.texts} training texts, each by a run that did not learn it ({folds} folds)",
            "test": f"the {self.texts} texts of the test split",
        }
        return of[self.on]


def judges_of(comparing: Comparing, data: "TaskData", folds: int) -> Judges:
    """Return which texts judge; raise ConfigError where there are none.

    Where the dev split is too small to be divided, they are the training texts, in so many `folds`.
    """
    size = {split: len(tokens) for split, tokens in data.splits.items()}
    if comparing.folds > 1 and comparing.folds > (different := len(set(data.splits["train"].digests))):
        raise ConfigError(
            f"The value of `--folds` is {comparing.folds}, but there are {different} different training texts to divide"
        )
    confirmation = len(data.confirmation_part())
    sizes = {"dev": size["dev"], "confirmation": confirmation, "train": size["train"], "test": size.get("test", 0)}
    return judges(comparing, folds, **sizes)


def judges(comparing: Comparing, folds: int, *, dev: int, confirmation: int, train: int, test: int) -> Judges:
    """As `judges_of`, from the sizes of the splits; `confirmation` is that of the part of dev that the search does not see."""
    if comparing.on == "test":
        if not test:
            raise ConfigError("The value of `--confirm-on` is test, but there is no test split that can be scored")
        return Judges(on="test", texts=test, run={})
    if comparing.folds > 1:
        return Judges(on="dev", texts=dev, run={"judged": True})
    if confirmation:
        return Judges(on="dev", texts=confirmation, run={"judged": True})
    folds = min(folds, train)
    if folds < 2:
        raise ConfigError(
            f"There are {dev} dev texts and {train} training texts: too few to judge on others than chose"
        )
    return Judges(on="folds", texts=train, run={"judged": True, "folds": folds})
