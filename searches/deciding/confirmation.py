"""Compares a search's finalists: gathers their replicates from the ledger and passes the runs to `decide`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2core.errors import UserError
from gpt2core.metrics.comparison import Runs, mean_of, runs_of
from gpt2core.metrics.counts import from_json
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.metric import Metric
from searches.deciding.decision import Decision, Design, Side, decide
from searches.plan import Plan
from searches.running.budget import BUDGET
from searches.running.events import Scores
from searches.running.ledger import BAD, BY_HAND, COMPLETED, STOPPED, Ledger, State, Trial
from searches.summary import ComparedSetting, ReliabilityRow

ENDED = (COMPLETED, STOPPED)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The compared settings, the decision about them, and the trial behind each setting's name.

    An upper reference is a side without a part in the decision.
    """

    sides: Sequence[Side]
    trials: Mapping[str, str]
    decision: Decision
    reference: str | None  # the setting that all others are compared with


def fix_design(plan: Plan, ledger: Ledger) -> None:
    """Record the design of the comparison before its first look; raise UserError if another design has begun."""
    looks = list(plan.design.looks) if plan.design else []
    design = {"looks": looks, "each": plan.compares_each, "confirm": plan.profile.confirm, "margin": plan.margin}
    state = ledger.state
    looked_at = any(trial.of is not None for trial in state.trials.values())
    if state.design and state.design != design and looked_at:
        raise UserError(
            f"This search's comparison was planned with looks after {state.design['looks']} seeds, and has begun; other values "
            "of --replicates, --until, --confirm or --margin would make its error rate unknown: repeat the earlier ones, or "
            "choose another --name (with --until decided, seeds are added as needed)"
        )
    if state.design != design:
        ledger.record({"event": "design", "design": design})


def find(plan: Plan, state: State, names: Sequence[str], seeds: int | None = None) -> Finding | None:
    """Compare trials on the fresh seeds that all of them have, at most `seeds`; return None if there are none."""
    rounds = rounds_of(state, names) if len(names) > 1 else 0
    rounds = rounds if seeds is None else min(rounds, seeds)
    if not rounds:
        return None
    titles = [_title(plan, state, name) for name in names]
    sides = [side_of(plan, state, name, title, rounds) for name, title in zip(names, titles, strict=True)]
    if plan.compares_each:  # a value without a scored trial cannot be judged
        sides += [Side(name=level.name) for level in plan.levels if level.name not in titles]
    reference = None if plan.compares_each else titles[-1]
    design = plan.design or Design.fixed(rounds)
    upper = upper_references(plan)
    judged_sides = [side for side in sides if side.name not in upper]
    decision = decide(judged_sides, margin=plan.margin, direction=plan.direction, design=design, reference=reference)
    return Finding(sides=sides, trials=dict(zip(titles, names, strict=True)), decision=decision, reference=reference)


def upper_references(plan: Plan) -> set[str]:
    """Return the names of the values of the factor that are only upper references."""
    return {level.name for level in plan.levels if plan.compares_each and plan.is_upper_reference(level)}


def is_decided(plan: Plan, state: State, names: Sequence[str], seeds: int) -> bool:
    """Return whether the comparison on the first `seeds` seeds needs no more of them."""
    finding = find(plan, state, names, seeds)
    return finding is not None and finding.decision.complete


def runs_of_metric(events: Sequence[Scores], metric: Metric) -> Runs | None:
    """Return runs by a metric from the reports of their best epochs, or None if one of them lacks the score."""
    if metric.counts is None or metric.score is None:
        return _runs_of_numbers([(event.judged or event.metrics).get(metric.name) for event in events])
    packed = [(event.statistics or {}).get(metric.counts) for event in events]
    if not packed or any(counts is None for counts in packed):
        return None
    by_run = [from_json({metric.counts: counts})[metric.counts].astype(np.float64).sum(axis=0) for counts in packed]
    return runs_of(np.stack(by_run), metric.score)


def _runs_of_numbers(scores: Sequence[float | None]) -> Runs | None:
    """Return runs with known scores but unknown examples, or None if a score is missing."""
    known = [float(score) for score in scores if score is not None]
    return Runs(scores=np.array(known)) if known and len(known) == len(scores) else None


def replicates(state: State, name: str) -> dict[int, Trial]:
    """Return a trial's replicates by seed number, without those that a budget cut short, as they had unequal terms."""
    numbered = {int(trial.name.rpartition("-r")[2]): trial for trial in state.replicates(name)}
    return {number: trial for number, trial in sorted(numbered.items()) if trial.reason != BUDGET}


def judged(plan: Plan, state: State, name: str, seeds: int) -> list[Scores]:
    """Return the report of the best epoch, on the choosing texts, of each of a trial's first `seeds` replicates."""
    events: list[Scores] = []
    for number, trial in replicates(state, name).items():
        best = trial.best(plan.objective, plan.direction)
        if number <= seeds and trial.status in ENDED and best is not None:
            events.append(state.tests.get(trial.name, best) if plan.comparing.on == "test" else best)
    return events


def rounds_of(state: State, names: Sequence[str]) -> int:
    """Return how many seeds, from the first on, all trials have ended on, well or not."""
    ended = [{n for n, trial in replicates(state, name).items() if trial.status in (*ENDED, *BAD)} for name in names]
    common = set.intersection(*ended) if ended else set()
    return next((n for n in range(len(common) + 1) if n + 1 not in common), 0)


def _title(plan: Plan, state: State, name: str) -> str:
    """Return the name of a compared trial: its value of the factor, else its number."""
    return plan.level_of(state.trials[name].point).name if plan.compares_each else f"trial {name}"


def side_of(plan: Plan, state: State, name: str, title: str, rounds: int) -> Side:
    """Return a setting with its runs. A run counts as failed if it has no score or a person ended it."""
    failed = [
        trial.name
        for number, trial in replicates(state, name).items()
        if number <= rounds
        and (trial.status in BAD or trial.reason == BY_HAND or trial.score(plan.objective, plan.direction) is None)
    ]
    return Side(name=title, runs=runs_of_metric(judged(plan, state, name, rounds), plan.metric), failed=failed)


def expected_best(scores: Sequence[float], direction: Direction) -> list[float]:
    """Return the expected best of k scores drawn from `scores`, for each k (Dodge et al. 2019, arXiv 1909.03004)."""
    ordered = direction.sign * np.sort(direction.sign * np.asarray(scores))
    n = len(ordered)
    shares = np.arange(n + 1) / n
    return [float((ordered * (shares[1:] ** k - shares[:-1] ** k)).sum()) for k in range(1, n + 1)]


def rows(plan: Plan, state: State, finding: Finding | None, finalists: Sequence[str]) -> list[ComparedSetting]:
    """Return a row for each value of the factor, in its order, or for each compared trial."""
    table, upper = [], upper_references(plan)
    for title, value, trials, chosen in _groups(plan, state, finding, finalists):
        side = next((side for side in finding.sides if side.name == title), None) if finding else None
        scores = [score for trial in trials if (score := trial.score(plan.objective, plan.direction)) is not None]
        mean = mean_of(side.runs) if side and side.runs else None
        table.append(
            ComparedSetting(
                name=title,
                value=value,
                trial=chosen,
                point=state.trials[chosen].point if chosen else {},
                trials=len(trials),
                score=state.trials[chosen].score(plan.objective, plan.direction) if chosen else None,
                runs=side.runs.scores.tolist() if side and side.runs else [],
                mean=mean.estimate if mean else None,
                low=mean.low if mean else None,
                high=mean.high if mean else None,
                failed=list(side.failed) if side else [],
                stable=side.stable if side else False,
                upper_reference=title in upper,
                expected=expected_best(scores, plan.direction) if scores else [],
            )
        )
    return table


def _groups(
    plan: Plan, state: State, finding: Finding | None, finalists: Sequence[str]
) -> list[tuple[str, Mapping[str, Any], list[Trial], str | None]]:
    """Return for each row: title, value of the factor, trials of the search, and the compared trial."""
    named = finding.trials if finding else {_title(plan, state, name): name for name in finalists}
    if not plan.compares_each:
        return [(title, {}, [state.trials[name]], name) for title, name in named.items()]
    trials: dict[str, list[Trial]] = {level.name: [] for level in plan.levels}
    for trial in state.searched:
        trials[plan.level_of(trial.point).name].append(trial)
    return [(level.name, level.value, trials[level.name], named.get(level.name)) for level in plan.levels]


def _runs_anywhere(events: Sequence[Scores], metric: Metric) -> Runs | None:
    """Return runs by a metric on the judging texts, else on the choosing texts."""
    numbers = [event.metrics.get(metric.name) for event in events]
    return runs_of_metric(events, metric) or _runs_of_numbers(numbers)


def reliability(plan: Plan, state: State, names: Sequence[str]) -> list[ReliabilityRow]:
    """Return for each metric the share of variance that lies between settings: 0 is pure chance, 1 no chance at all.

    By one-way analysis of variance of the compared settings, on the seeds that all of them have.
    """
    rounds = rounds_of(state, names) if len(names) > 1 else 0
    table = []
    for metric in plan.metrics.values() if rounds else ():
        groups = [_runs_anywhere(judged(plan, state, name, rounds), metric) for name in names]
        scores = [group.scores for group in groups if group is not None and np.isfinite(group.scores).all()]
        if len(scores) < 2:
            continue
        runs = min(map(len, scores))
        within = float(np.mean([of_setting.var(ddof=1) for of_setting in scores])) if runs > 1 else None
        spread = float(np.var([of_setting.mean() for of_setting in scores], ddof=1))
        between = max(0.0, spread - (within or 0.0) / runs)
        total = between + (within or 0.0)
        table.append(
            ReliabilityRow(
                metric=metric.name,
                between=between,
                within=within,
                reliability=None if within is None or not total else between / total,
                settings=len(scores),
                runs=runs,
            )
        )
    return table
