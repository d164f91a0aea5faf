"""Classification: inputs, scores and predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, f1_score, matthews_corrcoef
from sklearn.naive_bayes import MultinomialNB
from torch.nn import functional

from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch, collate
from gpt2core.data.corpus import Row
from gpt2core.distill.student import r_drop_losses
from gpt2core.errors import ConfigError, DataError
from gpt2core.identity import identity
from gpt2core.metrics import classification as metrics
from gpt2core.metrics.baselines import naive_bayes
from gpt2core.model import GPT2, TrunkInput
from gpt2core.run import Run
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import load_data
from gpt2core.tasks.classification import TOKENS, Classification, batches
from gpt2core.tasks.paraphrase import Paraphrase, answer_tokens
from gpt2core.testing import toys
from gpt2core.tokenizer import Tokenizer, train_bpe
from gpt2core.training import train
from gpt2core.weights import model_folder
from searches.running.tracking import samples_text
from tests import course

CPU = torch.device("cpu")
CLASSIFYING = [entry for entry in TASKS.values() if isinstance(entry, Classification)]
CLOZE = toys.RUN.but(task="paraphrase", paraphrase_head="cloze")


@pytest.fixture(params=CLASSIFYING, ids=lambda entry: entry.name)
def task(request: pytest.FixtureRequest) -> Classification:
    entry: Classification = request.param
    return entry


@pytest.fixture(scope="module")
def answering() -> Tokenizer:
    return train_bpe([toys.lines(50, 1) + "\nyes\nno" * 200], 320)


def batch(count: int = 4) -> Batch:
    return collate(toys.data().splits["train"], range(count), CPU)


def model(task: Classification, config: RunConfig = toys.RUN) -> GPT2:
    return toys.model(classes=task.classes(config))


@torch.no_grad()
def test_classes_are_predicted_from_the_last_real_token(task: Classification) -> None:
    net, some = model(task), batch()
    assert net.head is not None
    logits = task.logits(net, some, toys.tokenizer(), toys.RUN)
    for row, length in enumerate(some.lengths):
        alone = net(some.input_ids[row : row + 1, :length])[0, -1]
        torch.testing.assert_close(logits[row], net.head(alone))


def test_head_dropout_applies_only_in_training() -> None:
    task, some, config = TASKS["sst"], batch(), toys.RUN.but(dropout=0.0)
    assert isinstance(task, Classification)
    net = model(task)
    plain = task.logits(net, some, toys.tokenizer(), config)
    net.train()
    torch.manual_seed(0)
    assert not torch.allclose(plain, task.logits(net, some, toys.tokenizer(), config.but(head_dropout=0.9)))
    torch.testing.assert_close(task.logits(net, some, toys.tokenizer(), config.but(head_dropout=0.0)), plain)


def test_perfect_predictions_score_100_wrong_ones_0(task: Classification, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(shift: int) -> dict[str, float]:
        def logits(self: object, net: GPT2, some: Batch, t: Tokenizer, c: RunConfig) -> torch.Tensor:
            classes = len(task.class_names(toys.RUN))
            return 50.0 * functional.one_hot((some.labels + shift) % classes, classes)

        monkeypatch.setattr(type(task), "logits", logits)
        return task.evaluate(model(task), toys.data(dev=40), toys.RUN, "dev").metrics

    right, wrong = answer(0), answer(1)
    assert right["accuracy"] == right["accuracy_low"] == right["accuracy_high"] == right["macro_f1"] == 100
    assert right["dev_loss"] == pytest.approx(0, abs=1e-6)
    assert wrong["accuracy"] == wrong["macro_f1"] == 0
    if task.name == "paraphrase":
        assert (right["f1"], wrong["f1"]) == (100, 0)
        assert (right["brier_score"], wrong["brier_score"]) == pytest.approx((0, 1))
        assert (right["calibration_error"], wrong["calibration_error"]) == pytest.approx((0, 1))


def test_the_evaluation_holds_a_confusion_matrix_statistics_and_samples(task: Classification) -> None:
    data = toys.data(dev=50)
    evaluation = task.evaluate(model(task), data, toys.RUN, "dev")
    confusion = np.array(evaluation.tables["confusion"])
    assert confusion.sum(axis=1).tolist() == [25, 25] + [0] * (len(task.class_names(toys.RUN)) - 2)
    assert metrics.accuracy(confusion.ravel()) == pytest.approx(evaluation.metrics["accuracy"])
    counts = evaluation.statistics["confusion"]
    assert (counts.shape, counts.dtype) == ((1, 50, len(task.class_names(toys.RUN)) ** 2), np.uint8)
    assert counts.sum(axis=(0, 1)).tolist() == confusion.ravel().tolist()
    predicted = task.predict(model(task), data.splits["dev"], data.tokenizer, toys.RUN)
    cells = data.splits["dev"].labels * len(task.class_names(toys.RUN)) + predicted
    assert counts[0].argmax(axis=1).tolist() == cells.tolist()
    assert len(evaluation.samples) == 20
    for sample in evaluation.samples:
        number = int(sample["id"])
        assert sample["text"] == data.splits["dev"].texts[number]
        assert sample["gold"] == task.class_names(toys.RUN)[number % 2]
        assert sample["predicted"] == task.class_names(toys.RUN)[predicted[number]]
    assert "### predicted" in samples_text(evaluation.samples)


def test_the_baseline_is_the_majority_class_of_training(task: Classification) -> None:
    data = toys.data(train=13, dev=7)  # 7 of class 0 and 6 of class 1 in training, 4 and 3 in dev
    baseline = task.baselines(data, toys.RUN, "dev")["majority_class"]
    assert f"always `{task.class_names(toys.RUN)[0]}`" in baseline.meaning
    assert baseline.scores["accuracy"] == (pytest.approx(400 / 7), 0)
    assert baseline.scores["macro_f1"] == (pytest.approx(100 * (8 / 11) / 2), 0)
    chances = np.array([8, 7]) / (13 + len(task.class_names(toys.RUN)))
    assert baseline.scores["dev_loss"] == (pytest.approx(-(np.log(chances) * [4, 3]).sum() / 7), 0)


def test_a_split_without_labels_has_no_score(task: Classification) -> None:
    data = toys.data()
    data.splits["dev"].labels[1] = -1
    with pytest.raises(DataError, match="random words: the dev split has no labels to score against"):
        task.evaluate(model(task), data, toys.RUN, "dev")


def test_a_model_without_the_tasks_head_is_an_error(task: Classification) -> None:
    for net in (toys.model(), toys.model(classes=3)):
        with pytest.raises(ConfigError, match=r"The model has no head for the [25] classes"):
            task.logits(net, batch(), toys.tokenizer(), toys.RUN)


@pytest.mark.parametrize("adapter", ["full", "last-linear"])
def test_training_lowers_the_loss_and_keeps_the_tables(task: Classification, adapter: str, tmp_path: Path) -> None:
    config = toys.RUN.but(task=task.name, adapter=adapter, lr=3e-3, head_dropout=0.0, dropout=0.0)
    reports = list(train(config, toys.model(), toys.data(), folder=tmp_path))
    losses = [report.metrics["train_loss"] for report in reports]
    assert losses[-1] < losses[0]
    assert reports[0].metrics["accuracy"] <= 100
    again = list(train(config, toys.model(), toys.data(), folder=tmp_path))
    assert [r.evaluation.tables for r in again] == [r.evaluation.tables for r in reports]
    assert reports[0].evaluation.tables


def test_r_drop_holds_each_example_twice_with_other_dropout() -> None:
    config = toys.RUN.but(task="sst", r_drop=2.0, dropout=0.2, head_dropout=0.3, batch_size=4)
    run, examples = Run(config, toys.model(), toys.data()), np.arange(4)
    batch, task, tokenizer = run.collate(examples), run.task, toys.tokenizer()
    assert isinstance(task, Classification)
    assert batch.labels.tolist() == [*batch.labels[:4].tolist()] * 2
    with run.dropout_stream(0, 0, examples).drawing():
        logits = task.class_logits(run.model.train(), run.model.run_trunk(run.trunk_input(batch)), tokenizer, config)
    assert not torch.allclose(logits[:4], logits[4:])
    with run.dropout_stream(0, 0, examples).drawing():
        loss = run.forward(batch)
    cross_entropy = functional.cross_entropy(logits, batch.labels, reduction="sum")
    torch.testing.assert_close(loss, cross_entropy / 2 + 2.0 * r_drop_losses(logits).sum())
    assert run.weight(examples) == 4, "the loss is a mean over examples, not over passes"
    without = Run(config.but(dropout=0.0, head_dropout=0.0), toys.model(), toys.data())
    once = Run(config.but(dropout=0.0, head_dropout=0.0, r_drop=0.0), toys.model(), toys.data())
    torch.testing.assert_close(without.forward(without.collate(examples)), once.forward(once.collate(examples)))


def test_sentiment_is_lower_cased_and_stripped() -> None:
    words = toys.tokenizer()
    (example,) = TASKS["sst"].encode([Row(id="a", text="  Thy LOVE ", label=3)], words)
    assert (example.text, example.label) == ("thy love", 3)
    assert words.decode(example.input_ids) == "thy love"


def test_truncated_texts_are_reported(tmp_path: Path) -> None:
    course.folder(tmp_path)
    course.sentiment(tmp_path / "sst" / "ids-sst-dev.csv", [("a", "fine " * 300, 1), ("b", "dull", 0)])
    data = load_data(TASKS["sst"], RunConfig(data_dir=str(tmp_path)), toys.tokenizer(), 100)
    assert data.splits["dev"].lengths.max() == 100
    assert data.describe().endswith("truncated to the context: 1 dev")


def test_scoring_a_part_of_the_dev_split_is_reported(tmp_path: Path) -> None:
    course.folder(tmp_path)
    whole = load_data(TASKS["sst"], RunConfig(data_dir=str(tmp_path)), toys.tokenizer(), 100)
    part = whole.with_dev(3)
    assert len(part.splits["dev"]) == 3
    assert part.describe().endswith("scored on a sample of 3 of dev")
    assert whole.with_dev(None).describe() == whole.with_dev(10**6).describe() == whole.describe()


def test_a_pair_is_a_prompt_that_an_answer_follows(answering: Tokenizer) -> None:
    row = Row(id="a", text="Who?", second="Whom?", label=1)
    (example,) = TASKS["paraphrase"].encode([row], answering)
    assert example.text.index("Who?") < example.text.index("Whom?")
    followed = answering.encode([example.text + "yes", example.text + "no"])
    assert followed == [[*example.input_ids, token] for token in reversed(answer_tokens(answering))]


@torch.no_grad()
def test_the_cloze_is_the_tied_head_on_no_and_yes(answering: Tokenizer) -> None:
    task, net, some = Paraphrase(), toys.model(), batch()
    assert task.classes(CLOZE) == 0
    no, yes = answer_tokens(answering)
    every = net.logits(net.run_trunk(TrunkInput(some.input_ids, lengths=some.lengths)))
    logits = task.logits(net, some, answering, CLOZE)
    torch.testing.assert_close(logits, every[:, [no, yes]])
    expected = functional.cross_entropy(logits, some.labels, reduction="none")
    torch.testing.assert_close(task.losses(net, some, answering, CLOZE), expected)


def test_the_cloze_needs_a_tokenizer_with_yes_and_no() -> None:
    nano = Tokenizer.load(model_folder("gpt2-nano"))
    with pytest.raises(ConfigError, match="tokenizer splits 'yes' into 2 tokens instead of one; use `binary`"):
        Paraphrase().logits(toys.model(), batch(), nano, CLOZE)


def test_classification_keys_are_part_of_the_identity_only_if_read() -> None:
    for name, reads_dropout, reads_head in (("sonnet", 0, 0), ("sst", 1, 0), ("paraphrase", 1, 1)):
        config = RunConfig(task=name)
        assert (identity(config) != identity(config.but(head_dropout=0.1))) == reads_dropout
        assert (identity(config) != identity(config.but(paraphrase_head="cloze"))) == reads_head


def test_evaluation_batches_have_each_example_once_within_their_limits() -> None:
    lengths = np.random.default_rng(0).integers(1, 1025, size=999)
    result = batches(lengths)
    assert sorted(np.concatenate(result)) == list(range(999))
    assert max(len(index) * lengths[index].max() for index in result) <= TOKENS
    assert max(map(len, result)) == 64
    assert [len(index) for index in batches(np.array([TOKENS + 1, 3, 3]))] == [1, 2]


def random_answers(classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(classes)
    return random.integers(0, classes, 300), random.dirichlet(np.ones(classes), 300)


def test_naive_bayes_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    texts = [random.integers(0, 30, size=size) for size in random.integers(1, 20, size=80)]
    occurs = np.array([np.isin(range(30), text) for text in texts])
    labels = random.integers(0, 3, size=60)
    prior = (np.bincount(labels) + 1) / (60 + 3)
    model = MultinomialNB(class_prior=prior).fit(occurs[:60], labels)
    log_chances = naive_bayes(texts[:60], labels, texts[60:], 30, 3)
    np.testing.assert_allclose(log_chances, model.predict_log_proba(occurs[60:]))


@pytest.mark.parametrize("classes", [2, 5])
def test_f1_mcc_and_brier_agree_with_scikit_learn(classes: int) -> None:
    gold, probabilities = random_answers(classes)
    predicted = probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(gold, predicted, classes).ravel()
    assert metrics.one_hot(gold, predicted, classes).sum(axis=(0, 1)).tolist() == confusion.tolist()
    assert metrics.macro_f1(confusion) == pytest.approx(100 * f1_score(gold, predicted, average="macro"))
    assert metrics.mcc(confusion) == pytest.approx(matthews_corrcoef(gold, predicted))
    assert metrics.f1_scores(confusion) == pytest.approx(100 * f1_score(gold, predicted, average=None))
    assert metrics.accuracy(confusion) == pytest.approx(100 * (gold == predicted).mean())
    if classes == 2:
        assert metrics.second_f1(confusion) == pytest.approx(100 * f1_score(gold, predicted))
        counts, _ = Paraphrase().further(probabilities, gold)
        brier = Paraphrase.metrics["brier_score"].score(counts["brier"].sum(axis=(0, 1)))
        assert brier == pytest.approx(brier_score_loss(gold, probabilities[:, 1]))


def test_scores_of_many_confusion_matrices_are_those_of_each() -> None:
    counts = np.random.default_rng(0).integers(0, 4, size=(3, 7, 25))
    for score in (metrics.accuracy, metrics.macro_f1, metrics.second_f1):
        assert score(counts).tolist() == [[float(score(one)) for one in row] for row in counts]


def test_macro_f1_ignores_absent_classes() -> None:
    confusion = metrics.confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 5).ravel()
    assert metrics.macro_f1(confusion) == pytest.approx(100 * f1_score([0, 0, 1], [0, 1, 1], average="macro"))


@pytest.mark.parametrize(("confidences", "right", "error"), [
    ([0.8] * 10, [1] * 8 + [0] * 2, 0.0),
    ([0.8] * 10, [1] * 5 + [0] * 5, 0.3),
    ([1.0] * 4, [1, 1, 1, 0], 0.25),
    ([0.6] * 5 + [0.9] * 5, [1] * 5 + [1] * 5, 0.25),
])  # fmt: skip
def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy(
    confidences: Sequence[float], right: Sequence[int], error: float
) -> None:
    probabilities = np.stack([np.array(confidences), 1 - np.array(confidences)], axis=1)
    assert metrics.calibration_error(probabilities, 1 - np.array(right)) == pytest.approx(error)
