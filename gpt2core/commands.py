"""The functions behind the commands of `gpt2-search`."""

import argparse
import json
import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.text import Text

from gpt2core import cutting, submission
from gpt2core.attention import is_sparse
from gpt2core.builders import build_model, device
from gpt2core.checkpoints.best import load_best, run_config
from gpt2core.checkpoints.layout import BEST, METRICS
from gpt2core.cli import at_least, command_text, import_flags, settings
from gpt2core.config import OWN_TASKS, RunConfig, keys_that_decide
from gpt2core.console import console, print_line
from gpt2core.convert import convert as convert_weights
from gpt2core.decoding.generate import generate as continue_prompts
from gpt2core.decoding.settings import DECODING, choice_text
from gpt2core.describe import count_trainable, with_memory
from gpt2core.describe import describe as count
from gpt2core.errors import ConfigError, DataError, DivergedError, visible
from gpt2core.files import atomic_path, write_json
from gpt2core.folds import train as train_run
from gpt2core.identity import components_of, keys_read
from gpt2core.keys import KEY_HEADINGS, check_read, described_keys, key_cells
from gpt2core.metrics.metric import Metric
from gpt2core.model import GPT2
from gpt2core.model_config import unused_decoding
from gpt2core.model_folder import Format, check_format, is_model_folder, load_folder, sort_classes
from gpt2core.model_folder import export as export_run
from gpt2core.naming import words
from gpt2core.pretrain_stage import cached_starting_model, run_data, starting_model
from gpt2core.storage import fetch, local
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import objective_of
from gpt2core.tasks.classification import Classification
from gpt2core.tasks.gold import check_gold
from gpt2core.tasks.own import with_task
from gpt2core.terminal_table import Heading, fitted
from gpt2core.tokenizer import Tokenizer
from gpt2core.training import EpochReport
from gpt2core.weights import hub_name, model_folder

CONSOLE = console(160)

MOST_CUTS = 10  # best cut-outs that are printed
MOST_SAMPLES = 1_000  # of a prompt, since all are generated in one batch
#: Metrics of the cost of an epoch, not of the model.
COSTS = (
    *("train_seconds", "train_examples", "eval_seconds", "tokens_per_second"),
    *("trainable_parameters", "kept_parameters", "predicted_gpu_memory_gb"),
)


def _say(text: str) -> None:
    print_line(CONSOLE, text)


def _print_table(headings: Sequence[Heading], rows: Sequence[Sequence[str]]) -> None:
    CONSOLE.print(fitted(headings, [[Text(visible(cell)) for cell in row] for row in rows], CONSOLE.width))


def describe(options: argparse.Namespace) -> None:
    """Print total and trainable parameters, and the GPU memory of a step."""
    config = _config(options)
    result = with_memory(count(config, options.preset, options.length), config)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    lora = f" of {_rank_words(result)} on {', '.join(result['targets'])}" if result["targets"] else ""
    lora += f" ({', '.join(result['variants'])})" if result["variants"] else ""
    total = result["total_parameters"]
    rows = [
        [
            f"{row['preset']}: {row['meaning']}",
            f"{row['trainable']:,}",
            f"{100 * row['trainable'] / total:.3f}%",
            f"{row['predicted_gpu_memory_gb']:.2f} GB",
        ]
        for row in filter(None, (result["chosen"], result["beside"]))
    ]
    _say(f"{result['model']}, adapter {result['adapter']}{lora}")
    numbers = ("trainable parameters", "share", "predicted GPU memory")
    _print_table([Heading("preset"), *(Heading(text, number=True) for text in numbers)], rows)
    with_pooler = result["total_parameters_with_pooler"]
    _say(f"Total parameters: {total:,} ({with_pooler:,} with the study's unused pooler)")
    if result["head"]:
        classes, channels = result["head"]
        size = f"{classes} x {channels:,} = {classes * channels:,}"
        _say(f"Both counts include the head of {result['task']}: {size}")
    _say(f"GPU memory is {result['gpu_memory']}")
    cost = result["attention"]
    names = ", ".join(cost["schedule"]) if len(set(cost["schedule"])) > 1 else cost["schedule"][0]
    _say(
        f"Attention {names} at {cost['length']:,} tokens: {cost['attended_pairs']:,} pairs of {cost['dense_pairs']:,} "
        f"({100 * cost['share']:.2f}%), {cost['flops'] / 1e9:,.3f} GFLOP forward, dense {cost['dense_flops'] / 1e9:,.3f}"
    )


def _rank_words(described: Mapping[str, Any]) -> str:
    """Return the rank of LoRA pairs, and of each block if the name of the ranks does not list them."""
    text, by_block = str(described["ranks"]), ",".join(map(str, described["ranks_by_block"]))
    is_listed = text in (f"rank {described['rank']}", f"ranks {by_block}")
    return text if is_listed else f"{text} ({by_block})"


def train(options: argparse.Namespace) -> None:
    """Train one run, and print a line for each epoch."""
    at_least(options, 0, "checkpoint_minutes")
    config = _config(options)
    if config.task in OWN_TASKS and not config.train:
        raise ConfigError(f"The task `{config.task}` needs --train, your own data")
    objective = objective_of(TASKS[config.task], config)
    count_trainable(config)  # raises early if attention or adapter cannot be applied
    start, data = cached_starting_model(), run_data(config)
    start(config)  # train a first stage before anything is written
    out = _folder_to_write(options.out)
    _say(f"Model: {config.model}, adapter {config.adapter}")
    _print_ignored_settings(config)
    _say(f"Data: {data.describe()}")
    history: list[dict[str, Any]] = []
    try:
        for report in train_run(config, start, data, folder=out, checkpoint_minutes=options.checkpoint_minutes):
            for note in report.notes:
                _say(f"warning: {note}")
            seconds = report.metrics.get("train_seconds", 0.0) + report.metrics["eval_seconds"]
            _say(f"epoch {report.epoch}/{config.epochs}: {_scores(report, objective, config)}, {seconds:.1f} s")
            history.append(_record(report))
            if (last := report.best) is not None:
                _say(f"best epoch, {last.epoch}: {_scores(last, objective, config)}")
                history[last.epoch - 1] |= _record(last)
    except DivergedError as error:
        raise ConfigError(f"The run diverged: {error}; lower --lr") from None
    write_json(out / METRICS, {"config": config.model_dump(), "data": data.corpus.digest, "epochs": history})
    name = objective.name
    best = objective.direction.best([e for e in history if math.isfinite(e[name])], key=lambda e: float(e[name]))
    if best is None:
        raise ConfigError(f"The {name} of no epoch is finite, so none is the best; choose another `objective`")
    _say(f"Best by {name}: epoch {best['epoch']} in {out / BEST}; metrics: {out / METRICS}")
    command = command_text(["--checkpoint", str(out), *import_flags(options.imports)])
    _say(f"As a model folder: gpt2-search export {command} --out FOLDER")


def _scores(report: EpochReport, objective: Metric, config: RunConfig) -> str:
    """Return the scores of an epoch in one line."""
    known = TASKS[config.task].metrics.values()
    readable = _readable(report.metrics, known, "dev", sure={objective.name})
    if report.judged:
        judged = _readable(report.judged.metrics, known, "dev", sure={objective.name})
        readable += [(f"judged {name}", value) for name, value in judged]
    return ", ".join(f"{name} {value}" for name, value in readable)


def _record(report: EpochReport) -> dict[str, Any]:
    """Return the scores of an epoch for `metrics.json`."""
    return {"epoch": report.epoch, **report.metrics, **({"judged": report.judged.metrics} if report.judged else {})}


def evaluate(options: argparse.Namespace) -> None:
    """Print the scores of a model next to the baselines."""
    config, model, description = _model(options)
    task, split = TASKS[config.task], options.split
    data = run_data(config)
    check_gold(data.corpus, split, config.task)
    _say(f"Model: {description}")
    _print_ignored_settings(config)
    _say(f"Data: {data.describe()}; split {split}")
    with _explain_divergence(options):
        evaluation = task.evaluate(model, data, config, split)
    rows = [[name, value] for name, value in _readable(evaluation.metrics, task.metrics.values(), split)]
    if DECODING in evaluation.tables:
        rows.append(["best decoding", choice_text(config, *evaluation.tables[DECODING])])
    digits = {metric.on(split): metric.digits for metric in task.metrics.values()}
    baselines = task.baselines(data, config, split) if "train" in data.splits else {}
    for baseline in baselines.values():
        text = ", ".join(_baseline_score(name, *score, digits.get(name, 2)) for name, score in baseline.scores.items())
        rows.append([f"baseline: {baseline.meaning}", text])
    _print_table([Heading(""), Heading("value, with a 95% interval if known")], rows)


def predict(options: argparse.Namespace) -> None:
    """Write the predicted class of each text of a split, in the course's submission format."""
    config, model, description = _model(options)
    _check_single(config)
    task, split = TASKS[config.task], options.split
    if not isinstance(task, Classification):
        classifying = ", ".join(name for name, entry in TASKS.items() if isinstance(entry, Classification))
        raise ConfigError(f"The task `{config.task}` predicts no classes; those that do: {classifying}")
    data = run_data(config)
    tokens = data.splits.get(split)
    if not tokens:
        raise DataError(f"{data.corpus.origin.source}: there is no {split} split of the {data.corpus.name}")
    _say(f"Model: {description}\nData: {data.describe()}; split {split}")
    with _explain_divergence(options):
        classes = task.predict(model, tokens, data.tokenizer, config)
    out = Path(options.out).expanduser()
    try:
        with atomic_path(out) as part:
            part.write_text(task.submission(tokens, classes, config), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: must be a writable file ({error.strerror})") from None
    _say(f"{len(tokens)} predictions are in {out}")


@contextmanager
def _explain_divergence(options: argparse.Namespace) -> Iterator[None]:
    """Turn DivergedError into an error that names the model."""
    try:
        yield
    except DivergedError as error:
        raise ConfigError(f"{options.checkpoint or options.model}: cannot be scored: {error}") from None


def _readable(
    metrics: Mapping[str, float], known: Iterable[Metric], split: str, sure: Container[str] | None = None
) -> list[tuple[str, str]]:
    """Return the names and values of metrics for people, without costs. Intervals are shown, or only those of `sure`."""
    hidden = {*COSTS, "train_perplexity"}
    digits = {metric.on(split): metric.digits for metric in known}
    rows = []
    for name, value in metrics.items():
        bound = any(name.endswith(end) and name.removesuffix(end) in metrics for end in ("_low", "_high"))
        if name in hidden or bound:
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        places = digits.get(name)
        text = f"{value:.4g}" if places is None else f"{value:,.{places}f}"
        if low is not None and high is not None and (sure is None or name in sure):
            text += f" [{low:,.{places or 2}f}, {high:,.{places or 2}f}]"
        rows.append((words(name), text))
    return rows


def _baseline_score(name: str, mean: float, deviation: float, digits: int) -> str:
    spread = f" ± {deviation:.{digits}f}" if deviation else ""
    return f"{words(name)} {mean:.{digits}f}{spread}"


def generate(options: argparse.Namespace) -> None:
    """Print continuations of prompts."""
    if not 1 <= options.samples <= MOST_SAMPLES:
        raise ConfigError(f"The value of `--samples` is {options.samples}, but must be 1 to {MOST_SAMPLES:,}")
    config, model, _ = _model(options)
    _check_single(config)
    _print_ignored_settings(config)
    tokenizer = Tokenizer.load(model_folder(config.model))
    texts = [unescape(text) for text in options.prompt for _ in range(options.samples)]
    # A text depends neither on the other prompts nor on the number of samples.
    seeds = [config.seed + number for _ in options.prompt for number in range(options.samples)]
    prompts, ends = tokenizer.encode(texts), tokenizer.stops
    new = continue_prompts(model, prompts, config.decoding_config, seeds=seeds, eos=ends, tokenizer=tokenizer)
    for text, ids in zip(texts, new, strict=True):
        _say(f"{text}{tokenizer.decode(ids)}\n")


def unescape(prompt: str) -> str:
    r"""Replace `\n` by a new line and `\\` by a backslash; other backslashes stay. Raises ConfigError."""
    text = re.sub(r"\\([n\\])", lambda match: "\n" if match[1] == "n" else "\\", prompt)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # Python's stand-in for bytes that are not UTF-8
        raise ConfigError(f"The value of `--prompt` is {prompt!r}, but must be UTF-8 text")
    return text


def export(options: argparse.Namespace) -> None:
    """Write the best epoch of a run as a Hugging Face folder."""
    folder = _fetched(options.checkpoint)
    config = run_config(folder)
    check_format(config, options.format)
    out = _folder_to_write(options.out)
    epoch = export_run(config, folder, out, options.format)
    parts = TASKS[config.task].parts(config)
    runs = {out / name: part.config for name, part in parts.items()} or {out: config}
    for path, run in runs.items():
        _say(f"Epoch {epoch} is in {path}: {_usage(run, path, options.format)}")
    if is_sparse(config.attention_config):
        _say(f"warning: this run has `{config.attention}` attention, but transformers uses dense attention")


def _config(options: argparse.Namespace, **known: Any) -> RunConfig:
    """Return the run that the flags describe, with defaults from `known`.

    Raises UserError, also for an unknown component and for a flag that the run does not read.
    """
    known_flags = RunConfig.model_fields.keys() & vars(options).keys()
    given = {key: value for key, value in vars(options).items() if key in known_flags and value is not None}
    given = settings(getattr(options, "set", [])) | given
    config = RunConfig.of(with_task({**known, **given}))
    components_of(config)
    check_read([config], given)
    return config


def _folder_to_write(name: str) -> Path:
    folder = Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: must be a writable folder ({error.strerror})") from None
    return folder


def _print_ignored_settings(config: RunConfig) -> None:
    if note := unused_decoding(model_folder(config.model)):
        _say(f"note: {note}")


def _model(options: argparse.Namespace) -> tuple[RunConfig, GPT2, str]:
    """Return the configuration and the model of `--checkpoint` or `--model`, and a description of it."""
    valid = [*keys_that_decide("score"), *keys_that_decide("texts")]
    for key in settings(getattr(options, "set", [])):
        if key not in valid:
            raise ConfigError(f"The key `{key}` cannot be `--set` for a trained model; valid: {', '.join(valid)}")
    if options.checkpoint is None:
        config = _config(options)
        _check_tasks(config, None)
        return config, starting_model(config).requires_grad_(False).to(device()), config.model
    folder = _fetched(options.checkpoint)
    if is_model_folder(folder):
        loaded = load_folder(folder)
        config = _config(options, **loaded.config.model_dump())
        _check_tasks(config, loaded.config)
        names = TASKS[config.task].class_names(config)
        model = sort_classes(loaded.model, names) if names else loaded.model
        return config, model.to(device()), loaded.description
    trained = run_config(folder)
    config = _config(options, **trained.model_dump())
    _check_tasks(config, trained)
    base = starting_model(trained)
    model = build_model(trained, base, device())
    epoch = load_best(folder, model, base)
    description = f"{trained.model}, adapter {trained.adapter}, epoch {epoch} of {folder}"
    return config, model.train(False).requires_grad_(False), description


def _usage(config: RunConfig, out: Path, format: Format) -> str:
    """Return how the exported model of a single task is loaded."""
    classes = TASKS[config.task].classes(config)
    kind = "GPT2ForSequenceClassification" if classes else "GPT2LMHeadModel"
    if format == "adapter":
        base = f"{hub_name(config.model)!r}" + (f", num_labels={classes}" if classes else "")
        return f"peft loads it with PeftModel.from_pretrained({kind}.from_pretrained({base}), {str(out)!r})"
    return f"transformers loads it with {kind}.from_pretrained({str(out)!r}), and so does --model {out}"


def _check_single(config: RunConfig) -> None:
    """Raise ConfigError for a run of several tasks, which has a model for each."""
    if parts := TASKS[config.task].parts(config):
        raise ConfigError(
            f"The checkpoint has a model for each of the tasks {', '.join(parts)}: write these by `gpt2-search export`, "
            f"then name the folder of one, as in FOLDER/{next(iter(parts))}"
        )


def _check_tasks(config: RunConfig, trained: RunConfig | None) -> None:
    """Raise ConfigError for other tasks than those of a run of several, or for several of another run or model."""
    wanted = TASKS[config.task].parts(config).keys()
    known = TASKS[trained.task].parts(trained).keys() if trained else set()
    if trained and wanted != known:
        _check_single(trained)
    if wanted and not known:
        raise ConfigError(
            f"The value of `task` is {config.task!r}, but must be a single task: only a checkpoint of several tasks has a model "
            "for each"
        )


def convert(options: argparse.Namespace) -> None:
    """Write weights saved by torch.save as a Hugging Face folder."""
    file, out = (Path(path).expanduser() for path in (options.file, options.out))
    converted = convert_weights(file, out, options.like)
    _say(f"The model is in {out}, with the shape and tokenizer of {converted.like}; use it by --model {out}")
    if converted.left_out:
        _say(f"Left out, since a GPT-2 without head has no such tensors: {', '.join(converted.left_out)}")


def cut(options: argparse.Namespace) -> None:
    """Print the scores of patterns of ranks that are cut out of a nested LoRA and, for some, of those trained alone."""
    at_least(options, 1, "rank", "patterns")
    at_least(options, 0, "alone")
    folder = _fetched(options.checkpoint)
    cuts = cutting.Cuts(folder, {key: vars(options)[key] for key in ("data_dir",) if key in options})
    scores = cuts.scored(options.rank, options.patterns)
    alone = cuts.trained_alone(scores, options.alone, lambda done: _say(f"Trained alone: {done} of {options.alone}"))
    if options.out:
        write_json(Path(options.out), {"cut_out": scores, "trained_alone": alone})
    _say(f"{cuts.description}, cut to the mean rank {options.rank}: {cuts.parameters(options.rank):,} parameters each")
    uniform = cuts.uniform(options.rank)
    _print_cuts(cuts.objective, scores, alone, uniform)
    if len(alone) >= cutting.LEAST:
        r = cutting.agreement([scores[ranks] for ranks in alone], list(alone.values()))
        bounds = "" if r.low is None else f" [{r.low:.2f}, {r.high:.2f}]"
        _say(f"Rank correlation of both scores (Spearman) over {len(alone)} patterns: {r.estimate:.2f}{bounds}")
    best = [ranks for ranks in scores if ranks != uniform][:3]
    _say(f"Confirm the best on fresh seeds: {cuts.confirmation(best, options.rank)}")


def _print_cuts(objective: Metric, scores: Mapping[str, float], alone: Mapping[str, float], uniform: str) -> None:
    """Print the best cut-outs, uniform ranks, and the patterns that were trained alone too."""
    shown = [ranks for place, ranks in enumerate(scores) if place < MOST_CUTS or ranks in alone or ranks == uniform]
    columns = ("cut out", "trained alone")
    headings = [Heading("ranks"), *(Heading(f"{objective.name} {column}", number=True) for column in columns)]
    digits = objective.digits
    cells = [[f"{scores[ranks]:.{digits}f}", f"{alone[ranks]:.{digits}f}" if ranks in alone else ""] for ranks in shown]
    _print_table(headings, [[ranks, *own] for ranks, own in zip(shown, cells, strict=True)])


def submit(options: argparse.Namespace) -> None:
    """Write the files that the course asks for, and a zip of them."""
    out, contents, sources = _folder_to_write(options.out), dict[str, str](), dict[str, str]()
    for place in options.runs:
        given = argparse.Namespace(checkpoint=place, model=None, data_dir=options.data_dir)
        config, model, description = _model(given)
        _check_single(config)
        data = run_data(config)
        _say(f"{description}: {data.describe()}")
        for split in ("dev", "test"):
            name = submission.file_name(config, split)
            if name in sources:
                raise ConfigError(f"Both {sources[name]} and {place} would be {name}; give only one of them")
            sources[name] = place
            if data.splits.get(split):
                with _explain_divergence(given):
                    contents[name] = submission.content(model, config, data, split, options.labels)
    missing = submission.write(out, contents)
    _say(f"{len(contents)} files and {submission.ZIP} are in {out}: {', '.join(contents)}")
    if missing:
        _say(f"Files of the course that these runs and this data do not give: {', '.join(missing)}")


def keys(options: argparse.Namespace) -> None:
    """Print all keys, or those that the run of the flags reads."""
    is_narrowed = bool(options.set) or not RunConfig.model_fields.keys().isdisjoint(vars(options))
    rows = described_keys(keys_read(_config(options)) if is_narrowed else None)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    headings = [Heading(text) for text in KEY_HEADINGS]
    _print_table(headings, [key_cells(row) for row in rows])


def _fetched(place: str) -> Path:
    """Return the folder of a run, or the local copy of a remote one."""
    folder = local(place)
    fetch(folder)
    return folder


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    function.__name__: function
    for function in (keys, describe, train, evaluate, predict, generate, export, cut, convert, submit)
}
