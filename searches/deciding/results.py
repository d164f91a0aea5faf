"""What a search has found: its trials, what was compared on fresh seeds, and the answer to its question."""

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from gpt2core.metrics.comparison import Runs, mean_of
from gpt2core.metrics.intervals import Interval
from gpt2core.metrics.metric import Metric
from gpt2core.weights import EMBEDDED
from searches.deciding import final_scores, wording
from searches.deciding.comparing import Judges
from searches.deciding.confirmation import Finding, find, reliability, replicates, rows
from searches.deciding.decision import UNDECIDED, Decision
from searches.deciding.importance import effects
from searches.deciding.method import COSTS
from searches.deciding.objectives import cost, feasible, ranked
from searches.deciding.stopping import dominates
from searches.deciding.strategy import finalists
from searches.formatting import count
from searches.question import Plan
from searches.running.ledger import COMPLETED, DIVERGED, FAILED, OUT_OF_MEMORY, RUNNING, STOPPED, State, Trial
from searches.summary import (
    BaselineRow,
    ComparedSetting,
    Difference,
    Effects,
    Factor,
    MetricRow,
    NamedMetric,
    SearchMethod,
    Summary,
    Test,
    TrialRow,
    Verdict,
)


def summarise(plan: Plan, state: State, name: str, model: str, versions: dict[str, str]) -> Summary:
    """What the search of a plan has found by `state`; what is no part of its answer is for `summary_of` to add."""
    search = plan.search
    trials = [_row(trial, plan) for trial in state.trials.values()]
    by_name = {row.id: row for row in trials}
    best = next((by_name[trial.name] for trial in ranked([*state.searched, *state.clones], plan)), None)
    costs = list(dict.fromkeys([*plan.search.costs, *plan.method.minimize]))
    scored = [row for row in trials if row.score is not None and row.of is None]
    allowed = [row for row in scored if row.feasible]
    names = finalists(state, plan)
    known = [row for row in scored if row.status in (COMPLETED, STOPPED)]
    exploration = effects(known, plan.space, plan.direction, plan.factor)
    return Summary(
        search=name,
        script=search.name,
        question=search.question,
        judged_on=plan.comparing.on,
        objective=plan.objective,
        direction=plan.direction,
        model=model,
        model_is_stand_in=plan.config(search.reference).model in EMBEDDED,
        data=state.data,
        origin=state.origin,
        trials=trials,
        best=best,
        reference=next((row for row in trials if row.origin == "reference"), None),
        method=SearchMethod.model_validate(plan.method.to_dict()),
        costs=costs,
        pareto=pareto(allowed, {plan.objective: plan.direction.sign, **dict.fromkeys(costs, -1)}),
        baselines={key: BaselineRow.model_validate(one) for key, one in state.baselines.items()},
        answer=_verdict(plan, state, names, best, exploration),
        effects=exploration,
        reliability=reliability(plan, state, names),
        metrics={key: MetricRow(**_shape(metric)) for key, metric in plan.metrics.items()},
        test=final_scores.result(plan, state),
        counts=_counts(state),
        wall_seconds=round(state.clock.wall, 1),
        versions=versions,
    )


def _shape(metric: Metric) -> dict[str, Any]:
    return {"direction": metric.direction, "unit": metric.unit, "digits": metric.digits, "margin": metric.margin}


def _counts(state: State) -> dict[str, int]:
    statuses = [trial.status for trial in state.trials.values() if trial.of is None]
    return {
        "trials": len(statuses),
        "completed": statuses.count(COMPLETED),
        "stopped": statuses.count(STOPPED),
        "failed": statuses.count(FAILED),
        "out_of_memory": statuses.count(OUT_OF_MEMORY),
        "diverged": statuses.count(DIVERGED),
        "unfinished": statuses.count(RUNNING),
        "replicates": len(state.trials) - len(statuses),
        "duplicates_avoided": state.duplicates,
    }


def _row(trial: Trial, plan: Plan) -> TrialRow:
    best = trial.best(plan.objective, plan.direction)
    return TrialRow(
        id=trial.name,
        origin=trial.origin,
        of=trial.of,
        status=trial.status,
        reason=trial.reason,
        parent=trial.parent,
        feasible=feasible(trial, plan),
        point=trial.point,
        config=trial.run,
        epochs=max(trial.counted, default=0),
        best_epoch=best.epoch if best else None,
        score=trial.score(plan.objective, plan.direction),
        metrics={**(best.metrics if best else {}), **_costs(trial)},
        data=best.data if best else {},
        curve=[{"epoch": epoch, **report.metrics} for epoch, report in trial.counted.items()],
    )


def _costs(trial: Trial) -> dict[str, float]:
    found = {name: cost(trial, name) for name in COSTS}
    return {name: value for name, value in found.items() if value is not None}


def pareto(scored: list[TrialRow], signs: dict[str, int]) -> list[str]:
    """Names of the trials that no other trial beats in one of several metrics and equals in the rest; none for one metric."""
    if len(signs) < 2:
        return []
    small_is_good = {
        row.id: tuple(-sign * row.metrics.get(metric, math.nan) for metric, sign in signs.items()) for row in scored
    }
    known = {name: vector for name, vector in small_is_good.items() if not any(map(math.isnan, vector))}
    front: dict[str, tuple[float, ...]] = {}
    for name, mine in sorted(known.items(), key=itemgetter(1)):  # none is dominated by one that comes later
        if not any(dominates(other, mine) for other in front.values()):
            front[name] = mine
    return [name for name in known if name in front]


def _verdict(plan: Plan, state: State, names: Sequence[str], best: TrialRow | None, exploration: Effects) -> Verdict:
    """The answer to the question of a search."""
    finding = find(plan, state, names)
    decision = (
        finding.decision
        if finding
        else Decision(outcome=UNDECIDED, seeds=0, level=0.05, reason=_nothing(plan, state, names))
    )
    metric, table = plan.metric, rows(plan, state, finding, names)
    scope = _scope(plan, state, finding)
    sentences = _sentences(plan, state, finding, decision, table, plan.factor_name)
    if mattered := wording.mattered(exploration, metric, plan.factor):
        sentences.append(mattered)
    winner = finding.trials[decision.winner] if finding and decision.winner else None
    return Verdict(
        sentences=sentences,
        outcome=decision.outcome,
        factor=Factor(name=plan.factor_name, keys=plan.factor) if plan.compares_each else None,
        metric=NamedMetric(name=metric.name, **{**_shape(metric), "margin": plan.margin}),
        rows=table,
        pairs=[
            Difference(
                a=pair.a,
                b=pair.b,
                difference=pair.difference.estimate,
                low=pair.difference.low,
                high=pair.difference.high,
                p_value=pair.p_value,
            )
            for pair in decision.pairs
        ],
        test=Test(p_value=decision.p_value, level=decision.level, anova=decision.anova),
        excluded=decision.excluded,
        decided=decision.outcome != UNDECIDED,
        seeds=decision.seeds,
        looks=list(plan.design.looks) if plan.design else [],
        seeds_needed=decision.needed,
        needs_texts=decision.needs_texts,
        winner=winner,
        chosen=_chosen(plan, table, winner, best),
        best=list(decision.best),
        reference=next((trial.name for trial in state.searched if trial.origin == "reference"), None),
        scope=scope,
        notes=_notes(plan, state, finding, table, best),
        evidence=wording.evidence(decision, metric, scope) if finding else [],
    )


def _sentences(
    plan: Plan, state: State, finding: Finding | None, decision: Decision, table: list[ComparedSetting], name: str
) -> list[str]:
    if plan.compares_each:
        found = wording.about_factor(name, decision, table, plan.metric, plan.margin)
    elif finding is None or finding.reference is None:
        found = [f"Not decided: {decision.reason}."]
    else:
        points = {title: state.trials[trial].point for title, trial in finding.trials.items()}
        found = wording.about_best(decision, table, points, finding.reference, plan.metric, plan.margin)
    if finding and decision.outcome == UNDECIDED and not decision.complete:
        found.append(wording.visible(decision, plan.metric))
    return [sentence for sentence in found if sentence]


def _nothing(plan: Plan, state: State, names: Sequence[str]) -> str:
    """Why nothing could be compared."""
    limits = " and ".join(map(str, plan.method.limits))
    if limits and not any(feasible(trial, plan) for trial in state.searched):
        return f"no trial keeps {limits}"
    if not names:
        return "there are no two settings with a score to compare"
    if any(trial.of for trial in state.trials.values()):
        return "no fresh seed has been run for all settings yet"
    return "nothing was run again on fresh seeds"


def _scope(plan: Plan, state: State, finding: Finding | None) -> str:
    if finding is None:
        return ""
    seeds = finding.decision.seeds
    fresh = f"{count(seeds, 'fresh seed')} each" if seeds else "no complete set of seeds"
    judging = state.judges
    texts = Judges(**judging).words if judging else "the dev texts"
    return wording.scope_text(finding.decision, texts, fresh)


def _chosen(plan: Plan, table: list[ComparedSetting], winner: str | None, best: TrialRow | None) -> str | None:
    """The trial of the model folder: the winner, else the best mean on fresh seeds, else the best score."""
    confirmed = [row for row in table if row.stable and row.mean is not None]
    leading = plan.direction.best(confirmed, key=lambda row: row.mean or 0.0)
    return winner or (leading.trial if leading else None) or (best.id if best else None)


def _notes(
    plan: Plan, state: State, finding: Finding | None, table: list[ComparedSetting], best: TrialRow | None
) -> list[str]:
    """What takes weight from the answer, each in a sentence."""
    notes = []
    for row in table:
        if row.failed:
            reasons = "; ".join(sorted({state.trials[name].reason or state.trials[name].status for name in row.failed}))
            runs = count(len(row.failed), "run")
            notes.append(f"{row.name} is unstable: {runs} on a fresh seed failed ({reasons}), so it cannot win.")
    if plan.compares_each:
        notes += [f"No trial of {row.name} ended with a score." for row in table if finding and row.trial is None]
    late = best is not None and state.finalists and best.score is not None and best.id not in state.finalists
    if late and best is not None and not plan.compares_each:
        notes.append(
            f"Trial {best.id} has a better score, but it ended when the comparison had begun, and is not in it."
        )
    if finding and plan.design and finding.decision.seeds < plan.design.looks[0]:
        planned = count(plan.design.looks[0], "seed")
        notes.append(f"The comparison was planned for {planned} each; this is how it stands before that.")
    one = plan.config(plan.search.reference)
    if finding and one.adapter == "frozen" and one.first_task is None:
        notes.append(
            f"There is one tuned model, and {count(finding.decision.seeds, 'sampling seed')}: other trainings may differ."
        )
    notes += [note for note in [_baseline_note(plan, state, finding, table, best)] if note]
    return notes


def _baseline_note(
    plan: Plan, state: State, finding: Finding | None, table: list[ComparedSetting], best: TrialRow | None
) -> str:
    """Whether even the best is no better than a trivial baseline; nothing where it surely is."""
    metric, direction = plan.metric, plan.direction
    known = [(one["meaning"], one["scores"].get(metric.name)) for one in state.baselines.values()]
    baseline = direction.best([(meaning, score[0]) for meaning, score in known if score], key=itemgetter(1))
    if best is None or best.score is None or baseline is None or not math.isfinite(baseline[1]):
        return ""
    meaning, value = baseline
    score = _on_dev(plan, state, _chosen(plan, table, None, best)) or Interval(estimate=best.score)
    ends = [score.estimate if end is None else end for end in (score.low, score.high)]
    words = wording.Words(metric)
    shown = words.number(score.estimate) + (
        "" if score.low is None else f" [{words.number(ends[0])}, {words.number(ends[1])}]"
    )
    beside = f"a trivial baseline ({meaning}: {words.number(value)})"
    if not direction.better(score.estimate, value):
        return f"Even the best, {words.name} {shown}, is no better than {beside}."
    if not all(direction.better(end, value) for end in ends):
        return f"The best, {words.name} {shown}, is not surely better than {beside}."
    return ""


def _on_dev(plan: Plan, state: State, name: str | None) -> Interval | None:
    """The mean of a trial's replicates on the dev texts that chose their epochs, with its interval over seeds."""
    again = replicates(state, name) if name else {}
    scores = [score for trial in again.values() if (score := trial.score(plan.objective, plan.direction)) is not None]
    return mean_of(Runs(scores=np.array(scores))) if scores else None
