"""Checks that a plan can run: its names, model and data, which must be those that the search began with."""

from collections.abc import Mapping
from dataclasses import asdict

from gpt2core.adapters import ADAPTERS
from gpt2core.describe import count_kept, count_trainable
from gpt2core.distill.critics.folder import model_digest
from gpt2core.distill.dataset import sets_digest
from gpt2core.errors import ConfigError, UserError
from gpt2core.identity import components_of
from gpt2core.pretrain_stage import first_stage
from gpt2core.tasks import TaskData
from gpt2core.weights import model_folder
from searches.conditions import tried
from searches.deciding.comparing import judges_of
from searches.domains import Choice
from searches.formatting import point_text
from searches.pairs import pair_sets
from searches.plan import Plan, metric_of_run
from searches.planning.baselines import baselines
from searches.running.ledger import Ledger
from trainables.worker_cache import task_data


def check(plan: Plan, *, without_pairs: bool = False) -> TaskData:
    """Look up all names and read model and data, before any trial; return the data. Raises UserError.

    `without_pairs`: generated pairs do not exist yet.
    """
    metric_of_run(plan.config(plan.search.reference))  # the task may lack the objective
    for point in plan.first_points:
        config = plan.config(point)
        components_of(config)
        count_trainable(config)  # applies attention and adapter to the model's shape
        if config.reads_pairs and config.added_pairs == "real":
            task_data(config).training_examples(config)
        if without_pairs:
            config = config.but(pairs_examples=0)
        if (stage := first_stage(config)) is not None:
            task_data(stage)
    if plan.search.equal_parameters:
        _check_equal_parameters(plan)
    data = task_data(config)
    judges_of(plan.comparing, data, plan.profile.folds, config.dev_examples)
    return data


def _check_equal_parameters(plan: Plan) -> None:
    """Raise ConfigError for a value of a searched key with which the adapter keeps another number of parameters."""
    expected = count_kept(plan.config(plan.search.reference))
    counts: dict[str, int] = {}
    for level in plan.levels:
        changes = [{}, *({key: value} for key, domain in plan.space.items() for value in tried(domain))]
        for point in (plan.complete({**level.point, **change}) for change in changes):
            config = plan.config(point)
            read = str(config.values_of(["adapter", *ADAPTERS[config.adapter].keys.model_fields]))
            if read not in counts:
                counts[read] = count_kept(config)
            if counts[read] != expected:
                raise ConfigError(
                    f"The setting {point_text(point)} keeps {counts[read]:,} parameters, but must keep {expected:,} like the "
                    "reference, which this search compares it with; change its ranks"
                )


def first_digests(plan: Plan) -> dict[str, str]:
    """Return the digests of the first stages' data by task, without generated pairs."""
    domain = plan.space.get("pretrain")
    values = domain.values if isinstance(domain, Choice) else ()
    points = [*plan.first_points, *({**plan.search.reference, "pretrain": value} for value in values)]
    configs = [plan.config(point).but(pairs_examples=0) for point in points]
    stages = {stage.task: stage for stage in map(first_stage, configs) if stage is not None}
    return {task: task_data(stage).corpus.digest for task, stage in stages.items()}


def record_data(plan: Plan, ledger: Ledger, data: TaskData) -> None:
    """Record digests of data and model, and the baselines, once; raise UserError if data or model has changed since."""
    recorded, reference = ledger.state.data, plan.config(plan.search.reference)
    model = model_digest(model_folder(reference.model))
    firsts = {f"first_{task}": digest for task, digest in first_digests(plan).items()}
    description = {"data": data.describe(), "digest": data.corpus.digest, "model": model, **firsts}
    if not recorded:
        judges = asdict(judges_of(plan.comparing, data, plan.profile.folds, reference.dev_examples))
        origin, trivial = data.corpus.origin.model_dump(), baselines(plan, data)
        ledger.record({"event": "data", "data": description, "origin": origin, "baselines": trivial, "judges": judges})
        return
    _check_same(recorded, description, "digest", "data")
    _check_same(recorded, description, "model", "model")
    for key in firsts:
        _check_same(recorded, description, key, f"data of the first stage `{key.removeprefix('first_')}`")


def plain_digest(plan: Plan) -> str:
    """Return the digest of the data of trials that learn from no generated pairs; empty if all trials do."""
    config = plan.config(plan.search.reference).but(pairs_examples=0)
    return "" if config.task == "rewriting" else task_data(config).corpus.digest


def _check_same(recorded: Mapping[str, str], now: Mapping[str, str], key: str, what: str) -> None:
    """Raise UserError if a digest differs from the ledger's."""
    if recorded.get(key, now[key]) != now[key]:
        raise UserError(
            f"The {what} has changed since this search began: its digest is {now[key][:12]}, but was {recorded[key][:12]}; "
            "choose another --name"
        )


def record_pairs(plan: Plan, ledger: Ledger) -> None:
    """Record the digest of all generated pairs that trials learn from, once; raise UserError if they have changed since."""
    folders = pair_sets(plan)
    if not folders:
        return
    recorded, now = ledger.state.data, {"pairs": sets_digest(folders)}
    _check_same(recorded, now, "pairs", "set of generated pairs")
    if "pairs" not in recorded:
        state = ledger.state
        known = {"origin": state.origin.model_dump() if state.origin else None, "baselines": state.baselines}
        ledger.record({"event": "data", "data": recorded | now, **known, "judges": state.judges or None})
