"""The terms of a comparison, fixed by the plan before any trial: metric, margin, and the texts that judge."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gpt2core.errors import ConfigError

if TYPE_CHECKING:
    from gpt2core.tasks import TaskData

On = Literal["dev", "test", "program"]
PROGRAMS = "the data that the program evaluates on"


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """The flags `--objective`, `--margin`, `--confirm each`, `--confirm-on` and `--folds`; None stands for the task's own value.

    Trials are chosen on the search part of dev, or with `folds` by cross-validation over the training texts. Finalists are judged
    on other texts: the rest of dev, folds of the training texts if dev is small, or the test split.
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
        """The texts that judge, described before the data is read."""
        if self.on == "test":
            return "the test split, once"
        if self.on == "program":
            return PROGRAMS
        if self.folds > 1:
            return "the dev split, which chooses nothing"
        return "the half of dev that the search does not use (if dev is small: folds of the training texts)"

    def of_trials(self) -> dict[str, Any]:
        """Return the configuration values that all trials share."""
        values: dict[str, Any] = {} if self.objective is None else {"objective": self.objective}
        if self.folds > 1:
            return {**values, "folds": self.folds, "scored_on": "folds"}
        return values if self.on == "test" else {**values, "dev_part": "search"}


AS_PLANNED = Comparing()


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The texts that judge finalists, none of which chose them, and the configuration values of a run that scores them."""

    on: Literal["dev", "folds", "test", "program"]
    texts: int
    run: dict[str, Any]
    scored: int | None = None  # the number of texts, if fewer than all of the folds

    def cost(self, train_examples: int | None) -> float:
        """Return the cost of a judged run relative to a trial on as many examples (None: all).

        K folds are K trainings, each on as many examples, but on at most K - 1 of K parts.
        """
        folds = int(self.run.get("folds", 1))
        if folds == 1:
            return 1.0
        of_trial = min(train_examples or self.texts, self.texts)
        return max(1.0, folds * min(of_trial, self.texts * (folds - 1) / folds) / of_trial)

    @property
    def words(self) -> str:
        """The texts in words."""
        if self.on == "program":
            return PROGRAMS
        if self.on == "dev":
            return f"{self.texts} dev texts that the search did not use"
        if self.on == "test":
            return f"the {self.texts} texts of the test split"
        part = "" if self.scored is None else f"a sample of {self.scored} of "
        return f"{part}{self.texts} training texts, each scored by a run not trained on it ({self.run['folds']} folds)"


def judges_of(comparing: Comparing, data: "TaskData", folds: int, dev_examples: int | None) -> Judges:
    """Return the texts that judge; raise ConfigError if there are none.

    If the dev split is too small to divide, they are the training texts, in `folds` folds, or `dev_examples` of each fold.
    """
    dev, train, test = (len(data.splits.get(split, ())) for split in ("dev", "train", "test"))
    if comparing.folds > 1 and comparing.folds > (different := len(set(data.splits["train"].digests))):
        raise ConfigError(
            f"The value of `--folds` is {comparing.folds}, but there are {different} different training texts to divide"
        )
    if comparing.on == "test":
        if not test:
            raise ConfigError("The value of `--confirm-on` is test, but there is no test split that can be scored")
        return Judges(on="test", texts=test, run={})
    texts = dev if comparing.folds > 1 else len(data.confirmation_part())
    if texts or comparing.folds > 1:
        return Judges(on="dev", texts=texts, run={"judged": True})
    folds = min(folds, train)
    if folds < 2:
        raise ConfigError(
            f"There are {dev} dev texts and {train} training texts: too few to judge on other texts than those that chose"
        )
    scored = sum(data.fold_sizes(folds, dev_examples))
    run = {"judged": True, "folds": folds}
    return Judges(on="folds", texts=train, run=run, scored=scored if scored < train else None)
