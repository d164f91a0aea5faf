"""The summary of a search, from its flags and its ledger: what summary.json holds and every report is made from."""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from gpt2core.cli import print_json
from gpt2core.errors import ConfigError
from gpt2core.storage import address
from gpt2core.weights import EMBEDDED
from searches.deciding import final_scores
from searches.deciding.confirmation import reliability
from searches.deciding.decoding_order import decoding_order
from searches.deciding.gains import gains
from searches.deciding.importance import effects
from searches.deciding.objectives import ranked
from searches.deciding.results import counts, pareto, trial_row, verdict
from searches.deciding.strategy import finalists
from searches.flags import without
from searches.options import Options
from searches.places import search_folder
from searches.plan import Plan
from searches.planning.measure import actual_costs, spending
from searches.result_files import LEDGER
from searches.running.ledger import COMPLETED, STOPPED, State, read_search
from searches.running.resume import options_again
from searches.showing.as_json import answer_json
from searches.showing.facts import commands, pairs_of, samples_of, space_of, time_by_part
from searches.showing.live_report import watch
from searches.showing.report import write
from searches.summary import BaselineRow, MetricRow, SearchMethod, Summary
from searches.warm_start import warm_started

WITH_TEXTS = 8  # trials of which texts are kept
PACKAGES = ("torch", "ray", "optuna", "mlflow", "sacrebleu", "tokenizers")


def summarise(options: Options, state: State, folder: Path) -> Summary:
    """Return the results of a search; `folder` is its results folder, for the size of its checkpoints."""
    plan, search = options.plan, options.plan.search
    trials = [trial_row(trial, plan) for trial in state.trials.values()]
    by_name = {row.id: row for row in trials}
    best = next((by_name[trial.name] for trial in ranked([*state.searched, *state.clones], plan)), None)
    reference = next((row for row in trials if row.origin == "reference"), None)
    scored = [row for row in trials if row.score is not None and row.of is None]
    ended = [row for row in scored if row.status in (COMPLETED, STOPPED)]
    costs = list(dict.fromkeys([*search.costs, *plan.method.minimize]))
    by_task = plan.task_objectives
    objectives = by_task.values() or [plan.metric]
    signs = {**{metric.name: metric.direction.sign for metric in objectives}, **dict.fromkeys(costs, -1)}
    names, importance = finalists(state, plan), effects(ended, plan.space, plan.direction, plan.factor)
    answer = verdict(plan, state, names, best, importance)
    compared = [answer.chosen, best and best.id, reference and reference.id, *(row.trial for row in answer.rows)]
    with_samples = list(dict.fromkeys(name for name in compared if name))[:WITH_TEXTS]
    return Summary(
        search=options.name,
        script=search.name,
        question=search.question,
        task=plan.task,
        smoke="--smoke" in options.argv,
        judged_on=plan.comparing.on,
        objective=plan.objective,
        direction=plan.direction,
        model=model_line(plan),
        model_is_stand_in=plan.program is None and plan.config(search.reference).model in EMBEDDED,
        data=state.data,
        origin=state.origin,
        trials=trials,
        best=best,
        reference=reference,
        method=SearchMethod.model_validate(plan.method.to_dict()),
        costs=costs,
        pareto=pareto([row for row in scored if row.feasible], signs),
        task_objectives=[metric.name for metric in by_task.values()],
        gains=gains(scored, by_task) if by_task else [],
        baselines={key: BaselineRow.model_validate(row) for key, row in state.baselines.items()},
        answer=answer,
        effects=importance,
        reliability=reliability(plan, state, names),
        metrics={key: MetricRow.model_validate(vars(metric)) for key, metric in plan.metrics.items()},
        test=final_scores.result(plan, state),
        counts=counts(state),
        wall_seconds=round(state.clock.wall, 1),
        versions={package: version(package) for package in PACKAGES},
        forecast=state.forecast.rows(actual_costs(options, state, folder)),
        budget=spending(options, state),
        space=space_of(plan),
        warm_start=warm_started(plan, state),
        decoding=decoding_order(plan, state),
        time=time_by_part(state),
        samples=samples_of(plan, state, with_samples),
        pairs={name: pairs_of(made) for name, made in state.pairs.items()},
        environment=state.environment,
        commands=commands(options),
    )


def model_line(plan: Plan) -> str:
    """Return the model of a search, in words if it is the stand-in; of a program, its name."""
    if plan.program is not None:
        return plan.program.name
    name = plan.config(plan.search.reference).model
    if name == "gpt2-nano":
        return "gpt2-nano, the small stand-in that ships with the project; for the real one, --model gpt2"
    return name


def reopened(options: argparse.Namespace, more: Sequence[str] = ()) -> tuple[Path, State, Options]:
    """Return folder, state and flags of the search that a command names; `more` flags follow its own. Raises UserError."""
    folder = search_folder(options.storage, options.name)
    state = read_search(folder, needs_script=True)
    storage = ["--storage", options.storage] if options.storage else []
    given = without(state.flags, "--name", "--storage")
    return folder, state, options_again(state, [*given, *more, "--name", options.name, *storage])


def report(options: argparse.Namespace) -> int:
    """Write the report of a search, running, interrupted or ended; with `--watch`, serve it until Ctrl-C. Raises UserError."""

    def summarised() -> Summary:
        folder, state, search_options = reopened(options)
        return summarise(search_options, state, folder)

    def ledger() -> Path:
        return search_folder(options.storage, options.name) / LEDGER

    if options.watch and options.json:
        raise ConfigError("`--watch` serves a page, but `--json` prints values; give only one")
    if options.watch:
        return watch(ledger, summarised)
    summary = summarised()
    page, *others = map(address, write(ledger().parent, summary))
    if options.json:
        answer = answer_json(summary.answer)
        print_json({"name": options.name, "report": str(page), "others": [*map(str, others)], "answer": answer})
    else:
        print(f"Report: {page}")
    return 0
