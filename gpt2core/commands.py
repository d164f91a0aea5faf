"""What the commands of `python -m gpt2core` do."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gpt2core import checkpoints
from gpt2core.cli import settings
from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus
from gpt2core.decoding.generate import generate as continue_prompts
from gpt2core.describe import describe as count
from gpt2core.errors import ConfigError, DataError, DivergedError
from gpt2core.export import export as export_run
from gpt2core.files import write_json
from gpt2core.lookup import lookup
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import load_data
from gpt2core.tokenizer import Tokenizer
from gpt2core.training import build
from gpt2core.training import train as train_run
from gpt2core.weights import load_model, model_folder

CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)


def describe(options: argparse.Namespace) -> None:
    """Print total and trainable parameters."""
    result = count(_config(options), options.preset)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    table = Table(title=f"{result['model']}, adapter {result['adapter']}", title_justify="left", header_style="bold")
    for heading in ("reading", "blocks", "trainable parameters", "share", "predicted GPU memory"):
        table.add_column(heading, justify="left" if heading in ("reading", "blocks") else "right")
    total = result["total_parameters"]
    for row in filter(None, (result["chosen"], result["beside"])):
        table.add_row(
            f"{row['preset']}: {row['meaning']}",
            row["blocks"],
            f"{row['trainable']:,}",
            f"{100 * row['trainable'] / total:.3f}%",
            f"{row['predicted_gpu_memory_gb']:.2f} GB",
        )
    CONSOLE.print(table)
    CONSOLE.print(
        f"Total parameters: {total:,} ({result['total_parameters_with_pooler']:,} with the study's unused pooler)"
    )
    CONSOLE.print(f"GPU memory is {result['gpu_memory']}")


def train(options: argparse.Namespace) -> None:
    """Train one run, a line for each epoch."""
    config, out = _config(options), Path(options.out)
    task = lookup(TASKS, config.task, "task")
    base = load_model(config.model)
    data = load_data(task, config.data_dir, Tokenizer.load(model_folder(config.model)), base.config.n_positions)
    CONSOLE.print(f"Model: {config.model}, adapter {config.adapter}\nData: {data.corpus.describe()}")
    history = []
    try:
        for report in train_run(config, base, data, folder=out):
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in report.metrics.items())
            CONSOLE.print(f"epoch {report.epoch}/{config.epochs}: {numbers}")
            history.append({"epoch": report.epoch, **report.metrics})
    except DivergedError as error:
        raise ConfigError(f"The run diverged: {error}; lower --lr") from None
    write_json(out / "metrics.json", {"config": config.model_dump(), "data": data.corpus.digest, "epochs": history})
    CONSOLE.print(f"Best epoch: {out / checkpoints.BEST}; metrics: {out / 'metrics.json'}")
    CONSOLE.print(f"As a model folder: python -m gpt2core export --checkpoint {out} --out FOLDER")


def evaluate(options: argparse.Namespace) -> None:
    """Print a model's scores beside the floors."""
    config, model = _model(options)
    task = lookup(TASKS, config.task, "task")
    data = load_data(task, config.data_dir, Tokenizer.load(model_folder(config.model)), model.config.n_positions)
    _has_gold(data.corpus, options.split)
    CONSOLE.print(
        f"Model: {options.checkpoint or options.model}\nData: {data.corpus.describe()}; split {options.split}"
    )
    evaluation = task.evaluate(model, data, config, options.split)
    table = Table("measure", "value", header_style="bold")
    for name, value in evaluation.metrics.items():
        table.add_row(name, f"{value:.4f}")
    for floor in task.report(data, options.split).values():
        table.add_row(
            f"floor, no model: {floor['meaning']}", f"{floor['continuation']:.4f} ± {floor['continuation_sd']:.4f}"
        )
    CONSOLE.print(table)


def _has_gold(corpus: Corpus, split: str) -> None:
    """Raise DataError where a split's texts are only the lines that are given."""
    short = [row.id for row in corpus.splits.get(split, []) if row.text.count("\n") < 3]
    if short:
        raise DataError(
            f"{corpus.origin}: {len(short)} of the {split} split's {len(corpus.splits[split])} texts are the 3 given lines "
            "alone, so there is nothing to score against; without --data-dir the package's whole sonnets are taken"
        )


def generate(options: argparse.Namespace) -> None:
    """Print continuations of prompts."""
    if options.samples < 1:
        raise ConfigError(f"The value of `--samples` is {options.samples}, but must be >= 1")
    config, model = _model(options)
    tokenizer = Tokenizer.load(model_folder(config.model))
    texts = [text.replace("\\n", "\n") for text in options.prompt for _ in range(options.samples)]
    seeds = [config.seed + number for number in range(len(texts))]
    new = continue_prompts(model, tokenizer.encode(texts), config.decoding, seeds=seeds, eos=tokenizer.eos)
    for text, ids in zip(texts, new, strict=True):
        CONSOLE.print(f"{text}{tokenizer.decode(ids)}\n")


def export(options: argparse.Namespace) -> None:
    """Write a run's best epoch as a Hugging Face folder."""
    out = Path(options.out)
    epoch = export_run(checkpoints.run_config(Path(options.checkpoint)), Path(options.checkpoint), out)
    CONSOLE.print(
        f"Epoch {epoch} is in {out}: GPT2LMHeadModel.from_pretrained({str(out)!r}) loads it, and so does --model {out}"
    )


def _config(options: argparse.Namespace, **known: Any) -> RunConfig:
    """The run that the flags describe, on top of what is `known`."""
    given = {key: value for key, value in vars(options).items() if key in RunConfig.model_fields and value is not None}
    return RunConfig.of({**known, **settings(getattr(options, "set", [])), **given})


def _model(options: argparse.Namespace) -> tuple[RunConfig, GPT2]:
    """Return the configuration and the model of `--checkpoint` or `--model`."""
    if options.checkpoint is None:
        config = _config(options)
        return config, load_model(config.model)
    folder = Path(options.checkpoint)
    trained = checkpoints.run_config(folder)
    model = build(trained, load_model(trained.model), torch.device("cpu"))
    checkpoints.load_best(folder, model)
    return _config(options, **trained.model_dump()), model.train(False)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "describe": describe,
    "train": train,
    "evaluate": evaluate,
    "generate": generate,
    "export": export,
}
