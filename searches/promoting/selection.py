"""Reads a stored search, which may still be running, and chooses the trial to promote."""

import math
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from pydantic import ValidationError

from gpt2core.component import nearest
from gpt2core.config import RunConfig
from gpt2core.data.origin import DataOrigin
from gpt2core.errors import DataError, UserError
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.metric import Metric
from gpt2core.model_folder import Format
from searches.places import search_folder
from searches.plan import metric_of_run
from searches.result_files import SUMMARY
from searches.running.ledger import RUNNING, State, Trial, read_search
from searches.summary import Summary, Verdict
from trainables.runs import run_of


@dataclass(frozen=True, kw_only=True)
class StoredSearch:
    """A search in storage. `summary` is the one of its last end, None if it never ended or went on since."""

    name: str
    storage: Path
    folder: Path
    state: State
    summary: Summary | None

    @property
    def metric(self) -> Metric:
        """The deciding metric; raises ConfigError if the task lacks it."""
        return metric_of_run(run_of(next(iter(self.state.trials.values())).run))

    @property
    def objective(self) -> str:
        """The name of the deciding metric."""
        return self.metric.name

    @property
    def direction(self) -> Direction:
        """The direction of the deciding metric."""
        return self.metric.direction

    @property
    def unfinished(self) -> int:
        """The number of trials that run, or ran when the search was interrupted."""
        return sum(trial.status == RUNNING for trial in self.state.trials.values())

    @property
    def answer(self) -> Verdict | None:
        """The answer; None if the search has not come to its end."""
        return self.summary.answer if self.summary else None

    @property
    def answer_text(self) -> str:
        """The answer in full, or that it is not known."""
        return self.answer.text if self.answer else "not known yet: the search has not come to its end"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The chosen trial, the reason, and whether the answer named it the winner."""

    trial: Trial
    why: str
    named: bool


def load_search(storage: str | None, name: str) -> StoredSearch:
    """Read the search `name`; raise UserError if it does not exist or has no trial."""
    folder = search_folder(storage, name)
    state, root = read_search(folder), folder.parent.parent
    return StoredSearch(name=name, storage=root, folder=folder, state=state, summary=_summary(folder, state))


def _summary(folder: Path, state: State) -> Summary | None:
    """Return the summary if it describes the ledger's trials."""
    try:
        summary = Summary.read(folder / SUMMARY)
    except PermissionError:
        raise  # the answer exists, so it must not be ignored
    except (OSError, DataError, ValidationError):
        return None
    known = {row.id: row.status for row in summary.trials}
    named = {summary.answer.winner, summary.answer.chosen} - {None}
    same = known == {trial.name: trial.status for trial in state.trials.values()} and named <= known.keys()
    return summary if same else None


def choose(search: StoredSearch, requested: str | None) -> Chosen:
    """Return the requested trial, else the winner, else the answer's choice, else the best; raise UserError without a score."""
    objective, trials, answer = search.objective, search.state.trials, search.answer
    winner = answer.winner if answer else None
    if requested is not None:
        if requested not in trials:
            raise UserError(
                f"There is no trial `{requested}` in the search {search.name}: {nearest(requested, trials)}"
            )
        trial = trials[requested]
        if trial.score(objective, search.direction) is None:
            reason = f": {trial.reason}" if trial.reason else ""
            raise UserError(
                f"The trial {requested} has no score, so it cannot be promoted; it is {trial.status}{reason}"
            )
        return Chosen(trial=trial, why="It was requested by its name", named=requested == winner)
    if winner is not None:
        return Chosen(trial=trials[winner], why="It is the winner", named=True)
    if answer and answer.chosen is not None:
        name = answer.chosen
        again = any(row.trial == name and row.mean is not None for row in answer.rows)
        what = f"mean {objective} on fresh seeds" if again else objective
        return Chosen(trial=trials[name], why=f"There is no winner; this trial has the best {what}", named=False)
    scores = [(trial.score(objective, search.direction), trial) for trial in trials.values() if trial.of is None]
    scored = [(score, trial) for score, trial in scores if score is not None]
    best = search.direction.best(scored, key=itemgetter(0))
    if best is None:
        reasons = "; ".join(sorted({trial.reason for trial in trials.values() if trial.reason}))
        raise UserError(f"No trial of {search.name} has a score: {reasons or 'none has ended an epoch'}")
    return Chosen(trial=best[1], why=f"There is no answer yet; this trial has the best {objective}", named=False)


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A promoted trial: its search, its configuration, and its exported epoch."""

    search: StoredSearch
    chosen: Chosen
    config: RunConfig
    format: Format
    epoch: int

    @property
    def trial(self) -> Trial:
        """The chosen trial."""
        return self.chosen.trial

    @property
    def name(self) -> str:
        """The default name of the registered model."""
        return f"gpt2-{self.config.task}-{self.search.name}"

    @property
    def metrics(self) -> dict[str, float]:
        """The finite metrics of the exported epoch."""
        measured = self.trial.reports[self.epoch].metrics
        return {name: value for name, value in measured.items() if math.isfinite(value)}

    @property
    def data(self) -> str:
        """The data in one line, without paths of the machine."""
        text = str(self.search.state.data.get("data", "not known"))
        for path in filter(None, (self.config.data_dir, self.config.pairs)):
            text = text.replace(path, Path(path).name)
        return text

    @property
    def origin(self) -> DataOrigin:
        """The origin of the data."""
        return self.search.state.origin or DataOrigin(source="not known")

    @property
    def digest(self) -> str:
        """SHA-256 of the data."""
        return str(self.search.state.data.get("digest", "not known"))
