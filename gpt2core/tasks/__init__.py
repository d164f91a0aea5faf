"""Tasks. To add one: a file with a subclass of `Task`, and a line in TASKS."""

from gpt2core.component import Table
from gpt2core.data.poems import load_poems
from gpt2core.data.sentiment import load_cfimdb, load_sst
from gpt2core.data.shakespeare import load_plays
from gpt2core.tasks.base import Evaluation, Task, TaskData
from gpt2core.tasks.multi import Multi
from gpt2core.tasks.own import OwnClassification, OwnGeneration, OwnText
from gpt2core.tasks.paraphrase import Paraphrase
from gpt2core.tasks.pretraining import Pretraining
from gpt2core.tasks.rewriting import Rewriting
from gpt2core.tasks.sentiment import Sentiment
from gpt2core.tasks.sonnet import Sonnet

SINGLE: dict[str, Task] = {
    "sst": Sentiment("sst", load_sst, ("very negative", "negative", "neutral", "positive", "very positive")),
    "cfimdb": Sentiment("cfimdb", load_cfimdb, ("negative", "positive")),
    "paraphrase": Paraphrase(),
    "sonnet": Sonnet(),
    "rewriting": Rewriting(),
    "pretraining": Pretraining("pretraining", load_plays),
    "poems": Pretraining("poems", load_poems),
    "classify": OwnClassification(),
    "generate": OwnGeneration(),
    "text": OwnText(),
}
TOGETHER = ("sst", "cfimdb", "paraphrase", "sonnet", "pretraining", "poems")  # tasks that a run of several can have

TASKS: Table[Task] = Table("task", Task, {**SINGLE, "multi": Multi({name: SINGLE[name] for name in TOGETHER})})

__all__ = ["TASKS", "Evaluation", "Task", "TaskData"]
