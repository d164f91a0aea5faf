"""Whether a plan can run at all: its names, its model and its data."""

from gpt2core.adapters import ADAPTERS
from gpt2core.decoding import DECODERS
from gpt2core.describe import count_trainable
from gpt2core.lookup import lookup
from gpt2core.stages import first_stage
from gpt2core.tasks import TaskData
from searches.deciding.comparing import judges_of
from searches.question import Choice, Plan
from trainables.warm import task_data


def check(plan: Plan, *, without_pairs: bool = False) -> TaskData:
    """Look every name up, read model and data, and return the data: bad input costs no trial. Raises UserError.

    `without_pairs`: pairs are generated later, so what is learnt from them is not there yet.
    """
    for point in plan.first_points():
        config = plan.config(point)
        lookup(ADAPTERS, config.adapter, "adapter")
        lookup(DECODERS, config.decoder, "decoder")
        count_trainable(config)  # applies attention and adapter to the model's shape
        if without_pairs:
            config = config.but(pairs_examples=0)
        stage = first_stage(config)
        if stage is not None:
            task_data(stage)
    data = task_data(config)
    judges_of(plan.comparing, data, plan.profile.folds)
    return data


def first_digests(plan: Plan) -> dict[str, str]:
    """The digests of the data that first stages learn from, by their task; generated pairs are not among them."""
    domain = plan.space.get("pretrain")
    others = (
        [{**plan.search.reference, "pretrain": value} for value in domain.values] if isinstance(domain, Choice) else []
    )
    configs = [plan.config(point).but(pairs_examples=0) for point in (*plan.first_points(), *others)]
    stages = {stage.task: stage for stage in map(first_stage, configs) if stage is not None}
    return {task: task_data(stage).corpus.digest for task, stage in stages.items()}
