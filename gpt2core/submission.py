"""The files that CS224N's GPT-2 project asks for, written by trained runs in the formats of its own programs."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gpt2core.config import FIXED, RunConfig
from gpt2core.errors import ConfigError
from gpt2core.files import atomic_path
from gpt2core.metrics.baselines import split_given
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import TaskData
from gpt2core.tasks.classification import Classification
from gpt2core.tasks.sonnet import continuations

ZIP = "submission.zip"
#: Adapter -> how the project calls what it trains.
MODES = {"last-linear": "last-linear-layer", "full": "full-model"}
SENTIMENT = ("sst", "cfimdb")
#: A paraphrase detector's answers, as GPT-2's tokens of no and yes or as classes.
LABELS = {"tokens": (3919, 8505), "classes": (0, 1)}
FILES = (
    *(f"{mode}-{task}-{split}-out.csv" for mode in MODES.values() for task in SENTIMENT for split in ("dev", "test")),
    *("para-dev-output.csv", "para-test-output.csv", "generated_sonnets_dev.txt", "generated_sonnets.txt"),
)


def file_name(config: RunConfig, split: str) -> str:
    """Return the name of the file for a run's predictions; raise ConfigError if the project asks for none."""
    if config.task in SENTIMENT:
        return f"{MODES.get(config.adapter, MODES['full'])}-{config.task}-{split}-out.csv"
    if config.task == "paraphrase":
        return f"para-{split}-output.csv"
    if config.task == "sonnet":
        return "generated_sonnets.txt" if split == "test" else "generated_sonnets_dev.txt"
    valid = ", ".join((*SENTIMENT, "paraphrase", "sonnet"))
    raise ConfigError(f"The project asks for no file of the task `{config.task}`; tasks that it has files for: {valid}")


def content(model: GPT2, config: RunConfig, data: TaskData, split: str, labels: str) -> str:
    """Return the content of a file, for a split that has texts; raise DivergedError if the model has diverged."""
    tokens, task = data.splits[split], TASKS[config.task]
    if not isinstance(task, Classification):
        return _sonnets(model, config, data, split)
    classes = task.predict(model, tokens, data.tokenizer, config)
    numbers = np.array(LABELS[labels])[classes] if config.task == "paraphrase" else classes
    return task.submission(tokens, numbers, config)


def _sonnets(model: GPT2, config: RunConfig, data: TaskData, split: str) -> str:
    """Continue each sonnet of a split once."""
    names, given = data.splits[split].ids, [split_given(text)[0] for text in data.splits[split].texts]
    (written,) = continuations(model, data.tokenizer, given, config.but(decode_seeds=1, decoding=FIXED))
    sonnets = [f"\n{name}\n{start}\n{end}\n\n" for name, start, end in zip(names, given, written, strict=True)]
    return "--Generated Sonnets-- \n\n" + "".join(sonnets)


def write(out: Path, contents: Mapping[str, str]) -> list[str]:
    """Write files and a zip of them into a folder; return the names of the project's files that are not among them."""
    for name, text in contents.items():
        with atomic_path(out / name) as part:
            part.write_text(text, encoding="utf-8")
    with atomic_path(out / ZIP) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in contents.items():
            archive.writestr(f"predictions/{name}", text)
    return [name for name in FILES if name not in contents]
