"""Tasks. To add one: a file with a class of `Task`'s shape, and a line in TASKS."""

from gpt2core.tasks.base import Evaluation, Task, TaskData
from gpt2core.tasks.pretraining import Pretraining
from gpt2core.tasks.sonnet import Sonnet

TASKS: dict[str, Task] = {"sonnet": Sonnet(), "pretraining": Pretraining()}

__all__ = ["TASKS", "Evaluation", "Task", "TaskData"]
