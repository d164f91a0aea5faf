"""Warm start: a search tries the best points of earlier searches first, translated to its own space.

They are ordinary trials. Their earlier scores are not told to the sampler, even if model and data are the same: that a setting
suits this search too is a hypothesis, which its trial tests. With a factor, each point is tried with each of its values, so that
none is tuned better than the others.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt2core.errors import ConfigError, UserError
from gpt2core.naming import words
from searches.deciding.objectives import ranked
from searches.domains import Choice, Domain, Numbers, is_number
from searches.formatting import count, setting_text
from searches.plan import Plan, metric_of_run
from searches.result_files import LEDGER
from searches.running.events import WarmStart
from searches.running.ledger import COMPLETED, STOPPED, State, Trial, read_state
from searches.summary import WarmStarted
from trainables.runs import keys_of, parameters, run_of

POINTS = 3  # of each earlier search, however many trials this one has: they may grow, and its digest holds the points


def warm_starts(plan: Plan, names: Sequence[str], own: Path, folder_of: Callable[[str], Path]) -> list[WarmStart]:
    """Return what the searches `names` give to a plan: as its own ledger in the folder `own` has it, or else from theirs.

    So a search that has begun does not need the earlier ones. Raises UserError.
    """
    names, ledger = list(dict.fromkeys(names)), own / LEDGER
    known = read_state(ledger).warm_start if ledger.is_file() else []
    if [start.search for start in known] == names:
        return known
    if own.name in names:
        raise ConfigError(
            f"The search `{own.name}` cannot start from its own points: give another search, or another --name"
        )
    return [_warm_start(plan, name, read_state(folder_of(name) / LEDGER)) for name in names]


def _warm_start(plan: Plan, name: str, state: State) -> WarmStart:
    """Return the best distinct points of a search in the space of a plan."""
    trials: list[str] = []
    points: list[dict[str, Any]] = []
    notes: list[str] = []
    better = _best_first(state)
    if not better:
        raise UserError(f"The search `{name}` has no trial with a score yet, so no search can start from it")
    for trial in better:
        point, about = _translated(plan, trial)
        if point in points:
            continue
        notes += about
        if point is not None:
            trials.append(trial.name)
            points.append(point)
        if len(points) == POINTS:
            break
    if not any(points):
        why = "; ".join(dict.fromkeys(notes)) or "it has none of the keys that this search searches"
        raise ConfigError(f"No point of the search `{name}` can be tried here: {why}")
    model = str(better[0].run.get("model", ""))
    return WarmStart(search=name, model=model, trials=trials, points=points, notes=list(dict.fromkeys(notes)))


def _best_first(state: State) -> list[Trial]:
    """Return the better half of the trials that ended with a score, best first."""
    trials = [trial for trial in state.trials.values() if trial.of is None and trial.status in (COMPLETED, STOPPED)]
    if not trials:
        return []
    metric = metric_of_run(run_of(trials[0].run))
    scored = [(score, trial) for trial in trials if (score := trial.score(metric.name, metric.direction)) is not None]
    ended = metric.direction.ranked(scored, key=lambda pair: pair[0])
    return [trial for _, trial in ended[: math.ceil(len(ended) / 2)]]


def _translated(plan: Plan, trial: Trial) -> tuple[dict[str, Any] | None, list[str]]:
    """Return a trial's values of the keys that a plan searches, and what changed; None if no such run is valid.

    The values of a factor that gets equal numbers of trials are left out.
    """
    run = run_of(trial.run)
    values = parameters(run.model_dump())
    point: dict[str, Any] = {}
    notes = [f"{key} is not searched here, so its value is dropped" for key in trial.point if key not in plan.space]
    read, factor = keys_of(run), plan.factor if plan.balanced else []
    for key, domain in plan.space.items():
        if key in factor or key not in read:
            continue
        value = values[key]
        tried = _nearest(domain, value)
        if tried:
            point[key] = tried[0]
        if tried != [value]:
            instead = setting_text(key, tried[0]) if tried else "the reference's value"
            notes.append(
                f"{setting_text(key, value)} of trial {trial.name} is outside of its values here, {domain}: {instead} is tried"
            )
    try:
        for level in plan.levels if plan.balanced else [None]:
            plan.run(plan.complete({**point, **(level.point if level else {})}))
    except ConfigError as error:
        return None, [f"trial {trial.name} is left out: {error}"]
    return point, notes


def _nearest(domain: Domain, value: Any) -> list[Any]:
    """Return the value of a domain that is nearest to `value`, or nothing if there is no nearest one."""
    if isinstance(domain, Choice) and value in domain:
        return [value]
    numbers = [value, *domain.values] if isinstance(domain, Choice) else [value]
    if not all(map(is_number, numbers)):
        return []
    nearest = domain.nearest(value)
    return [round(nearest) if isinstance(domain, Numbers) and domain.is_whole else nearest]


def source_text(start: WarmStart) -> str:
    """Return the name of an earlier search, with its model unless it is of another program."""
    return f"{start.search} (model {start.model})" if start.model else start.search


def warm_started(plan: Plan, state: State) -> WarmStarted | None:
    """Return how the trials with points of earlier searches did; None for a search without a warm start."""
    if not state.warm_start:
        return None
    names = {trial.name for trial in state.searched if trial.point in plan.warm_points}
    ranks = {trial.name: rank for rank, trial in enumerate(ranked(state.searched, plan), start=1)}
    best = min(names & ranks.keys(), key=lambda name: ranks[name], default=None)
    sources = " and ".join(map(source_text, state.warm_start))
    result = "none of them has a score yet"
    if best is not None:
        result = f"the best of them, trial {best}, is rank {ranks[best]} of {len(ranks)} by {words(plan.objective)}"
    text = (
        f"Warm start: {count(len(names), 'trial')} with the best settings of {sources}. That these suit this search is a "
        f"hypothesis, which the trials test: {result}."
    )
    return WarmStarted(
        searches=[start.search for start in state.warm_start],
        trials=sorted(names),
        best=best,
        rank=None if best is None else ranks[best],
        of=len(ranks),
        text=text,
        notes=[f"{start.search}: {note}" for start in state.warm_start for note in start.notes],
    )
