"""What our runs say of a comparison that the study draws: supported, contradicted, undecided, or not run.

It is judged by the deciding metric of the search that asks it again, on the fresh seeds of both settings, each at its own best
other values. The pairs of the search's answer count, which hold for other texts too; settings that the search did not compare
with each other are compared by their runs alone. Level and p-values are corrected for the comparisons of a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from gpt2core.metrics.comparison import LEAST, LEVEL, Pair, Runs, difference, pairwise
from searches.deciding.decision import EQUIVALENT, MOST_NEEDED, seeds_needed
from searches.deciding.wording import listed, p_text
from searches.formatting import count
from searches.published import CLAIMS, METRIC_WORDS, Claim, Contrast, Setting
from searches.summary import ComparedSetting, Pairs, Summary, Verdict

SUPPORTED: Final = "supported"
CONTRADICTED: Final = "contradicted"
UNDECIDED: Final = "undecided"
NOT_RUN: Final = "not run"
Mark = Literal["supported", "contradicted", "undecided", "not run"]

Summaries = Mapping[tuple[str, str], Summary | str]  # by search and task; a text says why a search could not run


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What our runs say of a claim. `ours` are our numbers, a line for each contrast; `words` say what the mark rests on."""

    claim: Claim
    mark: Mark
    words: str
    ours: Sequence[str] = ()
    seeds_needed: int | None = None
    stand_in: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two settings compared: `advantage` is by how much the first is better, negative where it is worse.

    `p_value` is corrected; it is None where nothing can be said of chance, and `reason` says why. `alike`: every difference
    that matters is excluded.
    """

    contrast: Contrast
    advantage: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    level: float = LEVEL
    seeds: int = 0
    alike: bool = False
    texts: bool = False  # whether it holds for other texts too
    needed: int | None = None
    reason: str = ""
    unconfirmed: Sequence[str] = ()  # those of the two that were not run again on fresh seeds

    @property
    def sure(self) -> bool:
        """Whether the difference is no chance."""
        return self.p_value is not None and self.p_value < self.level and self.seeds >= LEAST

    @property
    def mark(self) -> Mark:
        """What it says of the contrast."""
        better, worse = (self.sure and self.advantage is not None and sign * self.advantage > 0 for sign in (1, -1))
        match self.contrast.says:
            case "better":
                holds, fails = better, worse or self.alike
            case "as good":
                holds, fails = self.alike, better or worse
            case "no better":
                holds, fails = worse or self.alike, better
        return SUPPORTED if holds else CONTRADICTED if fails else UNDECIDED


def judge(claim: Claim, summaries: Summaries, among: Sequence[Claim] = CLAIMS) -> Judged:
    """Judge a claim; p-values are corrected for all claims of its table that are `among` those that are judged."""
    if claim.why_not:
        return Judged(claim=claim, mark=NOT_RUN, words=claim.why_not)
    summary = summaries.get((str(claim.search), claim.task), "its search was not asked for")
    if isinstance(summary, str):
        return Judged(claim=claim, mark=NOT_RUN, words=summary)
    known = _of_table([claim, *(one for one in among if one.table == claim.table)], summaries)
    compared = [
        replace(known[claim.search, claim.task, contrast.names], contrast=contrast) for contrast in claim.contrasts
    ]
    mark = _of_all([one.mark for one in compared])
    decisive = [one for one in compared if one.mark == mark]
    stand_in = _stand_in(claim, summary)
    return Judged(
        claim=claim,
        mark=mark,
        words=_words(mark, decisive, summary, stand_in),
        ours=[*(_advantage_text(one, summary) for one in compared), *_by_study(claim, summary)],
        seeds_needed=_needed(decisive) if mark == UNDECIDED else None,
        stand_in=stand_in,
    )


def _of_all(marks: Sequence[Mark]) -> Mark:
    """The mark of a claim from those of its contrasts: it holds where all do, and fails where one does."""
    return CONTRADICTED if CONTRADICTED in marks else UNDECIDED if UNDECIDED in marks else SUPPORTED


def _of_table(claims: Sequence[Claim], summaries: Summaries) -> dict[tuple[str | None, str, tuple[str, str]], Compared]:
    """All contrasts of a table, each once, by search, task and names; corrected for how many families of tests there are.

    The pairs of one answer are a family, and so are those that only their runs compare; within each, p-values are Holm's.
    """
    asked: dict[tuple[str, str], dict[tuple[str, str], Contrast]] = {}
    for claim in claims:
        if claim.search is not None:
            asked.setdefault((claim.search, claim.task), {}).update({one.names: one for one in claim.contrasts})
    families = {
        key: _compared(summary, list(contrasts.values()))
        for key, contrasts in asked.items()
        if not isinstance(summary := summaries.get(key, ""), str)
    }
    tested = {(key, one.texts) for key, found in families.items() for one in found if one.p_value is not None}
    return {
        (search, task, one.contrast.names): _corrected(one, len(tested))
        for (search, task), found in families.items()
        for one in found
    }


def _corrected(one: Compared, families: int) -> Compared:
    return one if one.p_value is None else replace(one, p_value=min(1.0, one.p_value * families))


def _compared(summary: Summary, contrasts: Sequence[Contrast]) -> list[Compared]:
    """The contrasts of one search: those that its answer has as pairs, and those that are left to their runs."""
    sides = {one.name: _row(summary, one) for contrast in contrasts for one in (contrast.first, contrast.second)}
    found = [_by_pair(summary, contrast, sides) for contrast in contrasts]
    left = [contrast for contrast, one in zip(contrasts, found, strict=True) if one is None]
    by_runs = iter(_by_runs(summary, left, sides))
    return [one if one is not None else next(by_runs) for one in found]


def _row(summary: Summary, setting: Setting) -> ComparedSetting | None:
    """The compared setting that a side of a claim is; of several, the one with the best score in the search."""
    sign = _sign(summary)
    configs = {row.id: row.config for row in summary.trials}
    rows = [
        row
        for row in summary.answer.rows
        if has({**configs.get(row.trial or "", {}), **row.point, **row.value}, setting.point)
    ]
    return max(rows, key=lambda row: -np.inf if row.score is None else sign * row.score, default=None)


def has(values: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a run has all values that are asked for."""
    return all(key in values and values[key] == value for key, value in asked.items())


def _sign(summary: Summary) -> int:
    return summary.answer.metric.direction.sign


def _by_pair(summary: Summary, contrast: Contrast, sides: Mapping[str, ComparedSetting | None]) -> Compared | None:
    """A contrast by the pair of the answer; None where the answer has none with a p-value."""
    first, second = (sides[name] for name in contrast.names)
    if first is None or second is None:
        return None
    answer = summary.answer
    pair = next((one for one in answer.pairs if {one.a, one.b} == {first.name, second.name}), None)
    if pair is None or pair.difference is None or pair.low is None or pair.high is None or pair.p_value is None:
        return None
    turned = _sign(summary) * (1 if pair.a == first.name else -1)
    low, high = sorted((turned * pair.low, turned * pair.high))
    margin, seeds = answer.metric.margin, min(len(first.runs), len(second.runs))
    needed, too_few_texts = _needed_of_pair(answer, first, second)
    return Compared(
        contrast=contrast,
        advantage=turned * pair.difference,
        low=low,
        high=high,
        p_value=pair.p_value,
        level=_level(answer),
        seeds=seeds,
        alike=answer.outcome == EQUIVALENT or (seeds >= LEAST and -margin < low and high < margin),
        texts=True,
        needed=LEAST if seeds < LEAST else needed,
        reason="more texts to judge on are needed, not more seeds" if too_few_texts else "",
    )


def _level(answer: Verdict) -> float:
    """The level of the search's last look, which is stricter than LEVEL where it looked several times."""
    return min(LEVEL, float(answer.test.level))


def _needed_of_pair(answer: Verdict, first: ComparedSetting, second: ComparedSetting) -> tuple[int | None, bool]:
    """How many seeds would decide a pair, and whether too few texts forbid it."""
    pairs, level = len(answer.pairs), _level(answer)
    if pairs == 1:
        return answer.seeds_needed, answer.needs_texts
    one = difference(_runs(first), _runs(second))
    if one.p_value is None or one.p_value * pairs < level:  # runs do not vary, or they alone would decide it
        return None, True
    pair = Pair(a="", b="", difference=one, p_value=one.p_value, low_90=None, high_90=None)
    seeds = min(len(first.runs), len(second.runs))
    return seeds_needed([pair], seeds, answer.metric.margin, level / pairs)[0], False


def _runs(row: ComparedSetting) -> Runs:
    return Runs(scores=np.asarray(row.runs, dtype=float))


def _by_runs(
    summary: Summary, contrasts: Sequence[Contrast], sides: Mapping[str, ComparedSetting | None]
) -> list[Compared]:
    """Contrasts of settings by their fresh runs alone, where both have some; else as the search saw them."""
    named = {name: row for name, row in sides.items() if row is not None and row.runs and row.stable}
    wanted = [contrast for contrast in contrasts if set(contrast.names) <= named.keys()]
    answer, sign = summary.answer, _sign(summary)
    level, margin = _level(answer), float(answer.metric.margin)
    runs = {name: _runs(row) for name, row in named.items()}
    found = {}
    for contrast, pair in zip(wanted, pairwise(runs, [one.names for one in wanted], level=level), strict=True):
        one, seeds = pair.difference, min(runs[name].count for name in contrast.names)
        ends = None if one.low is None or one.high is None else sorted((sign * one.low, sign * one.high))
        narrow = (pair.low_90, pair.high_90)
        needed = LEAST if seeds < 2 else seeds_needed([pair], seeds, margin, level / len(wanted))[0]
        found[contrast.names] = Compared(
            contrast=contrast,
            advantage=sign * one.estimate,
            low=ends[0] if ends else None,
            high=ends[1] if ends else None,
            p_value=pair.p_value,
            level=level,
            seeds=seeds,
            alike=seeds >= LEAST and all(end is not None and abs(end) < margin for end in narrow),
            needed=needed if needed is None else max(LEAST, needed),
            reason=f"one run each: at least {LEAST} seeds are needed" if seeds < 2 else one.reason,
        )
    return [found.get(contrast.names) or _unconfirmed(summary, contrast, sides) for contrast in contrasts]


def _unconfirmed(summary: Summary, contrast: Contrast, sides: Mapping[str, ComparedSetting | None]) -> Compared:
    """A contrast of settings that were not both run again, or of which a fresh run failed: what the search saw of them."""
    rows = {name: sides[name] for name in contrast.names}
    failed = {name: len(row.failed) for name, row in rows.items() if row is not None and row.failed}
    unconfirmed = [name for name, row in rows.items() if name not in failed and (row is None or not row.runs)]
    first, second = (_score(summary, setting) for setting in (contrast.first, contrast.second))
    advantage = None if first is None or second is None else _sign(summary) * (first - second)
    reasons = [
        f"{count(number, 'fresh run')} of {name} failed, so it is not compared" for name, number in failed.items()
    ]
    return Compared(
        contrast=contrast,
        advantage=advantage,
        needed=None if failed else LEAST,
        reason="; ".join(reasons),
        unconfirmed=unconfirmed,
    )


def _score(summary: Summary, setting: Setting) -> float | None:
    """The best score of a setting among the trials of the search."""
    trials = [row for row in summary.trials if row.of is None and row.score is not None]
    known = [row.score for row in trials if row.score is not None and has({**row.config, **row.point}, setting.point)]
    return summary.answer.metric.direction.best(known, key=lambda score: score)


# words


def _words(mark: Mark, decisive: Sequence[Compared], summary: Summary, stand_in: str) -> str:
    said = dict.fromkeys(_why(one, mark, summary) for one in decisive)
    unconfirmed = list(dict.fromkeys(name for one in decisive for name in one.unconfirmed))
    again = f"{listed(unconfirmed)} {'was' if len(unconfirmed) == 1 else 'were'} not run again on fresh seeds"
    return "; ".join(filter(None, [*said, again if unconfirmed else "", stand_in]))


def _why(one: Compared, mark: Mark, summary: Summary) -> str:
    """What a contrast's mark rests on."""
    first, second = one.contrast.names
    metric = summary.answer.metric
    if mark == UNDECIDED:
        return _open(one)
    if one.alike and (one.contrast.says != "better" or not one.sure):
        margin = f"{metric.margin:.{metric.digits}f} {metric.unit}".strip()
        return f"{first} and {second} differ by less than what matters ({margin})"
    if one.advantage is None or one.p_value is None:
        return ""
    where = "" if one.texts else ", on these texts"
    better = "better" if one.advantage > 0 else "worse"
    return f"{first} is surely {better} than {second} ({p_text(one.p_value)}, {count(one.seeds, 'run')} each{where})"


def _open(one: Compared) -> str:
    """Why a contrast is undecided, and what would decide it."""
    first, second = one.contrast.names
    if one.p_value is None:
        return one.reason
    p = f"{first} and {second}: p = {one.p_value:.3f}, {count(one.seeds, 'run')} each"
    if one.seeds < LEAST:
        return f"{p}; at least {LEAST} are needed"
    if one.reason:
        return f"{p}; {one.reason}"
    if one.needed is None:
        return f"{p}; more than {MOST_NEEDED} seeds each would be needed, if these estimates hold"
    return f"{p}; about {count(one.needed, 'seed')} each would decide it"


def _needed(decisive: Sequence[Compared]) -> int | None:
    """Seeds that would decide all that is undecided; None where no number of them is known to."""
    known = [one.needed for one in decisive if one.needed is not None]
    return max(LEAST, *known) if known and len(known) == len(decisive) else None


def _advantage_text(one: Compared, summary: Summary) -> str:
    """By how much the first setting is better, with its interval."""
    first, second = one.contrast.names
    metric = summary.answer.metric
    digits, name = metric.digits, metric.name.replace("_", " ")
    if one.advantage is None:
        return f"{first} against {second}: no scores of both"
    better = "better" if one.advantage >= 0 else "worse"
    amount = f"{abs(one.advantage):.{digits}f} {metric.unit}".strip()
    value = f"{first} is {better} than {second} by {amount} ({name}"
    if float(amount.split()[0]) == 0:
        value = f"{first} and {second} are {amount} apart ({name}"
    if one.low is None or one.high is None:
        return f"{value}; {'one trial each, in the search' if not one.seeds else 'no interval'})"
    ends = sorted((one.low, one.high)) if one.advantage >= 0 else sorted((-one.low, -one.high))
    return f"{value}; interval {ends[0]:.{digits}f} to {ends[1]:.{digits}f})"


def _by_study(claim: Claim, summary: Summary) -> list[str]:
    """Means of the study's own metric over the fresh runs of each setting, where another metric decides."""
    if claim.metric == summary.answer.metric.name:
        return []
    settings = {one.name: one for contrast in claim.contrasts for one in (contrast.first, contrast.second)}
    means = {name: _mean(summary, setting, claim.metric) for name, setting in settings.items()}
    told = "; ".join(f"{name} {mean:.2f}" for name, mean in means.items() if mean is not None)
    return [f"Mean {METRIC_WORDS[claim.metric]}: {told}"] if told else []


def _mean(summary: Summary, setting: Setting, metric: str) -> float | None:
    row = _row(summary, setting)
    again = [one for one in summary.trials if row is not None and one.of == row.trial]
    scores = [one.metrics[metric] for one in again if one.metrics.get(metric) is not None]
    return float(np.mean(scores)) if scores else None


def _stand_in(claim: Claim, summary: Summary) -> str:
    """What the runs had in place of the study's model, texts and critic; empty where they had these."""
    first = next(iter(summary.trials), None)
    return stand_in(claim.model, first.config, list(summary.pairs.values())) if first else ""


def stand_in(model: str, config: Mapping[str, Any], pairs: Sequence[Pairs]) -> str:
    """In words, what a run had in place of the study's model, texts and critic of generated pairs; empty where it had these."""
    said, used = [], str(config.get("model"))
    if used not in (model, f"openai-community/{model}"):
        said.append(f"with {used.rstrip('/').rpartition('/')[2]} in place of {model}")
    if not config.get("data_dir"):
        said.append("without the course's files (--data-dir)")
    critics = [made.critic for made in pairs if made.stand_in]
    if critics:
        said.append(f"with the critic {critics[0]} in place of an entailment model")
    return ", ".join(said)
