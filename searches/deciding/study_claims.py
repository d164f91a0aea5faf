"""Judges the study's claims by our runs: each is supported, contradicted, undecided, or not run.

A claim is judged by the deciding metric of the search that repeats it, on the fresh seeds of both settings, each with its own
best other values. A pair that the search's answer compared counts as it stands there, so it holds for other texts too; other
pairs are compared by their runs alone. Levels and p-values are corrected for all comparisons of a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from gpt2core.metrics.comparison import LEAST, LEVEL, Pair, Runs, difference, pairwise
from gpt2core.naming import words
from searches.deciding.decision import EQUIVALENT, MOST_NEEDED, seeds_needed
from searches.deciding.wording import listed
from searches.formatting import count, p_text
from searches.published import CLAIMS, METRIC_WORDS, Claim, Contrast, Setting
from searches.summary import ComparedSetting, Pairs, Summary, Verdict

SUPPORTED: Final = "supported"
CONTRADICTED: Final = "contradicted"
UNDECIDED: Final = "undecided"
NOT_RUN: Final = "not run"
Mark = Literal["supported", "contradicted", "undecided", "not run"]

Summaries = Mapping[tuple[str, str], Summary | str]  # by search and task; a string says why a search did not run


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A judged claim. `words` give the reason for the mark, `ours` our numbers, one line for each contrast."""

    claim: Claim
    mark: Mark
    words: str
    ours: Sequence[str] = ()
    seeds_needed: int | None = None
    stand_in: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two compared settings. `advantage` is by how much the first is better, negative if it is worse.

    `p_value` is corrected; if it is None, `reason` says why. `alike`: equivalent within the margin.
    """

    contrast: Contrast
    advantage: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    level: float = LEVEL
    seeds: int = 0
    alike: bool = False
    texts: bool = False  # whether it holds for other texts
    needed: int | None = None
    reason: str = ""
    unconfirmed: Sequence[str] = ()  # names of settings without fresh runs

    @property
    def significant(self) -> bool:
        """Whether the difference is significant, with enough seeds."""
        return self.p_value is not None and self.p_value < self.level and self.seeds >= LEAST

    @property
    def mark(self) -> Mark:
        """The mark of the contrast."""
        advantage = self.advantage if self.significant and self.advantage is not None else 0.0
        better, worse = advantage > 0, advantage < 0
        match self.contrast.says:
            case "better":
                holds, fails = better, worse or self.alike
            case "as good":
                holds, fails = self.alike, better or worse
            case "no better":
                holds, fails = worse or self.alike, better
        return SUPPORTED if holds else CONTRADICTED if fails else UNDECIDED


def judge(claim: Claim, summaries: Summaries, among: Sequence[Claim] = CLAIMS) -> Judged:
    """Judge a claim, with p-values corrected for the claims of its table that are `among` those judged."""
    if claim.why_not:
        return Judged(claim=claim, mark=NOT_RUN, words=claim.why_not)
    summary = summaries.get((str(claim.search), claim.task), "its search was not requested")
    if isinstance(summary, str):
        return Judged(claim=claim, mark=NOT_RUN, words=summary)
    table = _of_table([claim, *(other for other in among if other.table == claim.table)], summaries)
    compared = [
        replace(table[claim.search, claim.task, contrast.names], contrast=contrast) for contrast in claim.contrasts
    ]
    marks = [result.mark for result in compared]
    mark: Mark = CONTRADICTED if CONTRADICTED in marks else UNDECIDED if UNDECIDED in marks else SUPPORTED
    decisive = [result for result in compared if result.mark == mark]
    first = next(iter(summary.trials), None)
    instead = stand_in(claim.model, first.config, list(summary.pairs.values())) if first else ""
    return Judged(
        claim=claim,
        mark=mark,
        words=_words(mark, decisive, summary, instead),
        ours=[*(_advantage_text(result, summary) for result in compared), *_study_means(claim, summary)],
        seeds_needed=_seeds_needed(decisive) if mark == UNDECIDED else None,
        stand_in=instead,
    )


def _of_table(claims: Sequence[Claim], summaries: Summaries) -> dict[tuple[str | None, str, tuple[str, str]], Compared]:
    """Return a table's contrasts by search, task and names, with p-values corrected for the number of test families.

    The pairs of an answer are one family, those compared by runs alone another; within a family, p-values are Holm's.
    """
    contrasts: dict[tuple[str, str], dict[tuple[str, str], Contrast]] = {}
    for claim in claims:
        if claim.search is not None:
            of_search = contrasts.setdefault((claim.search, claim.task), {})
            of_search.update({contrast.names: contrast for contrast in claim.contrasts})
    by_search = {
        key: _compared(summary, list(of_search.values()))
        for key, of_search in contrasts.items()
        if not isinstance(summary := summaries.get(key, ""), str)
    }
    families = {
        (key, result.texts) for key, results in by_search.items() for result in results if result.p_value is not None
    }
    return {
        (search, task, result.contrast.names): result
        if result.p_value is None
        else replace(result, p_value=min(1.0, result.p_value * len(families)))
        for (search, task), results in by_search.items()
        for result in results
    }


def _compared(summary: Summary, contrasts: Sequence[Contrast]) -> list[Compared]:
    """Return the contrasts of one search, by the answer's pairs where it has them, else by runs."""
    sides = {side.name: _row(summary, side) for contrast in contrasts for side in (contrast.first, contrast.second)}
    by_pair = [_by_pair(summary, contrast, sides) for contrast in contrasts]
    others = [contrast for contrast, result in zip(contrasts, by_pair, strict=True) if result is None]
    by_runs = iter(_by_runs(summary, others, sides))
    return [result if result is not None else next(by_runs) for result in by_pair]


def _row(summary: Summary, setting: Setting) -> ComparedSetting | None:
    """Return the compared setting that a side of a claim stands for; of several, the one with the best search score."""
    sign = _sign(summary)
    configs = {row.id: row.config for row in summary.trials}
    rows = [
        row
        for row in summary.answer.rows
        if has({**configs.get(row.trial or "", {}), **row.point, **row.value}, setting.point)
    ]
    return max(rows, key=lambda row: -np.inf if row.score is None else sign * row.score, default=None)


def has(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether a run has all the wanted values."""
    return all(key in values and values[key] == value for key, value in wanted.items())


def _sign(summary: Summary) -> int:
    return summary.answer.metric.direction.sign


def _by_pair(summary: Summary, contrast: Contrast, sides: Mapping[str, ComparedSetting | None]) -> Compared | None:
    """Return a contrast by the answer's pair, or None if the answer has no such pair with a p-value."""
    first, second = (sides[name] for name in contrast.names)
    if first is None or second is None:
        return None
    answer = summary.answer
    pair = next((pair for pair in answer.pairs if {pair.a, pair.b} == {first.name, second.name}), None)
    if pair is None or pair.difference is None or pair.low is None or pair.high is None or pair.p_value is None:
        return None
    sign = _sign(summary) * (1 if pair.a == first.name else -1)
    low, high = sorted((sign * pair.low, sign * pair.high))
    margin, seeds = answer.metric.margin, min(len(first.runs), len(second.runs))
    needed, too_few_texts = _needed_of_pair(answer, first, second)
    return Compared(
        contrast=contrast,
        advantage=sign * pair.difference,
        low=low,
        high=high,
        p_value=pair.p_value,
        level=_level(answer),
        seeds=seeds,
        alike=answer.outcome == EQUIVALENT or (seeds >= LEAST and -margin < low and high < margin),
        texts=True,
        needed=LEAST if seeds < LEAST else needed,
        reason="more evaluation texts are needed, not more seeds" if too_few_texts else "",
    )


def _level(answer: Verdict) -> float:
    """Return the level of the search's last look, which is below LEVEL if there were several looks."""
    return min(LEVEL, float(answer.test.level))


def _needed_of_pair(answer: Verdict, first: ComparedSetting, second: ComparedSetting) -> tuple[int | None, bool]:
    """Return how many seeds would decide a pair, and whether there are too few texts."""
    pairs, level = len(answer.pairs), _level(answer)
    if pairs == 1:
        return answer.seeds_needed, answer.needs_texts
    known = difference(_runs(first), _runs(second))
    if known.p_value is None or known.p_value * pairs < level:  # runs do not vary, or would decide it by themselves
        return None, True
    pair = Pair(a="", b="", difference=known, p_value=known.p_value, low_90=None, high_90=None)
    seeds = min(len(first.runs), len(second.runs))
    return seeds_needed([pair], seeds, answer.metric.margin, level / pairs)[0], False


def _runs(row: ComparedSetting) -> Runs:
    return Runs(scores=np.asarray(row.runs, dtype=float))


def _by_runs(
    summary: Summary, contrasts: Sequence[Contrast], sides: Mapping[str, ComparedSetting | None]
) -> list[Compared]:
    """Compare contrasts by fresh runs alone; without runs of both settings, by their scores in the search."""
    named = {name: row for name, row in sides.items() if row is not None and row.runs and row.stable}
    wanted = [contrast for contrast in contrasts if set(contrast.names) <= named.keys()]
    answer, sign = summary.answer, _sign(summary)
    level, margin = _level(answer), float(answer.metric.margin)
    runs = {name: _runs(row) for name, row in named.items()}
    compared = {}
    for contrast, pair in zip(wanted, pairwise(runs, [c.names for c in wanted], level=level), strict=True):
        known, seeds = pair.difference, min(runs[name].count for name in contrast.names)
        ends = None if known.low is None or known.high is None else sorted((sign * known.low, sign * known.high))
        narrow = (pair.low_90, pair.high_90)
        needed = LEAST if seeds < 2 else seeds_needed([pair], seeds, margin, level / len(wanted))[0]
        compared[contrast.names] = Compared(
            contrast=contrast,
            advantage=sign * known.estimate,
            low=ends[0] if ends else None,
            high=ends[1] if ends else None,
            p_value=pair.p_value,
            level=level,
            seeds=seeds,
            alike=seeds >= LEAST and all(end is not None and abs(end) < margin for end in narrow),
            needed=needed if needed is None else max(LEAST, needed),
            reason=f"one run each: at least {LEAST} seeds are needed" if seeds < 2 else known.reason,
        )
    return [compared.get(contrast.names) or _unconfirmed(summary, contrast, sides) for contrast in contrasts]


def _unconfirmed(summary: Summary, contrast: Contrast, sides: Mapping[str, ComparedSetting | None]) -> Compared:
    """Return a contrast by search scores, if a setting has no fresh runs or a failed one."""
    rows = {name: sides[name] for name in contrast.names}
    failed = {name: len(row.failed) for name, row in rows.items() if row is not None and row.failed}
    unconfirmed = [name for name, row in rows.items() if name not in failed and (row is None or not row.runs)]
    first, second = (_score(summary, setting) for setting in (contrast.first, contrast.second))
    advantage = None if first is None or second is None else _sign(summary) * (first - second)
    reasons = [f"{count(runs, 'fresh run')} of {name} failed, so it is not compared" for name, runs in failed.items()]
    needed = None if failed else LEAST
    reason = "; ".join(reasons)
    return Compared(contrast=contrast, advantage=advantage, needed=needed, reason=reason, unconfirmed=unconfirmed)


def _score(summary: Summary, setting: Setting) -> float | None:
    """Return the best score of a setting among the trials of the search."""
    trials = [row for row in summary.trials if row.of is None and row.score is not None]
    known = [row.score for row in trials if row.score is not None and has({**row.config, **row.point}, setting.point)]
    return summary.answer.metric.direction.best(known, key=lambda score: score)


def _words(mark: Mark, decisive: Sequence[Compared], summary: Summary, instead: str) -> str:
    """Return the reason for a claim's mark."""
    reasons = dict.fromkeys(_reason(result, mark, summary) for result in decisive)
    unconfirmed = list(dict.fromkeys(name for result in decisive for name in result.unconfirmed))
    again = f"{listed(unconfirmed)} {'was' if len(unconfirmed) == 1 else 'were'} not run again on fresh seeds"
    return "; ".join(filter(None, [*reasons, again if unconfirmed else "", instead]))


def _reason(result: Compared, mark: Mark, summary: Summary) -> str:
    first, second = result.contrast.names
    metric = summary.answer.metric
    if mark == UNDECIDED:
        return _reason_undecided(result)
    if result.alike and (result.contrast.says != "better" or not result.significant):
        margin = f"{metric.margin:.{metric.digits}f} {metric.unit}".strip()
        return f"{first} and {second} differ by less than the equivalence margin ({margin})"
    if result.advantage is None or result.p_value is None:
        return ""
    where = "" if result.texts else ", on these texts"
    better, runs = "better" if result.advantage > 0 else "worse", count(result.seeds, "run")
    return f"{first} is significantly {better} than {second} ({p_text(result.p_value)}, {runs} each{where})"


def _reason_undecided(result: Compared) -> str:
    """Return why a contrast is undecided, and what would decide it."""
    if result.p_value is None:
        return result.reason
    p = f"{' and '.join(result.contrast.names)}: {p_text(result.p_value)}, {count(result.seeds, 'run')} each"
    if result.seeds < LEAST:
        return f"{p}; at least {LEAST} are needed"
    if result.reason:
        return f"{p}; {result.reason}"
    if result.needed is None:
        return f"{p}; more than {MOST_NEEDED} seeds each would be needed if these estimates hold"
    return f"{p}; about {count(result.needed, 'seed')} each would decide it"


def _seeds_needed(decisive: Sequence[Compared]) -> int | None:
    """Return the seeds that would decide all undecided contrasts, or None if that is not known."""
    known = [result.needed for result in decisive if result.needed is not None]
    return max(LEAST, *known) if known and len(known) == len(decisive) else None


def _advantage_text(result: Compared, summary: Summary) -> str:
    """Return by how much the first setting is better, with its interval."""
    first, second = result.contrast.names
    metric, advantage = summary.answer.metric, result.advantage
    digits, name = metric.digits, words(metric.name)
    if advantage is None:
        return f"{first} against {second}: they do not both have scores"
    number = f"{abs(advantage):.{digits}f}"
    amount = f"{number} {metric.unit}".strip()
    value = f"{first} is {'better' if advantage >= 0 else 'worse'} than {second} by {amount} ({name}"
    if float(number) == 0:
        value = f"{first} and {second} are {amount} apart ({name}"
    if result.low is None or result.high is None:
        return f"{value}; {'no interval' if result.seeds else 'one trial each, in the search'})"
    low, high = (result.low, result.high) if advantage >= 0 else (-result.high, -result.low)
    return f"{value}; interval {low:.{digits}f} to {high:.{digits}f})"


def _study_means(claim: Claim, summary: Summary) -> list[str]:
    """Return means of the study's own metric over fresh runs, if another metric decides."""
    if claim.metric == summary.answer.metric.name:
        return []
    settings = {side.name: side for contrast in claim.contrasts for side in (contrast.first, contrast.second)}
    means = {name: _mean(summary, setting, claim.metric) for name, setting in settings.items()}
    shown = "; ".join(f"{name} {mean:.2f}" for name, mean in means.items() if mean is not None)
    return [f"Mean {METRIC_WORDS[claim.metric]}: {shown}"] if shown else []


def _mean(summary: Summary, setting: Setting, metric: str) -> float | None:
    row = _row(summary, setting)
    replicates = [trial for trial in summary.trials if row is not None and trial.of == row.trial]
    scores = [trial.metrics[metric] for trial in replicates if trial.metrics.get(metric) is not None]
    return float(np.mean(scores)) if scores else None


def stand_in(model: str, config: Mapping[str, Any], pairs: Sequence[Pairs]) -> str:
    """Return what replaced the study's model, texts and critic of generated pairs in a run; empty if nothing did."""
    instead, used = [], str(config.get("model"))
    if used not in (model, f"openai-community/{model}"):
        instead.append(f"with {used.rstrip('/').rpartition('/')[2]} in place of {model}")
    if not config.get("data_dir"):
        instead.append("without the course's files (--data-dir)")
    critics = [pair_set.critic for pair_set in pairs if pair_set.stand_in]
    if critics:
        instead.append(f"with the critic {critics[0]} in place of an entailment model")
    return ", ".join(instead)
