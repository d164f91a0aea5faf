"""The generated texts of a report, by example: what all trials share, then the texts of the chosen trial and of others."""

from collections.abc import Mapping
from dataclasses import dataclass

from searches.summary import Summary

PLACE, SCORE = "place", "chrF"  # keys of a sample beside its texts
NO_TEXT = ("id", PLACE, SCORE)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text of an example under its heading; `trial` is empty where all trials share it."""

    key: str
    trial: str
    heading: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example with its texts; `others` are those of other trials than the chosen one."""

    id: str
    title: str
    texts: list[Text]
    others: list[Text]


def examples(summary: Summary) -> list[Example]:
    """Return the examples of the summary's samples, whose first trial is the chosen one."""
    by_id: dict[str, dict[str, dict[str, str]]] = {}
    for trial, samples in summary.samples.items():
        for sample in samples:
            by_id.setdefault(sample["id"], {})[trial] = sample
    return [_example(name, by_trial, summary) for name, by_trial in by_id.items()]


def _example(name: str, by_trial: Mapping[str, Mapping[str, str]], summary: Summary) -> Example:
    chosen, *others = by_trial
    place, shared = by_trial[chosen].get(PLACE), _shared(by_trial)
    names = {trial: f"{role(trial, summary)}{_score(texts)}" for trial, texts in by_trial.items()}

    def own(trial: str, after: str) -> list[Text]:
        texts = {key: text for key, text in by_trial[trial].items() if key not in (*shared, *NO_TEXT)}
        return [Text(key=key, trial=trial, heading=f"{key}{after}", text=text) for key, text in texts.items()]

    return Example(
        id=name,
        title=f"Example {name}: {place} text of {names[chosen]}" if place else f"Example {name}",
        texts=[
            *(Text(key=key, trial="", heading=key, text=text) for key, text in shared.items()),
            *own(chosen, "" if place else f", {names[chosen]}"),
        ],
        others=[text for trial in others for text in own(trial, f", {names[trial]}")],
    )


def _shared(by_trial: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the texts that several trials have in common, such as what was given."""
    first, *rest = by_trial.values()
    keys = [key for key in first if key not in (*NO_TEXT, "generated")]
    return {key: first[key] for key in keys if rest and all(texts.get(key) == first[key] for texts in rest)}


def _score(sample: Mapping[str, str]) -> str:
    return f", {SCORE} {sample[SCORE]}" if SCORE in sample else ""


def role(name: str, summary: Summary) -> str:
    """Return a trial's name with its roles: winner, best score, reference."""
    roles = {"winner": summary.answer.winner, "best score": summary.best_id, "reference": summary.reference_id}
    names = ", ".join(role for role, trial in roles.items() if trial == name)
    return f"trial {name} ({names})" if names else f"trial {name}"
