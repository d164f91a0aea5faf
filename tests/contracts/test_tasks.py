"""The contract of tasks, run for each entry of TASKS."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from gpt2core.config import RunConfig
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS, sonnet
from gpt2core.tasks.base import loss_statistics
from gpt2core.testing import TaskContract, toys
from gpt2core.testing.contract import Settings
from gpt2core.tokenizer import Tokenizer
from tests import course, generated, own


@pytest.fixture(scope="module")
def course_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course.folder(tmp_path_factory.mktemp("course"))


class TestTasks(TaskContract):
    #: A run of several tasks has other data and models, which `tests/unit/test_multitask.py` tests.
    cases: ClassVar = {name: {"task": name} for name in sorted(TASKS.keys() - {"multi"})}

    @pytest.fixture
    def run(self, case: Settings, course_files: Path, tmp_path: Path) -> RunConfig:
        name = str(case["task"])
        data_dir = str(course_files) if name in ("sst", "cfimdb", "paraphrase") else None
        pairs = str(generated.folder(tmp_path)) if name == "rewriting" else None
        return RunConfig(task=name, data_dir=data_dir, pairs=pairs, **own.flags(name, tmp_path))


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
    scores = [perfect[name] for name in ("chrf_continuation", "chrf_whole", "chrf_continuation_low")]
    assert scores == pytest.approx([100, 100, 100])
    assert perfect["length_ratio"] == pytest.approx(1)
    assert perfect["text_perplexity"] == pytest.approx(perfect["dev_perplexity"])
    write([""] * len(gold))
    empty = TASKS["sonnet"].evaluate(model, data, toys.RUN, "dev").metrics
    assert (empty["chrf_continuation"], empty["length_ratio"]) == (0, 0)
    assert empty["chrf_whole"] > 0


def test_statistics_hold_one_row_for_each_output_and_example() -> None:
    statistics = TASKS["sonnet"].evaluate(toys.model(), toys.data(), toys.RUN, "dev").statistics
    outputs = toys.RUN.decode_seeds
    shapes = {name: counts.shape for name, counts in statistics.items()}
    assert shapes == {
        "loss": (1, 4, 3),
        "chrf": (outputs, 4, 18),
        "chrf_whole": (outputs, 4, 18),
        **dict.fromkeys(("form_lines", "form_rhyme", "form_metre", "copied_lines"), (outputs, 4, 2)),
        "text_loss": (outputs, 4, 3),
    }


def test_the_loss_of_a_sonnet_excludes_the_given_lines() -> None:
    model, data = toys.model(), toys.data()
    tokens, words = data.splits["dev"], data.tokenizer
    found = loss_statistics(TASKS["sonnet"], model, data, toys.RUN, "dev")
    for number, text in enumerate(tokens.texts):
        rest = "\n".join(text.split("\n")[3:])
        new = [*words.encode([rest])[0], words.eos]
        ids = torch.tensor(tokens[number]).long()
        assert ids[-len(new) :].tolist() == new
        with torch.no_grad():
            logits = model.logits(model(ids[None]))[0, -len(new) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, ids[-len(new) :], reduction="sum")
        assert found[number].tolist() == pytest.approx([float(expected), len(new), len(rest)], rel=1e-5)


def test_lines_beyond_those_asked_for_do_not_change_chrf(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, config = toys.model(), toys.data(), toys.RUN.but(decode_seeds=1)

    def score(tail: str) -> dict[str, float]:
        texts = [f"{toys.lines(11, number)}{tail}" for number in range(4)]
        monkeypatch.setattr(sonnet, "continuations", lambda m, t, given, c: [texts])
        return TASKS["sonnet"].evaluate(model, data, config, "dev").metrics

    short, long = score(""), score(f"\n\n{toys.lines(9, 77)}")
    assert short["chrf_continuation"] == long["chrf_continuation"]
    assert short["chrf_whole"] != long["chrf_whole"]
    assert (short["form_lines"], long["form_lines"]) == (1, 0)


def test_a_uniform_model_has_the_bits_of_its_vocabulary() -> None:
    model, data = toys.model(), toys.data()
    model.wte.weight.data.zero_()
    metrics = TASKS["poems"].evaluate(model, data, toys.RUN, "dev").metrics
    dev, words = data.splits["dev"], data.tokenizer
    characters = sum(len(text) - len(words.decode(dev[number][:1])) for number, text in enumerate(dev.texts))
    assert metrics["dev_loss"] == pytest.approx(math.log(320))
    assert metrics["dev_perplexity"] == pytest.approx(320)
    bits = (dev.lengths - 1).sum() * math.log2(320) / characters
    assert metrics["bits_per_character"] == pytest.approx(bits)
