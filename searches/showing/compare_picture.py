"""The picture of `compare`: the best score so far and the learning curves of two searches, overlaid."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gpt2core.errors import ConfigError, UserError
from gpt2core.naming import words
from searches.deciding.objectives import feasible
from searches.plan import Plan
from searches.running.budget import HOUR
from searches.running.events import Ended, Event
from searches.running.ledger import State, Trial
from searches.showing.plots import save_figure, svg_of
from searches.showing.theme import LOOKS

WIDTH, HEIGHT = 11.0, 8.0  # inches
FORMATS = (".svg", ".png", ".pdf")
NOTE = "Best so far: by the single run of each trial. Only runs on fresh seeds compare the searches."


@dataclass
class BestSoFar:
    """Ledger listener that notes the best score whenever a trial of the search ends, and what was spent by then."""

    plan: Plan
    trials: list[int] = field(default_factory=list)  # ended trials, like the next three one entry for each
    hours: list[float] = field(default_factory=list)
    gpu_hours: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    ended: int = 0

    def __call__(self, event: Event, state: State) -> None:
        """Take in an event of the ledger."""
        if not isinstance(event, Ended) or state.trials[event.trial].of is not None:
            return
        self.ended += 1
        trial, direction = state.trials[event.trial], self.plan.direction
        score = trial.score(self.plan.objective, direction)
        scores = [*self.best[-1:], *([score] if score is not None and feasible(trial, self.plan) else [])]
        best = direction.best(scores, key=float)
        if best is not None:
            self.trials.append(self.ended)
            self.hours.append(state.clock.wall / HOUR)
            self.gpu_hours.append(state.clock.gpu / HOUR)
            self.best.append(best)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A search in the picture: its name, its best scores, and its chosen trial."""

    name: str
    course: BestSoFar
    trial: Trial


def check_plot(path: str | None) -> None:
    """Raise ConfigError unless `--plot` names a file of a known format."""
    if path is not None and Path(path).suffix.lower() not in FORMATS:
        raise ConfigError(f"The value of `--plot` is {path!r}, but must end in {', '.join(FORMATS)}")


def draw_comparison(lines: Sequence[Line], objective: str, path: Path) -> None:
    """Write the picture; its format is that of the suffix. Raises UserError if it cannot be written."""
    try:
        save_figure(path, partial(_draw, lines, objective), width=WIDTH, height=HEIGHT)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --plot") from None


def comparison_svg(lines: Sequence[Line], objective: str) -> str:
    """Return the picture as SVG for a page."""
    return svg_of(partial(_draw, lines, objective), width=WIDTH, height=HEIGHT, name="compare")


def _draw(lines: Sequence[Line], objective: str, figure: Any) -> None:
    on_gpus = all(line.course.gpu_hours and line.course.gpu_hours[-1] > 0 for line in lines)
    best = f"best {words(objective)} so far"
    ((by_trials, by_cost), (by_epoch, loss)) = figure.subplots(2, 2)
    for line, (color, marker, dash) in zip(lines, LOOKS, strict=False):
        look = {"color": color, "ls": dash, "label": line.name}
        spent = line.course.gpu_hours if on_gpus else line.course.hours
        by_trials.step(line.course.trials, line.course.best, where="post", marker=marker, ms=4, **look)
        by_cost.step(spent, line.course.best, where="post", marker=marker, ms=4, **look)
        look["label"] = f"{line.name}, trial {line.trial.name}"
        _draw_metric(by_epoch, line.trial, objective, marker=marker, ms=5, **look)
        _draw_metric(loss, line.trial, "train_loss", marker=marker, ms=5, **look)
    _finish(by_trials, "trials that have ended", best, whole=True)
    _finish(by_cost, "GPU-hours" if on_gpus else "hours", best)
    _finish(by_epoch, "epoch", words(objective), whole=True)
    _finish(loss, "epoch", "train loss", whole=True)
    figure.supxlabel(NOTE, fontsize=9)


def _draw_metric(axes: Any, trial: Trial, metric: str, **look: Any) -> None:
    points = [(epoch, r.metrics[metric]) for epoch, r in trial.counted.items() if metric in r.metrics]
    if points:
        axes.plot(*zip(*points, strict=True), **look)


def _finish(axes: Any, x: str, y: str, *, whole: bool = False) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if whole:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_visible(axes.has_data())  # a program may report no training loss
    if axes.has_data():
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
