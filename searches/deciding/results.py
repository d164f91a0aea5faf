"""The parts of a summary that answer the question: rows of trials, Pareto front, verdict and its notes."""

import math
from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from gpt2core.metrics.comparison import Runs, mean_of, pairwise
from searches.deciding import wording
from searches.deciding.comparing import Judges
from searches.deciding.confirmation import Finding, find, replicates, rows, upper_references
from searches.deciding.decision import UNDECIDED, Decision
from searches.deciding.method import COSTS
from searches.deciding.objectives import cost, feasible
from searches.deciding.stopping import dominates
from searches.formatting import count
from searches.plan import Plan
from searches.running.ledger import COMPLETED, DIVERGED, FAILED, OUT_OF_MEMORY, RUNNING, STOPPED, State, Trial
from searches.summary import (
    ComparedSetting,
    Difference,
    Effects,
    Factor,
    NamedMetric,
    Test,
    TrialRow,
    Verdict,
)


def counts(state: State) -> dict[str, int]:
    """Return the numbers of trials by status, and of replicates and duplicates."""
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


def trial_row(trial: Trial, plan: Plan) -> TrialRow:
    """Return a trial's row of the summary."""
    best = trial.best(plan.objective, plan.direction)
    costs = {name: value for name in COSTS if (value := cost(trial, name)) is not None}
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
        metrics={**(best.metrics if best else {}), **costs},
        data=best.data if best else {},
        curve=[{"epoch": epoch, **report.metrics} for epoch, report in trial.counted.items()],
    )


def pareto(scored: list[TrialRow], signs: dict[str, int]) -> list[str]:
    """Return the names of the trials on the Pareto front of several metrics; `signs` are -1 where smaller is better."""
    if len(signs) < 2:
        return []
    vectors = {row.id: tuple(-sign * row.metrics.get(key, math.nan) for key, sign in signs.items()) for row in scored}
    known = {name: vector for name, vector in vectors.items() if not any(map(math.isnan, vector))}
    front: dict[str, tuple[float, ...]] = {}
    for name, vector in sorted(known.items(), key=itemgetter(1)):  # a vector cannot dominate one before it
        if not any(dominates(other, vector) for other in front.values()):
            front[name] = vector
    return [name for name in known if name in front]


def verdict(plan: Plan, state: State, names: Sequence[str], best: TrialRow | None, importance: Effects) -> Verdict:
    """Return the answer from the comparison of the finalists `names`."""
    finding = find(plan, state, names)
    nothing = Decision(outcome=UNDECIDED, seeds=0, level=0.05, reason=_why_nothing(plan, state, names))
    decision = finding.decision if finding else nothing
    metric, table, scope = plan.metric, rows(plan, state, finding, names), _scope(state, finding)
    sentences = [
        *_sentences(plan, state, finding, decision, table),
        wording.importance_text(importance, metric, plan.factor),
    ]
    winner = finding.trials[decision.winner] if finding and decision.winner else None
    pairs = [
        Difference(
            a=pair.a,
            b=pair.b,
            difference=pair.difference.estimate,
            low=pair.difference.low,
            high=pair.difference.high,
            p_value=pair.p_value,
        )
        for pair in decision.pairs
    ]
    return Verdict(
        sentences=[sentence for sentence in sentences if sentence],
        outcome=decision.outcome,
        factor=Factor(name=plan.factor_name, keys=plan.factor) if plan.compares_each else None,
        metric=NamedMetric.model_validate({**vars(metric), "margin": plan.margin}),
        rows=table,
        pairs=pairs,
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
    plan: Plan, state: State, finding: Finding | None, decision: Decision, table: list[ComparedSetting]
) -> list[str]:
    if plan.compares_each:
        compared = [row for row in table if not row.upper_reference]
        sentences = wording.about_factor(plan.factor_name, decision, compared, plan.metric, plan.margin)
    elif finding is None or finding.reference is None:
        sentences = [f"Not decided: {decision.reason}."]
    else:
        points = {title: state.trials[trial].point for title, trial in finding.trials.items()}
        sentences = wording.about_best(decision, table, points, finding.reference, plan.metric, plan.margin)
    sentences += [_about_upper(plan, finding, row.name) for row in table if finding and row.upper_reference]
    if finding and decision.outcome == UNDECIDED and not decision.complete:
        sentences.append(wording.detectable_text(decision, plan.metric))
    return sentences


def _about_upper(plan: Plan, finding: Finding, name: str) -> str:
    """Return how far an upper reference is from the best other setting; empty if either is not stable."""
    stable = {side.name: side.runs for side in finding.sides if side.stable and side.runs is not None}
    others = [other for other in stable if other not in upper_references(plan)]
    best = plan.direction.best(others, key=lambda other: stable[other].mean)
    if name not in stable or best is None:
        return ""
    (pair,) = pairwise(stable, [(name, best)])
    return wording.about_upper_reference(pair, name, plan.metric)


def _why_nothing(plan: Plan, state: State, names: Sequence[str]) -> str:
    """Return why nothing could be compared."""
    limits = " and ".join(map(str, plan.method.limits))
    if limits and not any(feasible(trial, plan) for trial in state.searched):
        return f"no trial satisfies {limits}"
    if not names:
        return "fewer than two settings have a score"
    if any(trial.of for trial in state.trials.values()):
        return "no fresh seed has been run for all settings yet"
    return "no setting was run again on fresh seeds"


def _scope(state: State, finding: Finding | None) -> str:
    if finding is None:
        return ""
    seeds = finding.decision.seeds
    fresh = f"{count(seeds, 'fresh seed')} per setting" if seeds else "no complete set of seeds"
    return wording.scope_text(finding.decision, judging_texts(state), fresh)


def judging_texts(state: State) -> str:
    """Return in words the texts that judge a search's finalists."""
    return Judges(**state.judges).words if state.judges else "the dev texts"


def _chosen(plan: Plan, table: list[ComparedSetting], winner: str | None, best: TrialRow | None) -> str | None:
    """Return the trial of the model folder: the winner, else the best mean on fresh seeds, else the best score."""
    rows = [row for row in table if not row.upper_reference]
    confirmed = [row for row in rows if row.stable and row.mean is not None]
    leading = plan.direction.best(confirmed, key=lambda row: row.mean or 0.0)
    if leading is None and best is not None and plan.level_of(best.point).name in upper_references(plan):
        leading = plan.direction.best([row for row in rows if row.score is not None], key=lambda row: row.score or 0.0)
    return winner or (leading.trial if leading else None) or (best.id if best else None)


def _notes(
    plan: Plan, state: State, finding: Finding | None, table: list[ComparedSetting], best: TrialRow | None
) -> list[str]:
    """Return the caveats of the answer, each as a sentence."""
    notes = []
    for row in table:
        if row.failed:
            reasons = "; ".join(sorted({state.trials[name].reason or state.trials[name].status for name in row.failed}))
            runs = count(len(row.failed), "run")
            notes.append(f"{row.name} is unstable: {runs} on a fresh seed failed ({reasons}), so it cannot win.")
    if plan.compares_each:
        notes += [
            f"No trial of {row.name} {'ended with a score' if row.trials else 'was started'}."
            for row in table
            if finding and row.trial is None
        ]
    elif best is not None and state.finalists and best.id not in state.finalists:
        notes.append(
            f"Trial {best.id} has a better score, but it ended after the comparison had begun, so it was not compared."
        )
    if finding and plan.design and finding.decision.seeds < plan.design.looks[0]:
        planned = count(plan.design.looks[0], "seed")
        notes.append(f"The comparison is planned for {planned} per setting; this is an interim result.")
    notes += _scope_notes(plan, finding) if finding else []
    return notes + _baseline_notes(plan, state, table, best)


def _scope_notes(plan: Plan, finding: Finding) -> list[str]:
    """Return what the fresh seeds and the texts leave out."""
    if plan.program is not None:
        same = [side.name for side in finding.sides if side.runs and side.runs.count > 1 and not side.runs.run_variance]
        equal = f"All fresh seeds of {wording.listed(same)} have the same score: check that the program uses {{seed}}."
        chosen = (
            "The data that the program evaluates on also chose settings and epochs, so scores on new data may be worse."
        )
        return [chosen, *([equal] if same else [])]
    reference = plan.config(plan.search.reference)
    if reference.adapter != "frozen" or reference.first_task is not None:
        return []
    seeds = count(finding.decision.seeds, "sampling seed")
    return [f"All runs sample from one tuned model, with {seeds}; a model from another training may differ."]


def _baseline_notes(plan: Plan, state: State, table: list[ComparedSetting], best: TrialRow | None) -> list[str]:
    """Return a note if even the best setting is not significantly better than the best trivial baseline."""
    metric, direction = plan.metric, plan.direction
    known = [(row["meaning"], row["scores"].get(metric.name)) for row in state.baselines.values()]
    baseline = direction.best([(meaning, score[0]) for meaning, score in known if score], key=itemgetter(1))
    if best is None or best.score is None or baseline is None or not math.isfinite(baseline[1]):
        return []
    meaning, value = baseline
    text, score, ends = wording.MetricText(metric), best.score, [best.score]
    shown = text.number(score)
    again = replicates(state, _chosen(plan, table, None, best) or best.id)
    on_dev = [own for trial in again.values() if (own := trial.score(plan.objective, direction)) is not None]
    if on_dev:  # on the dev texts that chose their epochs, as the baseline
        mean = mean_of(Runs(scores=np.array(on_dev)))
        score, shown = mean.estimate, text.number(mean.estimate, mean.low, mean.high)
        ends = [score if end is None else end for end in (mean.low, mean.high)]
    than = f"than a trivial baseline ({meaning}: {text.number(value)})"
    if not direction.better(score, value):
        return [f"Even the best setting ({text.name} {shown}) is no better {than}."]
    if not all(direction.better(end, value) for end in ends):
        return [f"The best setting ({text.name} {shown}) is not significantly better {than}."]
    return []
