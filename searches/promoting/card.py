"""The card of a promoted model, README.md with the front matter of the Hugging Face hub.

Everything in it is from the search's ledger and summary; what they do not tell is said to be not known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gpt2core.attention import is_sparse
from gpt2core.commands import COSTS
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.identity import identity
from gpt2core.metrics.metric import Metric
from gpt2core.model_folder import is_place
from gpt2core.tasks import TASKS
from gpt2core.weights import EMBEDDED, hub_name
from searches.formatting import count, point_text, value_text, with_interval
from searches.promoting.licences import base_terms, licence, text_licences
from searches.promoting.selection import Promotion
from searches.promoting.usage import commands, python_code
from searches.running.ledger import Trial
from searches.showing.markdown import markdown_cell, markdown_code
from searches.showing.tables import Column, Table, as_markdown
from searches.summary import Verdict

#: What the hub calls our metrics, where it has a name for them.
HUB_METRICS = {
    "chrf_continuation": "chrf",
    "chrf_whole": "chrf",
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "f1": "f1",
    "brier_score": "brier_score",
    "dev_loss": "loss",
    "dev_perplexity": "perplexity",
}
BOUNDS = ("_low", "_high")


def model_card(p: Promotion, name: str) -> ModelCard:
    """The card of a promotion that is registered as `name`."""
    parts = [
        f"# {name}",
        _what(p),
        _answer(p),
        _scores(p),
        _training(p),
        _use(p),
        _limits(p),
        _licences(p),
        _versions(p),
    ]
    body = "\n\n".join(parts)
    return ModelCard(f"---\n{_front(p, name).to_yaml()}\n---\n\n{body}\n")


def _front(p: Promotion, name: str) -> ModelCardData:
    config, results = p.config, _results(p)
    further: dict[str, Any] = {**licence(config, p.origin)}
    if not _unpublished(config):
        further["base_model"] = hub_name(config.model)
        further["base_model_relation"] = "adapter" if p.format == "adapter" else "finetune"
    kind = "text-classification" if TASKS[config.task].classes(config) else "text-generation"
    return ModelCardData(
        language="en",
        pipeline_tag=kind,
        library_name="peft" if p.format == "adapter" else "transformers",
        datasets=[p.origin.hub] if p.origin.hub else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        tags=["gpt2-search", config.task, config.adapter],
        model_name=name,
        eval_results=results,
        **further,
    )


def _results(p: Promotion) -> list[EvalResult]:
    """The scores that the hub has a name for, each with its interval where it has one."""
    corpus = p.origin.corpus or "not known"
    kind = "text-classification" if TASKS[p.config.task].classes(p.config) else "text-generation"
    return [
        EvalResult(
            task_type=kind,
            dataset_type=p.origin.hub or corpus,
            dataset_name=corpus,
            dataset_split="dev",
            dataset_args={"digest": p.digest},
            metric_type=HUB_METRICS[metric],
            metric_name=_readable(metric),
            metric_value=round(value, 4),
            metric_args=_interval_args(p.metrics, metric),
        )
        for metric, value in p.metrics.items()
        if metric in HUB_METRICS
    ]


def _interval_args(metrics: Mapping[str, float], metric: str) -> dict[str, float] | None:
    if f"{metric}_low" not in metrics:
        return None
    low, high = (round(metrics[f"{metric}{end}"], 4) for end in BOUNDS)
    return {"confidence_level": 0.95, "low": low, "high": high}


def _unpublished(config: RunConfig) -> bool:
    """Whether the base model has no name on the hub."""
    return config.model in EMBEDDED or is_place(config.model)


def _base(config: RunConfig) -> str:
    if is_place(config.model):
        return f"{markdown_code(Path(config.model).name)}, a folder of the machine that the search ran on"
    return markdown_code(hub_name(config.model) if config.model not in EMBEDDED else config.model)


def _what(p: Promotion) -> str:
    rank = f" of rank {p.config.rank}" if p.config.adapter == "lora" else ""
    form = "LoRA alone, in peft's format" if p.format == "adapter" else "the whole model"
    return (
        f"GPT-2 ({_base(p.config)}) tuned for the task `{p.config.task}`, adapter `{p.config.adapter}`{rank}: {form}. "
        f"It is trial {p.trial.name} of the hyperparameter search `{p.found.name}`, at epoch {p.epoch} of "
        f"{p.config.epochs}, made with gpt2-search."
    )


def _answer(p: Promotion) -> str:
    found, answer = p.found, p.found.answer
    question = found.summary.question if found.summary else "not known: the search has not come to its end"
    left = f"\n\n{count(found.unfinished, 'trial')} had not ended when this was written." if found.unfinished else ""
    claim = "" if p.chosen.named else " It is not claimed to be better than any other trial."
    more = _rests_on(answer) if answer else ""
    return (
        f"## Question and answer\n\n**Question:** {_cell(question)}\n\n**Answer:** {_cell(found.answer_text)}{more}\n\n"
        f"**Why this trial:** {p.chosen.why}.{claim}{left}"
    )


def _rests_on(answer: Verdict) -> str:
    """Evidence, scope and notes of an answer."""
    lines = [line for line in answer.evidence if line != answer.scope]
    evidence = "\n\n**Evidence:**\n\n" + "\n".join(f"- {_cell(line)}" for line in lines) if lines else ""
    scope = f"\n\n**Scope:** {_cell(answer.scope)}" if answer.scope else ""
    return evidence + scope + "".join(f"\n\n**Note:** {_cell(note)}" for note in answer.notes)


def _scores(p: Promotion) -> str:
    metric, found = p.found.metric, p.found
    searched = count(len(found.state.searched), "trial")
    reference = [t for t in found.state.searched if t.origin == "reference" and t is not p.trial]
    measured = [(f"this model, trial {p.trial.name}", p.metrics)]
    measured += [
        (f"the same with fresh seed {t.run['seed']}", _measured(t, p)) for t in found.state.replicates(p.trial.name)
    ]
    measured += [(f"the reference, trial {t.name}", _measured(t, p)) for t in reference]
    known = [(one["meaning"], one["scores"].get(metric.name)) for one in found.state.baselines.values()]
    baselines = [
        ScoreRow(label=f"trivial baseline: {meaning}", score=_with_sd(score[0], score[1], metric.digits))
        for meaning, score in known
        if score
    ]
    scores = [_score(label, metrics, metric) for label, metrics in measured] + baselines
    others = [_score(_readable(name), p.metrics, _metric(p, name)) for name in _others(p)]
    tables = [_score_table(f"{_readable(metric.name)} ({metric.direction.wanted} is better)", "score", scores)]
    tables += [_score_table("other measures of this model", "value", others)] if others else []
    return "\n\n".join(
        [
            "## Scores",
            f"All are of the **dev** split. The search looked at it to choose among {searched}, so the score of the chosen "
            f"one is too good by what that choice gave it. Intervals are over texts. {_fresh(p)}{_test(p)}",
            *map(as_markdown, tables),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A score with its interval, as texts; the interval is empty where there is none."""

    label: str
    score: str
    interval: str = ""


def _score_table(what: str, value: str, rows: list[ScoreRow]) -> Table[ScoreRow]:
    columns = [
        Column[ScoreRow](heading=what, show=lambda row: row.label),
        Column[ScoreRow](heading=value, show=lambda row: row.score, number=True),
        Column[ScoreRow](heading="95% interval", show=lambda row: row.interval),
    ]
    return Table(title="", columns=columns, rows=rows)


def _metric(p: Promotion, name: str) -> Metric | str:
    """A metric of the task, or the name of what is none."""
    return TASKS[p.config.task].metrics.get(name, name)


def _with_sd(mean: float, sd: float, digits: int) -> str:
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd else "")


def _fresh(p: Promotion) -> str:
    """The mean of the configuration's runs on fresh seeds, as the answer has it."""
    rows = p.found.answer.rows if p.found.answer else []
    row = next((row for row in rows if row.trial == p.trial.name), None)
    if row is None or row.mean is None or row.low is None or row.high is None:
        return ""
    score = with_interval(row.mean, row.low, row.high, p.found.metric.digits)
    return f"On texts that the search did not use, {count(len(row.runs), 'run')} on fresh seeds had a mean of {score}. "


def _test(p: Promotion) -> str:
    """What the search's one look at the test split said of this trial and the others."""
    test = p.found.summary.test if p.found.summary else None
    if test is None or p.trial.name not in test.scores:
        return "The test split was not scored for this trial."
    digits = p.found.metric.digits
    shown = {name: with_interval(s.estimate, s.low, s.high, digits) for name, s in test.scores.items()}
    mine = shown.pop(p.trial.name)
    others = "".join(f", that of trial {name} {score}" for name, score in shown.items())
    return (
        f"On the **test** split, which was scored once, at the end, this configuration had {mine}{others} (95% intervals; "
        "runs on fresh seeds where there were some)."
    )


def _others(p: Promotion) -> list[str]:
    """Measures beside the objective, without intervals' bounds and what an epoch took."""
    hidden = {*COSTS, "train_perplexity", p.found.objective}
    bounds = {f"{metric}{end}" for metric in p.metrics for end in BOUNDS}
    return [metric for metric in p.metrics if metric not in hidden | bounds]


def _measured(trial: Trial, p: Promotion) -> dict[str, float]:
    """What the best epoch of a trial measured."""
    best = trial.best(p.found.objective, p.found.direction)
    return dict(best.metrics) if best else {}


def _score(label: str, metrics: Mapping[str, float], metric: Metric | str) -> ScoreRow:
    name = metric if isinstance(metric, str) else metric.name
    if name not in metrics:
        return ScoreRow(label=label, score="none")
    digits = 2 if isinstance(metric, str) else metric.digits
    low, high = (metrics.get(f"{name}{end}") for end in BOUNDS)
    interval = "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"
    value = f"{metrics[name]:.4g}" if isinstance(metric, str) and not interval else f"{metrics[name]:.{digits}f}"
    return ScoreRow(label=label, score=value, interval=interval)


def _training(p: Promotion) -> str:
    hidden = {*keys_that_decide("place"), "task", "epochs", *(["model"] if is_place(p.config.model) else [])}
    values = {key: value for key, value in identity(p.config).items() if key not in hidden}
    trainable = p.metrics.get("trainable_parameters")
    columns = [
        Column[tuple[str, Any]](heading="key", show=lambda row: row[0], code=True),
        Column[tuple[str, Any]](heading="value", show=lambda row: value_text(row[1])),
    ]
    return "\n".join(
        [
            "## Training\n",
            f"- Data: {_cell(p.data)}",
            f"- SHA-256 of the data: {markdown_code(p.digest)}",
            f"- What the search varied: {_cell(point_text(p.trial.point)) or 'nothing'}",
            f"- Epochs: {p.epoch} of {p.config.epochs}, the best by {_readable(p.found.objective)}",
            *([f"- Parameters that trained: {int(trainable):,}"] if trainable is not None else []),
            "",
            as_markdown(Table(title="", columns=columns, rows=sorted(values.items()))),
        ]
    )


def _use(p: Promotion) -> str:
    lower = " Texts were stripped and put in lower case." if p.config.task in ("sst", "cfimdb") else ""
    local = (
        " Its `adapter_config.json` names the base model by a folder of the machine that wrote it: elsewhere, write there "
        "where yours is."
        if p.format == "adapter" and _unpublished(p.config)
        else ""
    )
    return (
        f"## Use\n\nWith {'peft' if p.format == 'adapter' else 'transformers'}.{lower}{local}\n\n"
        f"```python\n{python_code(p.config, p.format)}\n```\n\n"
        f"With gpt2-search, which reads task and decoding from `run.json`:\n\n```console\n{commands(p.config)}\n```"
    )


def _limits(p: Promotion) -> str:
    lines = ["It says what is likely, not what is true, and repeats what its base model and texts hold, prejudice too."]
    if p.config.model in EMBEDDED:
        lines.append(
            f"`{p.config.model}` is a small stand-in for GPT-2: its scores say nothing of how well GPT-2 can be tuned."
        )
    if p.origin.stand_in:
        lines.append("The data is a stand-in: the score is not one of the task that it stands in for.")
    if p.config.train_examples or p.config.dev_examples:
        lines.append("It was trained or scored on a part of the data alone; see `train_examples` and `dev_examples`.")
    if is_sparse(p.config.attention_config):
        lines.append(
            f"It was trained with `{p.config.attention}` attention. That of transformers is dense, so there it computes "
            "something else; gpt2-search keeps it."
        )
    if rows := p.origin.sizes.get("train"):
        learnt = min(rows, p.config.train_examples or rows)
        lines.append(f"It learnt from {count(learnt, 'training example')}, all of them English.")
    lines.append(
        "The interval is over the examples of the dev split: other texts may be further from the training texts."
    )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licences(p: Promotion) -> str:
    texts = "\n".join(f"- {what}: {one.terms}" for what, one in text_licences(p.config, p.origin).items())
    return (
        f"## Licences\n\n- Code: gpt2-search is under the MIT licence.\n- Base model: {base_terms(p.config)}\n{texts}\n"
        "- This model: whoever passes it on keeps to all of these."
    )


def _versions(p: Promotion) -> str:
    used = p.found.summary.versions if p.found.summary else {}
    ran = ", ".join(f"{package} {number}" for package, number in used.items()) or "not known"
    return f"## Versions\n\n- The search ran with: {_cell(ran)}\n- Promoted with: gpt2-search {version('gpt2-search')}"


def _readable(metric: str) -> str:
    return metric.replace("_", " ")


def _cell(text: str) -> str:
    """A text that a table's cell can hold."""
    return markdown_cell(text)
