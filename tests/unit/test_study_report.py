"""The study's claims and figures: what earns which mark, and what the page shows."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gpt2core.metrics.comparison import Runs, mean_of
from gpt2core.metrics.comparison import pairwise as compared
from searches.deciding import study_claims, study_figures
from searches.deciding.study_claims import CONTRADICTED, SUPPORTED, UNDECIDED, Judged
from searches.deciding.study_claims import NOT_RUN as CLAIM_NOT_RUN
from searches.deciding.study_figures import DIFFERS, FEW, NOT_RUN, NOT_TELLING, OTHER, REPRODUCED, STAND_IN, Line
from searches.formatting import setting_text
from searches.published import CLAIMS, TABLES, Claim, Figure
from searches.question import search_of
from searches.showing import study_report
from searches.showing.study_report import claims_table, figures_table
from searches.showing.tables import on_screen
from searches.summary import Summary, TrialRow

LOSS = {"name": "dev_loss", "direction": "min", "unit": "nats per token", "margin": 0.05, "digits": 3}
ACCURACY = {"name": "accuracy", "direction": "max", "unit": "points", "margin": 1.0, "digits": 2}
CHRF = {"name": "chrf_continuation", "direction": "max", "unit": "chrF", "margin": 1.0, "digits": 2}
SCRIPT = "<script>alert('x')</script>[/bold]"

Values = Mapping[str, Any]
Told = Mapping[tuple[str, str], Values | str]


def typed(summaries: Told) -> dict[tuple[str, str], Summary | str]:
    return {key: one if isinstance(one, str) else Summary.model_validate(one) for key, one in summaries.items()}


def judge(one: Claim, summaries: Told) -> Judged:
    return study_claims.judge(one, typed(summaries))


def lines(tables: Sequence[str], summaries: Told) -> list[Line]:
    return study_figures.lines(tables, typed(summaries))


def trial(name: str, point: Values, metrics: Values, *, of: str | None = None, **config: Any) -> dict[str, Any]:
    """A trial, or a replicate of one, that trained all of the sonnets' epochs as the study did."""
    config = {
        "task": "sonnet", "model": "gpt2", "data_dir": "data", "adapter": "full", "lr": 1e-5, "batch_size": 8,
        "epochs": 50, "dropout": 0.1, **point, **config,
    }  # fmt: skip
    score = next(iter(metrics.values()))
    return {
        "id": name, "of": of, "status": "completed", "reason": None, "point": dict(point), "config": config,
        "epochs": config["epochs"], "score": score, "metrics": dict(metrics),
        "curve": [{"epoch": config["epochs"], "train_examples": 131, **metrics}],
    }  # fmt: skip


def compared_row(trial: Mapping[str, Any], value: Values, runs: Sequence[float], failed: Sequence[str] = ()) -> Values:
    mean = mean_of(Runs(scores=np.array(runs))) if runs else None
    return {
        "name": ", ".join(setting_text(key, setting) for key, setting in value.items()) or f"trial {trial['id']}",
        "value": dict(value), "trial": trial["id"], "point": trial["point"], "trials": 1, "score": trial["score"],
        "runs": list(runs), "mean": mean.estimate if mean else None, "low": mean.low if mean else None,
        "high": mean.high if mean else None, "failed": list(failed), "stable": bool(runs) and not failed,
        "expected": [],
    }  # fmt: skip


def summary(
    rows: Sequence[Values], trials: Sequence[Values], metric: Values = LOSS, *, pairs: bool = True, **answer: Any
) -> dict[str, Any]:
    """A search whose answer has these rows, and pairs by their runs unless not wanted."""
    sides = {row["name"]: Runs(scores=np.array(row["runs"])) for row in rows if row["stable"]}
    found = compared(sides) if pairs and len(sides) > 1 else []
    return {
        "search": "toy", "question": f"Do poems help? {SCRIPT}", "objective": metric["name"],
        "direction": metric["direction"], "model": "gpt2", "data": {"data": "toy data"}, "trials": list(trials),
        "metrics": {"chrf_whole": CHRF, metric["name"]: metric},
        "baselines": {"random": {"meaning": "random <lines>", "scores": {"form_rhyme": [0.01, 0.0]}}},
        "test": None,
        "answer": {
            "text": f"Yes, poems help. {SCRIPT}", "outcome": "undecided", "factor": {"name": "toy", "keys": []},
            "metric": dict(metric), "rows": list(rows),
            "pairs": [
                {
                    "a": pair.a, "b": pair.b, "difference": pair.difference.estimate, "low": pair.difference.low,
                    "high": pair.difference.high, "p_value": pair.p_value,
                }
                for pair in found
            ],
            "test": {"p_value": None, "level": 0.05, "anova": None}, "seeds_needed": 9, "needs_texts": False,
            "chosen": rows[0]["trial"] if rows else None, "reference": None, "seeds": 3, "best": [], "winner": None,
            **answer,
        },
    }  # fmt: skip


DENSE, DENSE_POEMS, SPARSE, SPARSE_POEMS = (
    {"attention": attention, "pretrain": first} for attention in ("dense", "logsparse") for first in (None, "poems")
)
SAME = [4.30, 4.31, 4.32]


def poems(
    runs: Sequence[Sequence[float]], *, failed: Sequence[str] = (), config: Values | None = None, **kept: Any
) -> dict[str, Any]:
    """The search of Table 4, by the runs of dense, dense with poems, LogSparse, LogSparse with poems; `failed` are dense's."""
    trials, rows = [], []
    for number, (value, scores) in enumerate(zip((DENSE, DENSE_POEMS, SPARSE, SPARSE_POEMS), runs, strict=True)):
        first = trial(f"000{number}", value, {"dev_loss": 4.2 + number / 100, "chrf_whole": 40.0}, **(config or {}))
        trials.append(first)
        trials += [
            trial(f"000{number}-r{seed}", value, {"dev_loss": score, "chrf_whole": 40.0 + seed}, of=first["id"])
            for seed, score in enumerate(scores, 1)
        ]
        rows.append(compared_row(first, value, scores, failed if number == 0 else ()))
    return summary(rows, trials, **kept)


def claim(words: str) -> Claim:
    return next(one for one in CLAIMS if words in one.words)


HELPS, HURTS, AS_GOOD = (
    claim(words) for words in ("improves sonnets", "makes sonnets worse with LogSparse", "Without poems")
)


def of_poems(which: Claim, *runs: Sequence[float], **kept: Any) -> Judged:
    return judge(which, {("pretraining", "sonnet"): poems(runs, **kept)})


# claims


def test_a_claim_is_supported_by_a_sure_difference_in_its_direction() -> None:
    found = of_poems(HELPS, SAME, [4.10, 4.11, 4.12], SAME, SAME)
    assert found.mark == SUPPORTED
    assert "dense after poems is significantly better than dense without poems" in found.words
    assert "3 runs each" in found.words
    assert found.seeds_needed is None
    words = "dense after poems is better than dense without poems by 0.200 nats per token (dev loss"
    assert found.ours[0].startswith(words)
    assert found.ours[1] == "Mean chrF of the whole sonnet: dense after poems 42.00; dense without poems 42.00"


def test_the_other_direction_contradicts() -> None:
    found = of_poems(HELPS, SAME, [4.50, 4.51, 4.52], SAME, SAME)
    assert found.mark == CONTRADICTED
    assert "dense after poems is significantly worse than dense without poems" in found.words
    assert "worse than dense without poems by 0.200" in found.ours[0]


def test_a_difference_that_does_not_matter_contradicts_helps_and_supports_as_good() -> None:
    close = [4.3100, 4.3101, 4.3099]
    everything = [close, [4.3102, 4.3100, 4.3101], [4.3101, 4.3100, 4.3099], close]
    assert of_poems(HELPS, *everything).mark == CONTRADICTED
    assert of_poems(AS_GOOD, *everything).mark == SUPPORTED
    assert "differ by less than the equivalence margin (0.050 nats per token)" in of_poems(AS_GOOD, *everything).words
    assert of_poems(AS_GOOD, SAME, SAME, [4.60, 4.61, 4.62], SAME).mark == CONTRADICTED
    assert judge(HELPS, {("pretraining", "sonnet"): poems([SAME] * 4, outcome="equivalent")}).mark == CONTRADICTED


def test_what_is_open_says_how_many_seeds_would_decide_it() -> None:
    found = of_poems(HELPS, [4.30, 4.40, 4.50], [4.20, 4.30, 4.42], SAME, SAME)
    assert found.mark == UNDECIDED
    assert found.seeds_needed is not None
    assert found.seeds_needed > 3
    assert f"about {found.seeds_needed} seeds each would decide it" in found.words


def sst(last_linear: Sequence[float], full: Sequence[float], **answer: Any) -> dict[str, Any]:
    values = ({"adapter": "last-linear"}, {"adapter": "full"})
    trials = [trial(name, value, {"accuracy": 40.0}) for name, value in zip("ab", values, strict=True)]
    rows = [compared_row(*row) for row in zip(trials, values, (last_linear, full), strict=True)]
    return summary(rows, trials, ACCURACY, **answer)


def test_the_only_pair_of_an_answer_has_the_answers_own_number_of_seeds() -> None:
    runs = ([40.0, 42.0, 44.0], [41.0, 43.0, 46.0])
    found = judge(claim("classifies SST"), {("sentiment", "sst"): sst(*runs)})
    assert (found.mark, found.seeds_needed) == (UNDECIDED, 9)
    few_texts = sst(*runs, seeds_needed=None, needs_texts=True)
    found = judge(claim("classifies SST"), {("sentiment", "sst"): few_texts})
    assert (found.mark, found.seeds_needed) == (UNDECIDED, None)
    assert "more evaluation texts are needed" in found.words


def test_one_run_each_says_nothing_of_chance_and_two_are_too_few() -> None:
    one = of_poems(HELPS, [4.3], [4.1], [4.3], [4.3])
    assert (one.mark, one.seeds_needed) == (UNDECIDED, 3)
    assert one.words == "one run each: at least 3 seeds are needed"
    assert "by 0.200" in one.ours[0]
    two = of_poems(HELPS, [4.300, 4.301], [4.100, 4.101], SAME[:2], SAME[:2])
    assert (two.mark, two.seeds_needed) == (UNDECIDED, 3)
    assert "at least 3 are needed" in two.words


def test_scores_that_are_equal_are_called_neither_better_nor_worse() -> None:
    found = of_poems(HELPS, SAME, SAME, SAME, SAME)
    words = "dense after poems and dense without poems are 0.000 nats per token apart (dev loss"
    assert found.ours[0].startswith(words)


def test_settings_that_were_not_run_again_are_undecided_and_their_difference_is_told() -> None:
    found = of_poems(HELPS, [], [], [], [])
    assert (found.mark, found.seeds_needed) == (UNDECIDED, 3)
    assert found.words == "dense after poems and dense without poems were not run again on fresh seeds"
    assert "is worse than dense without poems by 0.010 nats per token (dev loss; one trial each" in found.ours[0]


def test_a_setting_with_a_failed_run_is_compared_with_nothing() -> None:
    found = of_poems(HELPS, [4.3, 4.31], [4.10, 4.11, 4.12], SAME, SAME, failed=["0000-r3"])
    assert (found.mark, found.seeds_needed) == (UNDECIDED, None)
    assert found.words == "1 fresh run of dense without poems failed, so it is not compared"


def test_a_stricter_level_of_an_early_look_counts() -> None:
    runs = (SAME, [4.25, 4.26, 4.27], SAME, SAME)
    assert of_poems(HELPS, *runs).mark == SUPPORTED
    early = poems(runs, test={"p_value": None, "level": 0.0005, "anova": None})
    assert judge(HELPS, {("pretraining", "sonnet"): early}).mark == UNDECIDED


def test_a_stand_in_is_judged_and_named() -> None:
    runs = (SAME, [4.10, 4.11, 4.12], SAME, SAME)
    found = of_poems(HELPS, *runs, config={"model": "/home/x/gpt2-nano", "data_dir": None})
    assert found.mark == SUPPORTED
    assert found.words.endswith("with gpt2-nano in place of gpt2, without the course's files (--data-dir)")
    assert "/home" not in found.words


def test_what_did_not_run_says_why() -> None:
    found = judge(HELPS, {("pretraining", "sonnet"): f"There is no data {SCRIPT}"})
    assert (found.mark, found.words) == (CLAIM_NOT_RUN, f"There is no data {SCRIPT}")
    assert judge(claim("for 30 epochs"), {}).mark == CLAIM_NOT_RUN
    assert judge(HELPS, {}).mark == CLAIM_NOT_RUN


RANKS = (4, 8, 16, 32)


def ranks(runs: Mapping[int, Sequence[float]], **kept: Any) -> dict[tuple[str, str], dict[str, Any] | str]:
    values = {rank: {"adapter": "lora", "rank": rank} for rank in runs}
    trials = {rank: trial(f"{rank:04d}", values[rank], {"dev_loss": 4.3}, model="gpt2-large") for rank in runs}
    rows = [compared_row(trials[rank], values[rank], scores) for rank, scores in runs.items()]
    return {("adapters", "sonnet"): summary(rows, list(trials.values()), **kept)}


def test_best_of_all_must_beat_each_and_falls_with_one_that_is_surely_better() -> None:
    best = claim("Rank 16 is the best")
    others = dict.fromkeys(RANKS, SAME)
    assert judge(best, ranks({**others, 16: [4.00, 4.01, 4.02]})).mark == SUPPORTED
    assert judge(best, ranks({**others, 32: [4.00, 4.01, 4.02]})).mark == CONTRADICTED
    assert judge(best, ranks({**others, 16: [4.00, 4.01, 4.02], 8: [4.00, 4.02, 4.04]})).mark == UNDECIDED
    no_better = claim("rank 32 is no better")
    assert judge(no_better, ranks({**others, 16: [4.00, 4.01, 4.02]})).mark == SUPPORTED
    assert judge(no_better, ranks({**others, 32: [4.00, 4.01, 4.02]})).mark == CONTRADICTED
    assert judge(no_better, ranks({**others, 32: [4.20, 4.30, 4.40]})).mark == UNDECIDED


def test_settings_that_the_answer_does_not_pair_are_compared_by_their_runs() -> None:
    found = judge(claim("Rank 16"), ranks({**dict.fromkeys(RANKS, SAME), 16: [4.00, 4.01, 4.02]}, pairs=False))
    assert found.mark == SUPPORTED
    assert "on these texts" in found.words


def test_decoders_are_found_by_their_points() -> None:
    names = ("top-p", "top-k", "top-k-p-study", "greedy", "beam")
    trials = [trial(f"000{n}", {"decoder": name}, {"chrf_continuation": 27.0}) for n, name in enumerate(names)]
    runs = [[29.0, 29.1, 29.2], *[[26.0, 26.1, 26.2]] * 4]
    rows = [compared_row(one, {}, scores) for one, scores in zip(trials, runs, strict=True)]
    one = claim("Top-p sampling")
    assert judge(one, {("decoding", "sonnet"): summary(rows, trials, CHRF)}).mark == SUPPORTED
    found = judge(one, {("decoding", "sonnet"): summary(rows[:2], trials, CHRF)})
    assert found.mark == UNDECIDED
    assert "top-k-p, greedy and beam were not run again on fresh seeds" in found.words


def test_p_is_corrected_for_the_searches_of_a_table() -> None:
    one = sst([40.0, 40.5, 41.0], [42.0, 41.5, 41.2])
    assert 0.025 < one["answer"]["pairs"][0]["p_value"] < 0.05, "else this test says nothing"
    assert judge(claim("classifies SST"), {("sentiment", "sst"): one}).mark == SUPPORTED
    assert judge(claim("classifies SST"), {("sentiment", "sst"): one, ("sentiment", "cfimdb"): one}).mark == UNDECIDED


@pytest.mark.parametrize("one", CLAIMS, ids=lambda one: one.words)
def test_every_claim_is_asked_by_a_search_that_has_its_settings_or_says_why_not(one: Claim) -> None:
    assert bool(one.search) != bool(one.why_not)
    assert one.table in TABLES
    if one.search:
        search = search_of(one.search)
        assert one.task in search.tasks
        for contrast in one.contrasts:
            for setting in (contrast.first, contrast.second):
                for key, value in setting.point.items():
                    domain = search.scientific[key]
                    assert value in domain.values, (key, value)  # type: ignore[union-attr]


# figures


def dense(scores: Sequence[float] = (), first: float = 40.6, **config: Any) -> dict[str, Any]:
    one = trial("0001", DENSE, {"chrf_whole": first}, **config)
    again = [trial(f"0001-r{n}", DENSE, {"chrf_whole": one}, of="0001", **config) for n, one in enumerate(scores, 1)]
    return summary([compared_row(one, DENSE, [])], [one, *again])


def first_of_table_4(found: dict[str, Any] | str) -> Line:
    return lines(["4"], {("pretraining", "sonnet"): found})[0]


THREE = (40.4, 40.6, 40.7)


@pytest.mark.parametrize(("found", "mark", "why"), [
    (dense(THREE), REPRODUCED, ""),
    (dense((45.0, 45.1, 45.2)), DIFFERS, "the printed value is more than 1 outside the interval"),
    (dense(), FEW, "one run: at least 3 are needed"),
    (dense(THREE[:2]), FEW, "2 runs: at least 3 are needed"),
    (dense(THREE, model="gpt2-nano"), STAND_IN, "with gpt2-nano in place of gpt2"),
    (dense(THREE, data_dir=None), STAND_IN, "without the course's files (--data-dir)"),
    (dense(THREE, lr=1e-3), OTHER, "ran with lr 0.001, not 1e-5"),
    (dense(THREE, batch_size=16), OTHER, "ran with batch size 16, not 8"),
    (dense(THREE, train_examples=16), OTHER, "learned from a sample of 16 training texts"),
    (dense(THREE, dev_examples=8), OTHER, "scored on a sample of 8 dev texts"),
    (dense(THREE, epochs=10), OTHER, "made 10 passes over the training texts, not 50"),
    (dense(THREE, growth=2.0), OTHER, "made 4.7 passes over the training texts, not 50"),
    ("There is no data", NOT_RUN, "There is no data"),
])  # fmt: skip
def test_a_figure_is_reproduced_by_three_runs_of_its_setting(found: dict[str, Any] | str, mark: str, why: str) -> None:
    line = first_of_table_4(found)
    assert (line.mark, line.why) == (mark, why)
    assert line.figure.value == 40.517


def test_no_interval_reaches_beyond_100_percent() -> None:
    line = first_of_table_4(dense((99.0, 90.0, 80.0)))
    assert line.high == 100.0
    assert line.ours_text.endswith("100.00]")


def test_a_trial_that_failed_or_diverged_is_no_run() -> None:
    found = dense()
    found["trials"][0]["status"] = "failed"
    assert first_of_table_4(found).mark == NOT_RUN
    found = dense(first=float("nan"))
    assert first_of_table_4(found).mark == NOT_RUN


def test_fresh_runs_on_parts_of_the_training_texts_are_not_the_studys() -> None:
    found = dense(THREE)
    for row in found["trials"][1:]:
        row["config"] |= {"folds": 3, "judged": True}
    line = first_of_table_4(found)
    assert line.mark == FEW
    assert line.why.endswith("its fresh runs: each run learned from 2 of 3 parts of the training texts")
    assert line.runs == 1


def test_nothing_is_reproduced_that_a_trivial_baseline_reproduces_too() -> None:
    found = dense(THREE)
    found["baselines"]["random"]["scores"]["chrf_whole"] = [43.19, 0.3]
    line = first_of_table_4(found)
    assert line.mark == REPRODUCED, "43.19 is more than 1 from the interval and from 40.517"
    assert line.baseline_text == "43.19 (random <lines>)"
    found["baselines"]["tail"] = {"meaning": "tails of other sonnets", "scores": {"chrf_whole": [41.50, 0.27]}}
    line = first_of_table_4(found)
    assert (line.mark, line.why) == (NOT_TELLING, "a trivial baseline passes too: 41.50, tails of other sonnets")


def test_of_another_setting_the_fresh_runs_are_shown() -> None:
    line = first_of_table_4(dense(THREE, lr=1e-3))
    assert (line.runs, line.ours) == (3, pytest.approx(40.567, abs=0.001))


def test_of_several_trials_the_one_nearest_to_the_printed_setting_counts() -> None:
    found = dense(THREE)
    found["trials"].insert(0, trial("0000", DENSE, {"chrf_whole": 50.0}, lr=1e-3))
    assert first_of_table_4(found).mark == REPRODUCED


def test_half_of_a_large_dev_split_is_said_and_a_small_one_is_whole() -> None:
    assert first_of_table_4(dense(THREE, dev_part="search")).mark == REPRODUCED, "12 sonnets are not halved"
    values = {"adapter": "full"}
    one = trial("a", values, {"accuracy": 50.8}, task="sst", batch_size=64, epochs=10, dev_part="search")
    one["curve"][0]["train_examples"] = 8544
    search = {("sentiment", "sst"): summary([compared_row(one, values, [])], [one], ACCURACY)}
    search |= {("sentiment", "cfimdb"): "no data"}
    (line,) = [line for line in lines(["2"], search) if line.figure.value == 50.8]
    assert (line.mark, line.why) == (OTHER, "scored on half of the dev texts (all of them: --confirm-on test)")
    one["curve"][0]["train_examples"] = 12
    one["config"]["dev_part"] = "all"
    line = lines(["2"], search)[2]
    assert line.why == "learned from 12 training texts, not 8,544"


def test_table_3_says_how_many_passes_were_really_made() -> None:
    point = {"added_pairs": "generated", "filters": "basic"}
    one = trial("a", point, {"accuracy": 83.0}, task="paraphrase", lr=1.5e-5, epochs=8, growth=2.0)
    one["curve"][0]["train_examples"] = 150_000
    assert study_figures.passes(TrialRow.model_validate(one)) == pytest.approx(1.992, abs=0.001)
    made: dict[str, Any] = dict.fromkeys(("contexts", "candidates", "pairs", "accepted"), 1)
    made |= {"critic": "overlap", "model": "none", "stand_in": "lexical overlap", "digest": "d"}
    found = summary([compared_row(one, point, [])], [one], ACCURACY) | {"pairs": {"x": made}}
    line = lines(["3"], {("distillation", "paraphrase"): found})[1]
    assert line.label == "approach 1, 4 epochs (ours: 1.99 passes)"
    assert line.mark == STAND_IN
    assert "with the critic overlap in place of an entailment model" in line.why
    assert "made 1.99 passes over the training texts, not 4" in line.why


def on_sst(**more: Any) -> list[Line]:
    values = {"adapter": "last-linear"}
    kept = {"task": "sst", "lr": 1e-3, "batch_size": 64, "epochs": 10}
    one = trial("a", values, {"accuracy": 47.0}, **kept)
    again = [trial(f"a-r{n}", values, {"accuracy": 47.0 + n / 10}, of="a", **kept) for n in (1, 2, 3)]
    for row in (one, *again):
        row["curve"][0]["train_examples"] = 8544
    found = summary([compared_row(one, values, [46.5, 46.6, 46.9])], [one, *again], ACCURACY) | more
    searches = {("sentiment", "sst"): found, ("sentiment", "cfimdb"): "no data"}
    return [line for line in lines(["2"], searches) if line.figure.split == "test"]


def test_test_figures_have_rows_that_say_what_they_need() -> None:
    last, full = on_sst()
    assert (last.figure.value, last.mark, last.why) == (46.6, NOT_RUN, "give --final-test")
    assert full.figure.value == 54.8
    last, full = on_sst(test={"scores": {"a": {"estimate": 46.7, "low": 46.0, "high": 47.4}}, "text": ""})
    assert (last.mark, last.runs, last.ours_text) == (REPRODUCED, 3, "46.70 [46.00, 47.40]")
    assert (full.mark, full.why) == (NOT_RUN, "its setting was not scored on the test split")
    last, _ = on_sst(judged_on="test")
    assert (last.mark, last.ours) == (REPRODUCED, pytest.approx(46.667, abs=0.001))


def test_a_test_figure_of_another_metric_says_which_to_ask_for() -> None:
    found = dense(THREE) | {"judged_on": "test"}
    found["answer"]["rows"] = [compared_row(found["trials"][0], DENSE, [4.2, 4.3, 4.4])]
    best = next(line for line in lines(["5"], {("decoding", "sonnet"): found}) if line.figure.split == "test")
    assert best.figure.value == 41.822
    assert best.why == "the test split was scored by dev_loss: give --objective chrf_whole"


def test_all_printed_test_figures_are_there() -> None:
    printed = {figure.value for table in TABLES.values() for figure in table if figure.split == "test"}
    assert printed == {46.6, 54.8, 87.2, 41.822}


def test_counts_are_reproduced_to_the_digit_and_memory_is_only_predicted() -> None:
    found = lines(["6"], {})
    assert {line.mark for line in found if line.figure.metric == "parameters"} == {REPRODUCED}
    predicted = [line for line in found if line.figure.metric == "predicted_gpu_memory_gb"]
    assert {line.mark for line in predicted} == {NOT_RUN}
    assert all("not measured on a GPU" in line.why for line in predicted)
    near = [line.ours == pytest.approx(line.figure.value, rel=0.015) for line in predicted]
    assert near == [True] * 5 + [False], "the study's figure for rank 32 is twice that of its own estimate"


def test_every_figure_is_asked_by_a_search_or_says_why_not() -> None:
    figures = [figure for table in TABLES.values() for figure in table]
    assert all(bool(figure.search) != bool(figure.why_not) for figure in figures)


def test_numbers_have_their_digits() -> None:
    figure = Figure(label="x", metric="parameters", value=775_669_760)
    line = Line(table="1", figure=figure, mark=NOT_RUN, ours=1234.5564, low=1.5, high=41.729)
    assert (figure.printed, line.ours_text) == ("775,669,760", "1,234.56 [1.50, 41.73]")
    assert [Figure(label="x", metric="lr", value=value).printed for value in (1e-5, 1.5e-5)] == ["1e-5", "1.5e-5"]
    assert Figure(label="x", metric="accuracy", value=47.0).printed == "47.0"
    assert Figure(label="x", metric="chrf_whole", value=41.43).printed == "41.430"


# the page


def page_of(folder: Path) -> tuple[str, list[Judged], list[Line]]:
    runs = (SAME, [4.10, 4.11, 4.12], [4.30, 4.40, 4.50], SAME)
    found = poems(runs, config={"model": "gpt2-nano"}) | {"report": "study-quick-pretraining-sonnet/report.html"}
    found["baselines"]["random"]["scores"]["chrf_whole"] = [43.19, 0.3]
    summaries: dict[tuple[str, str], dict[str, Any] | str] = {
        ("pretraining", "sonnet"): found,
        ("decoding", "sonnet"): f"There is no data {SCRIPT}",
    }
    of_claims, of_figures = study_report.judged(["4", "5"], typed(summaries)), lines(["4", "5"], summaries)
    study_report.write(folder / "report.html", of_claims, of_figures, typed(summaries))
    return (folder / "report.html").read_text(), of_claims, of_figures


def test_the_page_shows_claims_first_then_figures_then_answers(tmp_path: Path) -> None:
    page, of_claims, of_figures = page_of(tmp_path)
    assert page.index('id="claims"') < page.index('id="figures"') < page.index('id="searches"')
    for one in of_claims:
        assert one.claim.words.replace("'", "&#39;") in page
        assert f">{one.mark}</span>" in page, "a word, not a colour alone"
    for line in of_figures:
        assert line.figure.printed in page
    for text in ("poems help.", 'href="study-quick-pretraining-sonnet/report.html"', "with gpt2-nano in place of gpt2"):
        assert text in page
    drawn = {(line.table, line.figure.measure) for line in of_figures if line.ours is not None}
    assert page.count("<svg") == len(drawn) + 1, "a plot for each table and metric that ran, and one of the answer"
    for table, measure in drawn:
        assert f"Table {table}, {measure}: the study&#39;s value, and the mean of our runs" in page
    assert page_of(tmp_path)[0] == page, "the same twice"


def test_no_text_of_a_summary_is_markup(tmp_path: Path) -> None:
    page, of_claims, of_figures = page_of(tmp_path)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3
    assert "random &lt;lines&gt;" in page
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(on_screen(claims_table(of_claims), 250), on_screen(figures_table(of_figures), 250))
    text = console.export_text()
    assert "[/bold]" in text
    for word in {one.mark for one in of_claims} | {line.mark for line in of_figures}:
        assert word in text


def test_no_number_is_bare_and_no_value_is_missing(tmp_path: Path) -> None:
    page, *_ = page_of(tmp_path)
    shown = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.S)
    assert not re.search(r"\d{8}|\d\.\d{4}|e[+]\d|None|\bnan\b", shown)
