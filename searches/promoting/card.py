"""The card of a promoted model: README.md with the Hugging Face hub's front matter.

All of it comes from the search's ledger and summary; facts that they lack are "not known".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gpt2core.adapters.ranks import rank_text
from gpt2core.attention import is_sparse
from gpt2core.commands import COSTS
from gpt2core.config import OWN_TASKS, RunConfig, keys_that_decide
from gpt2core.identity import identity
from gpt2core.metrics.metric import Metric
from gpt2core.model_folder import is_place
from gpt2core.naming import words
from gpt2core.tasks import TASKS
from gpt2core.weights import EMBEDDED, hub_name
from searches.formatting import count, point_text, value_text, with_interval
from searches.promoting.licences import base_terms, licence, text_licences
from searches.promoting.selection import Promotion
from searches.promoting.usage import commands, python_code
from searches.running.ledger import Trial
from searches.showing.markdown import markdown_cell as cell
from searches.showing.markdown import markdown_code
from searches.showing.tables import Column, Table, as_markdown
from searches.summary import Verdict

#: The hub's names of our metrics, where it has one.
HUB_METRICS = {
    "chrf_continuation": "chrf",
    "chrf_whole": "chrf",
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "mcc": "matthews_correlation",
    "chrf": "chrf",
    "rouge_l": "rouge",
    "exact_match": "exact_match",
    "f1": "f1",
    "brier_score": "brier_score",
    "dev_loss": "loss",
    "dev_perplexity": "perplexity",
}
BOUNDS = ("_low", "_high")


def model_card(p: Promotion, name: str) -> ModelCard:
    """Return the card of a promotion that is registered as `name`."""
    sections = [_what(p), _answer(p), _scores(p), _training(p), _use(p), _limits(p), _licences(p), _versions(p)]
    body = "\n\n".join([f"# {name}", *sections])
    return ModelCard(f"---\n{_front_matter(p, name).to_yaml()}\n---\n\n{body}\n")


def _front_matter(p: Promotion, name: str) -> ModelCardData:
    config, results = p.config, _results(p)
    further: dict[str, Any] = {**licence(config, p.origin)}
    if not _unpublished(config):
        further["base_model"] = hub_name(config.model)
        further["base_model_relation"] = "adapter" if p.format == "adapter" else "finetune"
    return ModelCardData(
        language=None if p.config.task in OWN_TASKS else "en",
        pipeline_tag=_pipeline(config),
        library_name="peft" if p.format == "adapter" else "transformers",
        datasets=[p.origin.hub] if p.origin.hub else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        tags=["gpt2-search", config.task, config.adapter],
        model_name=name,
        eval_results=results,
        **further,
    )


def _pipeline(config: RunConfig) -> str:
    return "text-classification" if TASKS[config.task].classes(config) else "text-generation"


def _results(p: Promotion) -> list[EvalResult]:
    """Return the scores that the hub has a name for, with their intervals."""
    corpus = p.origin.corpus or "not known"
    return [
        EvalResult(
            task_type=_pipeline(p.config),
            dataset_type=p.origin.hub or corpus,
            dataset_name=corpus,
            dataset_split="dev",
            dataset_args={"digest": p.digest},
            metric_type=HUB_METRICS[metric],
            metric_name=words(metric),
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
    """Return whether the base model has no name on the hub."""
    return config.model in EMBEDDED or is_place(config.model)


def _what(p: Promotion) -> str:
    config = p.config
    base = markdown_code(config.model if config.model in EMBEDDED else hub_name(config.model))
    if is_place(config.model):
        base = f"{markdown_code(Path(config.model).name)}, a folder on the machine of the search"
    rank = f" of {rank_text(config)}" if config.adapter == "lora" else ""
    form = "LoRA alone, in peft's format" if p.format == "adapter" else "the whole model"
    return (
        f"GPT-2 ({base}) tuned for the task `{config.task}`, adapter `{config.adapter}`{rank}: {form}. "
        f"It is trial {p.trial.name} of the hyperparameter search `{p.search.name}`, at epoch {p.epoch} of "
        f"{config.epochs}, made with gpt2-search."
    )


def _answer(p: Promotion) -> str:
    search, answer = p.search, p.search.answer
    question = search.summary.question if search.summary else "not known: the search has not come to its end"
    left = f"\n\n{count(search.unfinished, 'trial')} had not ended when this was written." if search.unfinished else ""
    claim = "" if p.chosen.named else " It is not claimed to be better than any other trial."
    return (
        f"## Question and answer\n\n**Question:** {cell(question)}\n\n**Answer:** {cell(search.answer_text)}"
        f"{_grounds(answer) if answer else ''}\n\n**Why this trial:** {p.chosen.why}.{claim}{left}"
    )


def _grounds(answer: Verdict) -> str:
    """Return evidence, scope and notes of an answer."""
    lines = [line for line in answer.evidence if line != answer.scope]
    evidence = "\n\n**Evidence:**\n\n" + "\n".join(f"- {cell(line)}" for line in lines) if lines else ""
    scope = f"\n\n**Scope:** {cell(answer.scope)}" if answer.scope else ""
    return evidence + scope + "".join(f"\n\n**Note:** {cell(note)}" for note in answer.notes)


def _scores(p: Promotion) -> str:
    metric, state = p.search.metric, p.search.state
    reference = [t for t in state.searched if t.origin == "reference" and t is not p.trial]
    measured = [
        (f"this model, trial {p.trial.name}", p.metrics),
        *((f"the same with fresh seed {t.run['seed']}", _measured(t, p)) for t in state.replicates(p.trial.name)),
        *((f"the reference, trial {t.name}", _measured(t, p)) for t in reference),
    ]
    rows = [_score(label, metrics, metric) for label, metrics in measured]
    for baseline in state.baselines.values():
        if score := baseline["scores"].get(metric.name):
            mean, sd = (f"{number:.{metric.digits}f}" for number in score)
            rows.append(ScoreRow(f"trivial baseline: {baseline['meaning']}", f"{mean} ± {sd}" if score[1] else mean))
    others = [_score(words(name), p.metrics, TASKS[p.config.task].metrics.get(name, name)) for name in _others(p)]
    tables = [_score_table(f"{words(metric.name)} ({metric.direction.wanted} is better)", "score", rows)]
    tables += [_score_table("other measures of this model", "value", others)] if others else []
    about = (
        "All scores are from the **dev** split. The search used it to choose among "
        f"{count(len(state.searched), 'trial')}, so the chosen trial's score is biased upwards by that selection. "
        f"Intervals are over texts. {_fresh(p)}{_test(p)}"
    )
    return "\n\n".join(["## Scores", about, *map(as_markdown, tables)])


@dataclass(frozen=True)
class ScoreRow:
    """A score with its interval, as texts."""

    label: str
    score: str
    interval: str = ""


def _score_table(what: str, value: str, rows: list[ScoreRow]) -> Table[ScoreRow]:
    columns = [
        Column[ScoreRow](what, lambda row: row.label),
        Column[ScoreRow](value, lambda row: row.score, number=True),
        Column[ScoreRow]("95% interval", lambda row: row.interval),
    ]
    return Table(title="", columns=columns, rows=rows)


def _fresh(p: Promotion) -> str:
    """Return the mean of the configuration's runs on fresh seeds, as the answer has it."""
    rows = p.search.answer.rows if p.search.answer else []
    row = next((row for row in rows if row.trial == p.trial.name), None)
    if row is None or row.mean is None or row.low is None or row.high is None:
        return ""
    score = with_interval(row.mean, row.low, row.high, p.search.metric.digits)
    return f"On texts that the search did not use, {count(len(row.runs), 'run')} on fresh seeds had a mean of {score}. "


def _test(p: Promotion) -> str:
    """Return the scores of this trial and the others on the test split."""
    test = p.search.summary.test if p.search.summary else None
    if test is None or p.trial.name not in test.scores:
        return "The test split was not scored for this trial."
    digits = p.search.metric.digits
    shown = {name: with_interval(s.estimate, s.low, s.high, digits) for name, s in test.scores.items()}
    own = shown.pop(p.trial.name)
    others = "".join(f", that of trial {name} {score}" for name, score in shown.items())
    return (
        f"On the **test** split, which was scored once, at the end, this configuration had {own}{others} (95% intervals; "
        "over runs on fresh seeds, if there were any)."
    )


def _others(p: Promotion) -> list[str]:
    """Return the names of further measures, without bounds of intervals and costs of an epoch."""
    hidden = {*COSTS, "train_perplexity", p.search.objective}
    bounds = {f"{metric}{end}" for metric in p.metrics for end in BOUNDS}
    return [metric for metric in p.metrics if metric not in hidden | bounds]


def _measured(trial: Trial, p: Promotion) -> dict[str, float]:
    """Return the metrics of a trial's best epoch."""
    best = trial.best(p.search.objective, p.search.direction)
    return dict(best.metrics) if best else {}


def _score(label: str, metrics: Mapping[str, float], metric: Metric | str) -> ScoreRow:
    """Return the row of a metric of the task, or of another measure by name."""
    name, digits = (metric, 2) if isinstance(metric, str) else (metric.name, metric.digits)
    if name not in metrics:
        return ScoreRow(label, "none")
    low, high = (metrics.get(f"{name}{end}") for end in BOUNDS)
    interval = "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"
    value = f"{metrics[name]:.4g}" if isinstance(metric, str) and not interval else f"{metrics[name]:.{digits}f}"
    return ScoreRow(label, value, interval)


def _training(p: Promotion) -> str:
    hidden = {*keys_that_decide("place"), "task", "epochs", *(["model"] if is_place(p.config.model) else [])}
    values = {key: value for key, value in identity(p.config).items() if key not in hidden}
    counts = {"trainable_parameters": "Trainable parameters", "kept_parameters": "Kept after pruning"}
    columns = [
        Column[tuple[str, Any]]("key", lambda row: row[0], code=True),
        Column[tuple[str, Any]]("value", lambda row: value_text(row[1])),
    ]
    return "\n".join(
        [
            "## Training\n",
            f"- Data: {cell(p.data)}",
            f"- SHA-256 of the data: {markdown_code(p.digest)}",
            f"- Searched settings: {cell(point_text(p.trial.point)) or 'none'}",
            f"- Epochs: {p.epoch} of {p.config.epochs}, the best by {words(p.search.objective)}",
            *(f"- {text}: {int(p.metrics[name]):,}" for name, text in counts.items() if name in p.metrics),
            "",
            as_markdown(Table(title="", columns=columns, rows=sorted(values.items()))),
        ]
    )


def _use(p: Promotion) -> str:
    lower = " Texts were stripped and put in lower case." if p.config.task in ("sst", "cfimdb") else ""
    local = (
        " Its `adapter_config.json` names the base model by a folder of the machine that wrote it: on another machine, "
        "replace that by your folder."
    )
    return (
        f"## Use\n\nWith {'peft' if p.format == 'adapter' else 'transformers'}.{lower}"
        f"{local if p.format == 'adapter' and _unpublished(p.config) else ''}\n\n"
        f"```python\n{python_code(p.config, p.format)}\n```\n\n"
        f"With gpt2-search, which reads task and decoding from `run.json`:\n\n```console\n{commands(p.config)}\n```"
    )


def _limits(p: Promotion) -> str:
    lines = [
        "It writes what is likely, not what is true, and repeats the content of its training texts, prejudice included."
    ]
    if p.config.model in EMBEDDED:
        lines.append(
            f"`{p.config.model}` is a small stand-in for GPT-2: its scores say nothing about how well GPT-2 can be tuned."
        )
    if p.origin.stand_in:
        lines.append("The data is a stand-in: the score is not a score on the task's real data.")
    if p.config.train_examples or p.config.dev_examples:
        lines.append("It was trained or scored on a part of the data; see `train_examples` and `dev_examples`.")
    if is_sparse(p.config.attention_config):
        lines.append(
            f"It was trained with `{p.config.attention}` attention. transformers has only dense attention, so its outputs differ "
            "there; gpt2-search keeps the attention."
        )
    if rows := p.origin.sizes.get("train"):
        examples = count(min(rows, p.config.train_examples or rows), "training example")
        lines.append(f"It learnt from {examples}{'' if p.config.task in OWN_TASKS else ', all in English'}.")
    lines.append("The interval is over the examples of the dev split; other texts may be less like the training texts.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licences(p: Promotion) -> str:
    texts = "\n".join(f"- {what}: {terms.terms}" for what, terms in text_licences(p.config, p.origin).items())
    return (
        f"## Licences\n\n- Code: gpt2-search is under the MIT licence.\n- Base model: {base_terms(p.config)}\n{texts}\n"
        "- This model: all of these apply to whoever passes it on."
    )


def _versions(p: Promotion) -> str:
    used = p.search.summary.versions if p.search.summary else {}
    ran = ", ".join(f"{package} {number}" for package, number in used.items()) or "not known"
    return f"## Versions\n\n- The search ran with: {cell(ran)}\n- Promoted with: gpt2-search {version('gpt2-search')}"
