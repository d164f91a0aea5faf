"""What every task promises; a new entry of TASKS is tested without another line."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2core.config import RunConfig
from gpt2core.data.batches import collate
from gpt2core.errors import DivergedError
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS, Task, sonnet
from gpt2core.tasks.base import LanguageTask, load_data, loss_statistics
from gpt2core.tokenizer import Tokenizer
from tests import course, generated, toys

LANGUAGE = sorted(name for name, entry in TASKS.items() if isinstance(entry, LanguageTask))


@pytest.fixture(params=sorted(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


@pytest.fixture
def model(task: Task) -> GPT2:
    return toys.model(classes=task.classes(toys.RUN))


@pytest.fixture(scope="module")
def course_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course.folder(tmp_path_factory.mktemp("course"))


def test_it_is_known_by_its_name(task: Task) -> None:
    assert TASKS[task.name] is task


def test_the_evaluation_has_the_objective_and_is_the_same_twice(task: Task, model: GPT2) -> None:
    data = toys.data()
    one, two = (task.evaluate(model, data, toys.RUN, "dev") for _ in range(2))
    assert math.isfinite(one.metrics[task.objective])
    assert one.metrics == two.metrics
    assert one.samples == two.samples
    assert one.tables == two.tables


def test_its_corpus_is_split_described_and_tokenised(task: Task, course_files: Path, tmp_path: Path) -> None:
    data_dir = str(course_files) if task.name in ("sst", "cfimdb", "paraphrase") else None
    pairs = str(generated.folder(tmp_path)) if task.name == "rewriting" else None
    data = load_data(task, RunConfig(task=task.name, data_dir=data_dir, pairs=pairs), toys.tokenizer(), 2000)
    assert len(data.splits["train"]) > 0
    assert len(data.splits["dev"]) > 0
    assert data.corpus.digest[:12] in data.corpus.describe()


@torch.no_grad()
def test_padding_has_no_loss(task: Task, model: GPT2) -> None:
    data = toys.data()
    tokens = data.splits["train"]
    batch = collate(tokens, range(6), torch.device("cpu"))
    padded = torch.arange(batch.input_ids.shape[1]) >= batch.lengths[:, None]
    assert padded.any()
    together = task.losses(model, batch, data.tokenizer, toys.RUN)
    other = batch._replace(input_ids=batch.input_ids.masked_fill(padded, 7))
    torch.testing.assert_close(task.losses(model, other, data.tokenizer, toys.RUN), together)
    for number in range(6):
        alone = task.losses(model, collate(tokens, [number], torch.device("cpu")), data.tokenizer, toys.RUN)
        torch.testing.assert_close(alone[0], together[number])


def test_the_objective_is_the_score_of_the_statistics(task: Task, model: GPT2) -> None:
    evaluation = task.evaluate(model, toys.data(), toys.RUN, "dev")
    assert evaluation.statistics is not None
    score = task.score(evaluation.statistics.sum(axis=1)).mean()
    assert evaluation.metrics[task.objective] == pytest.approx(score)
    low, high = (evaluation.metrics[f"{task.objective}_{end}"] for end in ("low", "high"))
    assert low <= score <= high


def test_a_model_that_has_diverged_is_said_to_have(task: Task, model: GPT2) -> None:
    data = toys.data()
    model.ln_f.weight.data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="The cross-entropy is nan"):
        task.evaluate(model, data, toys.RUN, "dev")


def test_a_very_large_loss_is_still_a_number(task: Task, model: GPT2) -> None:
    model.ln_f.weight.data *= 1e6
    metrics = task.evaluate(model, toys.data(), toys.RUN, "dev").metrics
    assert metrics["dev_loss"] > 1000
    assert all(math.isfinite(value) for value in metrics.values())
    assert ("dev_perplexity" in metrics) == (task.name in LANGUAGE)


def test_cross_entropy_does_not_depend_on_batching_or_padding() -> None:
    model, data = toys.model(), toys.data(dev=7)
    alone = loss_statistics(TASKS["sonnet"], model, data, toys.RUN, "dev", batch_size=1)
    together = loss_statistics(TASKS["sonnet"], model, data, toys.RUN, "dev", batch_size=7)
    assert together == pytest.approx(alone, rel=1e-6)


def test_sonnets_end_with_eos_and_come_from_the_rows() -> None:
    data = toys.data()
    rows = data.corpus.splits["train"]
    examples = TASKS["sonnet"].encode(rows, data.tokenizer)
    assert all(example.input_ids[-1] == data.tokenizer.eos for example in examples)
    assert [data.tokenizer.decode(example.input_ids) for example in examples] == [row.text for row in rows]
    assert [example.id for example in examples] == [row.id for row in rows]


def test_a_perfect_continuation_scores_100_and_an_empty_one_0(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = toys.model(), toys.data()
    gold = ["\n".join(text.split("\n")[3:]) for text in data.splits["dev"].texts]

    def write(texts: list[str]) -> None:
        def fixed(m: GPT2, t: Tokenizer, given: Sequence[str], c: RunConfig) -> list[list[str]]:
            return [texts] * c.decode_seeds

        monkeypatch.setattr(sonnet, "continuations", fixed)

    write(gold)
    perfect = TASKS["sonnet"].evaluate(model, data, toys.RUN, "dev").metrics
    assert (
        perfect["chrf_continuation"] == perfect["chrf_whole"] == perfect["chrf_continuation_low"] == pytest.approx(100)
    )
    assert perfect["length_ratio"] == pytest.approx(1)
    write([""] * len(gold))
    empty = TASKS["sonnet"].evaluate(model, data, toys.RUN, "dev").metrics
    assert (empty["chrf_continuation"], empty["length_ratio"]) == (0, 0)
    assert empty["chrf_whole"] > 0


def test_statistics_hold_one_row_for_each_seed_and_example() -> None:
    statistics = TASKS["sonnet"].evaluate(toys.model(), toys.data(), toys.RUN, "dev").statistics
    assert isinstance(statistics, np.ndarray)
    assert statistics.shape == (toys.RUN.decode_seeds, 4, 18)
