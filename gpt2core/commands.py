"""What the commands of `python -m gpt2core` do."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gpt2core import checkpoints
from gpt2core.adapters import ADAPTERS
from gpt2core.attention import ATTENTION
from gpt2core.cli import settings
from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus
from gpt2core.decoding import DECODERS
from gpt2core.decoding.generate import generate as continue_prompts
from gpt2core.describe import describe as count
from gpt2core.errors import ConfigError, DataError, DivergedError
from gpt2core.export import export as export_run
from gpt2core.files import write_json
from gpt2core.lookup import lookup
from gpt2core.metrics.floors import GIVEN
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import load_data
from gpt2core.tokenizer import Tokenizer
from gpt2core.training import build
from gpt2core.training import train as train_run
from gpt2core.weights import load_model, model_folder

CONSOLE = Console(highlight=False, markup=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)

#: What may be said of a model that is trained already.
JUDGED = ("task", "data_dir", "decoder", "temperature", "top_k", "top_p", "max_new_tokens", "decode_seeds", "seed")


def describe(options: argparse.Namespace) -> None:
    """Print total and trainable parameters."""
    result = count(_config(options), options.preset)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    lora = f" of rank {result['rank']} on {', '.join(result['targets'])}" if result["targets"] else ""
    table = Table("reading", title=f"{result['model']}, adapter {result['adapter']}{lora}", title_justify="left")
    for heading in ("trainable parameters", "share", "predicted GPU memory"):
        table.add_column(heading, justify="right")
    total = result["total_parameters"]
    for row in filter(None, (result["chosen"], result["beside"])):
        table.add_row(
            f"{row['preset']}: {row['meaning']}",
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
    config = _config(options)
    task = TASKS[config.task]
    base = load_model(config.model)
    data = load_data(task, config.data_dir, Tokenizer.load(model_folder(config.model)), base.config.n_positions)
    out = _folder_to_write(options.out)
    CONSOLE.print(f"Model: {config.model}, adapter {config.adapter}\nData: {data.describe()}")
    history = []
    try:
        for report in train_run(config, base, data, folder=out):
            seconds = report.metrics["train_seconds"] + report.metrics["eval_seconds"]
            numbers = ", ".join(f"{name} {value}" for name, value in _readable(report.metrics))
            CONSOLE.print(f"epoch {report.epoch}/{config.epochs}: {numbers}, {seconds:.1f} s")
            history.append({"epoch": report.epoch, **report.metrics})
    except DivergedError as error:
        raise ConfigError(f"The run diverged: {error}; lower --lr") from None
    write_json(out / "metrics.json", {"config": config.model_dump(), "data": data.corpus.digest, "epochs": history})
    sign = 1 if task.direction == "max" else -1
    best = max(history, key=lambda epoch: sign * epoch[task.objective])
    CONSOLE.print(
        f"Best by {task.objective}: epoch {best['epoch']}, in {out / checkpoints.BEST}; metrics: {out / 'metrics.json'}"
    )
    CONSOLE.print(f"As a model folder: python -m gpt2core export --checkpoint {out} --out FOLDER")


def evaluate(options: argparse.Namespace) -> None:
    """Print a model's scores beside the floors."""
    config, model, words = _model(options)
    task, split = TASKS[config.task], options.split
    data = load_data(task, config.data_dir, Tokenizer.load(model_folder(config.model)), model.config.n_positions)
    _has_gold(data.corpus, split, config.task)
    CONSOLE.print(f"Model: {words}\nData: {data.describe()}; split {split}")
    try:
        evaluation = task.evaluate(model, data, config, split)
    except DivergedError as error:
        raise ConfigError(f"{options.checkpoint or options.model}: cannot be scored: {error}") from None
    table = Table("", "value, with its 95% interval where there is one", header_style="bold")
    for name, value in _readable(evaluation.metrics):
        table.add_row(name, value)
    for floor in task.floors(data, split).values():
        text = ", ".join(f"{key.replace('_', ' ')} {mean:.2f} ± {sd:.2f}" for key, (mean, sd) in floor.scores.items())
        table.add_row(f"floor, no model: {floor.meaning}", text)
    CONSOLE.print(table)


def _readable(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Name and value of what a person wants to read: intervals beside their estimates, no timings."""
    timings = ("train_seconds", "eval_seconds", "tokens_per_second", "train_perplexity")
    rows = []
    for name, value in metrics.items():
        bound = any(name.endswith(end) and name.removesuffix(end) in metrics for end in ("_low", "_high"))
        if name in timings or bound:
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
        rows.append((name.replace("_", " "), f"{value:.2f}{interval}" if interval else f"{value:.4g}"))
    return rows


def _has_gold(corpus: Corpus, split: str, task: str) -> None:
    """Raise DataError where a split is not there, or where its texts are only the lines that are given."""
    rows = corpus.splits.get(split)
    if not rows:
        filled = ", ".join(name for name, texts in corpus.splits.items() if texts)
        raise DataError(f"{corpus.origin}: there is no {split} split of the {corpus.name}; valid: {filled}")
    short = sum(row.text.count("\n") < GIVEN for row in rows) if task == "sonnet" else 0
    if short:
        raise DataError(
            f"{corpus.origin}: {short} of the {split} split's {len(rows)} texts are the {GIVEN} given lines alone, "
            "so there is nothing to score against; without --data-dir the package's whole sonnets are taken"
        )


def generate(options: argparse.Namespace) -> None:
    """Print continuations of prompts."""
    if options.samples < 1:
        raise ConfigError(f"The value of `--samples` is {options.samples}, but must be >= 1")
    config, model, _ = _model(options)
    tokenizer = Tokenizer.load(model_folder(config.model))
    texts = [text.replace("\\n", "\n") for text in options.prompt for _ in range(options.samples)]
    seeds = [config.seed + number for number in range(len(texts))]
    new = continue_prompts(model, tokenizer.encode(texts), config.decoding, seeds=seeds, eos=tokenizer.eos)
    for text, ids in zip(texts, new, strict=True):
        CONSOLE.print(f"{text}{tokenizer.decode(ids)}\n")


def export(options: argparse.Namespace) -> None:
    """Write a run's best epoch as a Hugging Face folder."""
    config = checkpoints.run_config(Path(options.checkpoint))
    out = _folder_to_write(options.out)
    epoch = export_run(config, Path(options.checkpoint), out)
    CONSOLE.print(
        f"Epoch {epoch} is in {out}: transformers loads it with GPT2LMHeadModel.from_pretrained({str(out)!r}), "
        f"and so does --model {out}"
    )


def _config(options: argparse.Namespace, **known: Any) -> RunConfig:
    """The run that the flags describe, on top of what is `known`; every name in it is one of its table."""
    given = {key: value for key, value in vars(options).items() if key in RunConfig.model_fields and value is not None}
    config = RunConfig.of({**known, **settings(getattr(options, "set", [])), **given})
    lookup(TASKS, config.task, "task")
    lookup(ADAPTERS, config.adapter, "adapter")
    lookup(ATTENTION, config.attention, "attention")
    lookup(DECODERS, config.decoder, "decoder")
    return config


def _folder_to_write(name: str) -> Path:
    """Return an existing folder of that name; raise ConfigError where there can be none."""
    folder = Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: must be a folder that can be written to ({error.strerror})") from None
    return folder


def _model(options: argparse.Namespace) -> tuple[RunConfig, GPT2, str]:
    """Return the configuration and the model of `--checkpoint` or `--model`, and words that say which it is."""
    for key in settings(getattr(options, "set", [])):
        if key not in JUDGED:
            raise ConfigError(f"The key `{key}` cannot be `--set` for a trained model; valid: {', '.join(JUDGED)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.checkpoint is None:
        config = _config(options)
        return config, load_model(config.model).to(device), config.model
    folder = Path(options.checkpoint)
    trained = checkpoints.run_config(folder)
    config = _config(options, **trained.model_dump())
    model = build(trained, load_model(trained.model), device)
    epoch = checkpoints.load_best(folder, model)
    return config, model.train(False), f"{trained.model}, adapter {trained.adapter}, epoch {epoch} of {folder}"


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "describe": describe,
    "train": train,
    "evaluate": evaluate,
    "generate": generate,
    "export": export,
}
