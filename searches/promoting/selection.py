"""A search that is there, read without holding it up: it may have ended, been interrupted, or still be running."""

import math
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from pydantic import ValidationError

from gpt2core.component import nearest
from gpt2core.config import RunConfig
from gpt2core.data.origin import DataOrigin
from gpt2core.errors import DataError, UserError
from gpt2core.files import read_json
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.metric import Metric
from gpt2core.model_folder import Format
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import objective_of
from searches.options import search_folder
from searches.running.ledger import RUNNING, State, Trial, read_search
from searches.summary import Summary, Verdict


@dataclass(frozen=True, kw_only=True)
class StoredSearch:
    """A search's results. `summary` is that of its last end, None where it was never ended or has gone on since."""

    name: str
    storage: Path
    folder: Path
    state: State
    summary: Summary | None

    @property
    def task(self) -> str:
        """The task that all trials have."""
        return str(next(iter(self.state.trials.values())).run["task"])

    @property
    def metric(self) -> Metric:
        """The metric that decides; raise ConfigError for one that the task has not."""
        first = next(iter(self.state.trials.values()))
        return objective_of(TASKS[self.task], RunConfig.of(first.run))

    @property
    def objective(self) -> str:
        """The name of the metric that decides."""
        return self.metric.name

    @property
    def direction(self) -> Direction:
        """Whether the objective is to be large or small."""
        return self.metric.direction

    @property
    def unfinished(self) -> int:
        """How many trials are running, or were when the search was interrupted."""
        return sum(trial.status == RUNNING for trial in self.state.trials.values())

    @property
    def answer(self) -> Verdict | None:
        """The answer; None where the search has not come to its end."""
        return self.summary.answer if self.summary else None

    @property
    def answer_text(self) -> str:
        """The answer in full."""
        return self.answer.text if self.answer else "not known yet: the search has not come to its end"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A trial, why it is this one, and whether the answer names it as the winner."""

    trial: Trial
    why: str
    named: bool


def load_search(storage: str | None, name: str) -> StoredSearch:
    """Read the search `name`; raise UserError where there is none, or where it has no trial."""
    folder = search_folder(storage, name)
    state = read_search(folder)
    return StoredSearch(
        name=name, storage=folder.parent.parent, folder=folder, state=state, summary=_summary(folder, state)
    )


def _summary(folder: Path, state: State) -> Summary | None:
    """The summary, if it is of the trials that the ledger has."""
    try:
        summary = Summary.model_validate(read_json(folder / "summary.json"))
    except PermissionError:
        raise  # it has an answer
    except (OSError, DataError, ValidationError):
        return None
    known = {row.id: row.status for row in summary.trials}
    named = {summary.answer.winner, summary.answer.chosen} - {None}
    same = known == {trial.name: trial.status for trial in state.trials.values()} and named <= known.keys()
    return summary if same else None


def choose(found: StoredSearch, asked: str | None) -> Chosen:
    """Return the trial that was asked for, else the winner, else the one that the answer chose; raise UserError."""
    objective, trials = found.objective, found.state.trials
    answer = found.answer
    winner = answer.winner if answer else None
    if asked is not None:
        if asked not in trials:
            raise UserError(f"There is no trial `{asked}` in the search {found.name}: {nearest(asked, trials)}")
        trial = trials[asked]
        if trial.score(objective, found.direction) is None:
            reason = f": {trial.reason}" if trial.reason else ""
            raise UserError(
                f"The trial {asked} has no score, so there is nothing to promote; it is {trial.status}{reason}"
            )
        return Chosen(trial=trial, why="It was asked for by its name", named=asked == winner)
    if winner is not None:
        return Chosen(trial=trials[winner], why="It is the winner", named=True)
    if answer and answer.chosen is not None:
        name = answer.chosen
        again = any(row.trial == name and row.mean is not None for row in answer.rows)
        what = f"mean {objective} on fresh seeds" if again else objective
        return Chosen(trial=trials[name], why=f"There is no winner; this trial has the best {what}", named=False)
    scores = [(trial.score(objective, found.direction), trial) for trial in trials.values() if trial.of is None]
    scored = [(score, trial) for score, trial in scores if score is not None]
    best = found.direction.best(scored, key=itemgetter(0))
    if best is None:
        reasons = sorted({trial.reason for trial in trials.values() if trial.reason})
        raise UserError(f"No trial of {found.name} has a score: {'; '.join(reasons) or 'none has ended an epoch'}")
    return Chosen(trial=best[1], why=f"There is no answer yet; this trial has the best {objective}", named=False)


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """All that is told of a promoted trial: where it is from, how it was configured, and what its exported epoch reported."""

    found: StoredSearch
    chosen: Chosen
    config: RunConfig
    format: Format
    epoch: int

    @property
    def trial(self) -> Trial:
        """The trial."""
        return self.chosen.trial

    @property
    def name(self) -> str:
        """What the model is called, unless a name is given."""
        return f"gpt2-{self.config.task}-{self.found.name}"

    @property
    def metrics(self) -> dict[str, float]:
        """What the exported epoch measured, where it is a number."""
        measured = self.trial.reports[self.epoch].metrics
        return {name: value for name, value in measured.items() if math.isfinite(value)}

    @property
    def data(self) -> str:
        """The data in one line, without the places of the machine."""
        text = str(self.found.state.data.get("data", "not known"))
        for place in filter(None, (self.config.data_dir, self.config.pairs)):
            text = text.replace(place, Path(place).name)
        return text

    @property
    def origin(self) -> DataOrigin:
        """Where the data is from."""
        return self.found.state.origin or DataOrigin(source="not known")

    @property
    def digest(self) -> str:
        """SHA-256 of the data."""
        return str(self.found.state.data.get("digest", "not known"))
