"""With `decoding=best_of:K`, each half of the texts is scored with the decoding setting that is best on the other half."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpt2core.config import DecodingConfig, RunConfig
from gpt2core.data.dividing import has_smaller_digest
from gpt2core.decoding import DECODERS
from gpt2core.decoding.settings import RANGES, decoding_settings, setting_text
from gpt2core.errors import ConfigError
from gpt2core.folds import train
from gpt2core.metrics.chrf import corpus_chrf
from gpt2core.metrics.cross_fitting import cross_fitted
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.losses import mean_loss
from gpt2core.metrics.metric import share
from gpt2core.model import GPT2
from gpt2core.submission import content
from gpt2core.tasks import TASKS, TaskData, sonnet
from gpt2core.tasks.sonnet import Sonnet, continuations
from gpt2core.testing import toys
from gpt2core.testing.tasks import examples

BEST = toys.RUN.but(decoding="best_of:5", temperature=0.9)
GIVEN = [toys.lines(3, 0), toys.lines(1, 1), toys.lines(2, 2)]
SAMPLING = [name for name, decoder in DECODERS.items() if decoder.samples(DecodingConfig())]


def with_setting(config: RunConfig, setting: DecodingConfig) -> RunConfig:
    return config.but(decoding="fixed", **{key: getattr(setting, key) for key in RANGES})


@pytest.mark.parametrize("decoder", SAMPLING)
def test_settings_are_the_runs_own_and_the_same_others_for_every_run(decoder: str) -> None:
    run = RunConfig(decoder=decoder, decoding="best_of:32", temperature=0.3)
    own, *others = decoding_settings(run)
    assert own == run.decoding_config
    assert decoding_settings(run.but(decoding="fixed")) == [own]
    few = decoding_settings(run.but(decoding="best_of:4", seed=3, lr=0.1, temperature=1.2))
    assert [setting_text(run, setting) for setting in few[1:]] == [setting_text(run, other) for other in others[:3]]
    read = [key for key in RANGES if key in DECODERS[decoder].keys.model_fields]
    for setting in others:
        assert all(low <= getattr(setting, key) <= high for key, (low, high) in RANGES.items() if key in read)
        assert setting == own.but(**{key: getattr(setting, key) for key in read}), "all other keys are the run's"
    assert len({setting_text(run, setting) for setting in others}) == 31


@pytest.mark.parametrize(("values", "message"), [
    ({"decoding": "best_of:1"}, "is 'best_of:1', but must be fixed, or best_of:K with K from 2 to 32, as in best_of:8"),
    ({"decoding": "best_of:33"}, "is 'best_of:33', but must be fixed"),
    ({"decoding": "best_of: 8"}, "is 'best_of: 8', but must be fixed"),
    ({"decoding": "best"}, "is 'best', but must be fixed"),
    ({"decoding": "best_of:8", "decoder": "beam"}, "must be 'fixed' with the decoder `beam` at `temperature` 1"),
    ({"decoding": "best_of:8", "decoder": "greedy"}, "must be 'fixed' with the decoder `greedy`"),
    ({"decoding": "best_of:8", "decoder": "contrastive"}, "must be 'fixed' with the decoder `contrastive`"),
    ({"decoding": "best_of:8", "temperature": 0}, "must be 'fixed' with the decoder `top-p` at `temperature` 0"),
])  # fmt: skip
def test_wrong_values_are_explained(values: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.of(values)


@pytest.mark.parametrize("decoder", ["top-p", "top-k", "mirostat", "best-likelihood"])
def test_all_settings_decoded_together_write_what_each_writes_alone(decoder: str) -> None:
    model, words, run = toys.model(), toys.tokenizer(), BEST.but(decoder=decoder, decode_seeds=2)
    together = continuations(model, words, GIVEN, run)
    alone = [continuations(model, words, GIVEN, with_setting(run, setting)) for setting in decoding_settings(run)]
    assert together == [texts for outputs in alone for texts in outputs]
    assert len({tuple(texts) for texts in together}) == 10


def test_a_text_is_scored_with_the_setting_that_is_best_on_the_other_half() -> None:
    model, data, run = toys.model(), toys.data(dev=9), BEST.but(decode_seeds=2)
    dev = data.splits["dev"]
    given = ["\n".join(text.split("\n")[:3]) for text in dev.texts]
    gold = ["\n".join(text.split("\n")[3:]) for text in dev.texts]
    settings = decoding_settings(run)
    written = [continuations(model, data.tokenizer, given, with_setting(run, setting)) for setting in settings]
    first, outputs = has_smaller_digest(dev.digests), [[""] * 9, [""] * 9]
    notes = [""] * 9
    for half in (first, ~first):
        others, own = np.flatnonzero(~half), np.flatnonzero(half)
        scores = [
            corpus_chrf([texts[n] for texts in of for n in others], [gold[n] for _ in of for n in others])
            for of in written
        ]
        best = scores.index(max(scores))
        for number in own:
            notes[number] = setting_text(run, settings[best])
            for output in range(2):
                outputs[output][number] = written[best][output][number]
    evaluation = TASKS["sonnet"].evaluate(model, data, run, "dev")
    assert evaluation.metrics["chrf_continuation"] == pytest.approx(corpus_chrf([*outputs[0], *outputs[1]], gold * 2))
    assert [sample["generated"] for sample in evaluation.samples] == outputs[0]
    assert [sample["decoding"] for sample in evaluation.samples] == notes
    ((*times,),) = evaluation.tables["decoding"]
    assert times == [notes.count(setting_text(run, setting)) for setting in settings]


@pytest.mark.parametrize(("name", "metric"), [("sonnet", "chrf_continuation"), ("generate", "chrf")])
@pytest.mark.parametrize("objective", [None, "dev_loss"])
def test_the_score_by_the_runs_own_setting_is_recorded_too(name: str, metric: str, objective: str | None) -> None:
    task, model = TASKS[name], toys.model()
    data, run = examples(task, dev=7), BEST.but(task=name, objective=objective)
    best = task.evaluate(model, data, run, "dev")
    fixed = task.evaluate(model, data, run.but(decoding="fixed"), "dev")
    assert not [key for key in {**fixed.metrics, **fixed.statistics} if "fixed" in key]
    for ending in ("", "_low", "_high"):
        assert best.metrics[f"{metric}_fixed{ending}"] == fixed.metrics[f"{metric}{ending}"]
    np.testing.assert_array_equal(best.statistics["chrf_fixed"], fixed.statistics["chrf"])
    shapes = {name: counts.shape for name, counts in fixed.statistics.items()}
    assert {name: counts.shape for name, counts in best.statistics.items()} == shapes | {"chrf_fixed": (2, 7, 18)}
    assert fixed.tables == {}
    assert "decoding" not in fixed.samples[0]
    assert best.metrics["dev_loss"] == fixed.metrics["dev_loss"]


def test_an_objective_that_scores_generated_texts_chooses() -> None:
    model, data = toys.model(), toys.data(dev=8)
    by_perplexity = TASKS["sonnet"].evaluate(model, data, BEST.but(objective="text_perplexity"), "dev")
    by_chrf = TASKS["sonnet"].evaluate(model, data, BEST, "dev")
    assert {"text_perplexity_fixed", "text_perplexity"} <= by_perplexity.metrics.keys()
    assert "chrf_continuation_fixed" not in by_perplexity.metrics
    assert by_perplexity.metrics["text_perplexity"] < by_chrf.metrics["text_perplexity"]


def test_only_chosen_texts_are_scored_by_the_model_and_as_among_all_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, model, data, scored = Sonnet(), toys.model(), toys.data(dev=9), []
    losses_of_texts = task.losses_of_texts

    def spy(model: GPT2, data: TaskData, config: RunConfig, texts: Sequence[Sequence[str]]) -> np.ndarray:
        scored.append(len(texts))
        return losses_of_texts(model, data, config, texts)

    monkeypatch.setattr(task, "losses_of_texts", spy)
    evaluation = task.evaluate(model, data, BEST, "dev")
    assert scored == [BEST.decode_seeds]
    given = ["\n".join(text.split("\n")[:3]) for text in data.splits["dev"].texts]
    written = continuations(model, data.tokenizer, given, BEST)
    sonnets = [[f"{start}\n{text}" for start, text in zip(given, texts, strict=True)] for texts in written]
    losses = losses_of_texts(model, data, BEST, sonnets).reshape(-1, BEST.decode_seeds, 9, 3)
    names = [setting_text(BEST, setting) for setting in decoding_settings(BEST)]
    chosen = [names.index(sample["decoding"]) for sample in evaluation.samples]
    expected = np.stack([losses[setting, :, number] for number, setting in enumerate(chosen)], axis=1)
    np.testing.assert_allclose(evaluation.statistics["text_loss"], expected, rtol=1e-5)


def test_a_single_text_has_no_other_half_and_is_scored_with_the_runs_own_setting() -> None:
    evaluation = TASKS["sonnet"].evaluate(toys.model(), toys.data(dev=1), BEST, "dev")
    assert evaluation.tables["decoding"] == [[1, 0, 0, 0, 0]]
    assert evaluation.metrics["chrf_continuation"] == evaluation.metrics["chrf_continuation_fixed"]


def test_a_round_of_cross_validation_chooses_within_each_fold() -> None:
    run = BEST.but(folds=2, scored_on="folds", epochs=1)
    report = next(train(run, lambda part: toys.model(), toys.data(train=12)))
    assert sum(report.evaluation.tables["decoding"][0]) == 12
    for counts, name in (("chrf", "chrf_continuation"), ("chrf_fixed", "chrf_continuation_fixed")):
        joint = report.evaluation.statistics[counts].sum(axis=(0, 1))
        score = TASKS["sonnet"].metrics["chrf_continuation"].score
        assert score is not None
        assert report.metrics[name] == pytest.approx(float(score(joint)))


def test_texts_to_hand_in_are_written_with_the_runs_own_setting() -> None:
    model, data = toys.model(), toys.data()
    written = [content(model, run, data, "dev", "classes") for run in (BEST, BEST.but(decoding="fixed"))]
    assert written[0] == written[1]


# cross-fitting, by simulation: K settings whose texts are right with some probability


def simulated(right: Sequence[float], texts: int, random: np.random.Generator) -> np.ndarray:
    """Counts (K, N, 2) of texts of which a share `right[k]` has a property."""
    hits = random.random((len(right), texts)) < np.array(right)[:, None]
    return np.stack([hits, np.ones_like(hits)], axis=-1).astype(np.float64)


def scores(counts: np.ndarray, first: np.ndarray) -> tuple[float, float]:
    """The best score on the same texts, and the cross-fitted score."""
    chosen = cross_fitted(counts, share, Direction.MAX, first)
    return float(share(counts.sum(axis=1)).max()), float(share(counts[chosen, np.arange(len(chosen))].sum(axis=0)))


def test_alike_settings_are_scored_without_bias_though_the_best_score_on_the_same_texts_is_too_good() -> None:
    random = np.random.default_rng(0)
    found = np.array([scores(simulated([0.4] * 8, 12, random), random.permutation(12) < 6) for _ in range(3000)])
    (best, fitted), error = found.mean(axis=0), found.std(axis=0) / len(found) ** 0.5
    assert best > 0.4 + 0.15, "eight settings that are alike seem 0.2 better by luck"
    assert abs(fitted - 0.4) < 4 * error[1]


def test_a_better_setting_is_found_and_keeps_its_score() -> None:
    random = np.random.default_rng(1)
    right = [0.3, 0.4, 0.4, 0.8, 0.4]
    chosen, found = [], []
    for _ in range(300):
        counts, first = simulated(right, 40, random), random.permutation(40) < 20
        chosen += cross_fitted(counts, share, Direction.MAX, first).tolist()
        found.append(scores(counts, first)[1])
    assert np.mean(np.array(chosen) == 3) > 0.95
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)


def test_the_lowest_number_wins_ties_and_nan_never_wins() -> None:
    first = np.array([True, False, True, False])
    counts = np.ones((3, 4, 2))
    assert cross_fitted(counts, share, Direction.MAX, first).tolist() == [0, 0, 0, 0]
    counts[2, :2, 0] = 0
    assert cross_fitted(counts, mean_loss, Direction.MIN, first).tolist() == [2, 2, 2, 2]
    counts[2, 0, 0] = np.nan
    assert cross_fitted(counts, mean_loss, Direction.MIN, first).tolist() == [2, 0, 2, 0]
    assert cross_fitted(counts, share, Direction.MAX, np.ones(4, dtype=bool)).tolist() == [0, 0, 0, 0]


def test_equal_texts_stay_in_one_half() -> None:
    data = toys.data(dev=4)
    same = data.splits["dev"].take(np.array([2, 2, 2, 0]))
    first = has_smaller_digest(same.digests)
    assert len(set(first[:3])) == 1
    evaluation = TASKS["sonnet"].evaluate(toys.model(), replace(data, splits={**data.splits, "dev": same}), BEST, "dev")
    assert len({sample["decoding"] for sample in evaluation.samples[:3]}) == 1


def test_outputs_are_generated_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(model: object, rows: Sequence[object], **keys: object) -> list[list[int]]:
        asked.append(len(rows))
        return [[1]] * len(rows)

    monkeypatch.setattr("gpt2core.tasks.writing.generate_cached", counted)
    sonnet.continuations(toys.model(), toys.tokenizer(), GIVEN, BEST)
    assert asked == [5 * 2 * 3], "settings, seeds, prompts"
