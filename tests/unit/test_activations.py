"""What a frozen part makes of texts is computed once, and nobody's losses change."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from gpt2core import activations
from gpt2core.config import RunConfig
from gpt2core.files import cache_folder
from gpt2core.testing import toys
from gpt2core.training import train
from tests.rights import files_of_at_most

RUN = toys.RUN.but(epochs=2, dropout=0.1, lr=3e-3)
CASES = {
    "a head": RUN.but(task="sst", adapter="last-linear"),
    "upper block, last tokens": RUN.but(task="sst", adapter="freeze", blocks="1"),
    "upper block, all tokens": RUN.but(adapter="freeze", blocks="1"),
    "pairs on the upper block": RUN.but(adapter="lora", blocks="1", attention="logsparse", train_examples=9),
    "segments": RUN.but(task="pretraining", adapter="freeze", blocks="1"),
    "nothing trains": RUN.but(adapter="frozen", epochs=1),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2_SEARCH_CACHE", str(tmp_path))


def losses(config: RunConfig) -> list[float]:
    reports = train(config, toys.model(), toys.data())
    return [r.metrics[key] for r in reports for key in ("train_loss", "dev_loss") if key in r.metrics]


@contextmanager
def counted() -> Iterator[list[nn.Module]]:
    """The embeddings that are looked up meanwhile: the lowest part of a model."""
    seen: list[nn.Module] = []
    hook = register_module_forward_hook(lambda m, a, o: seen.append(m) if isinstance(m, nn.Embedding) else None)
    yield seen
    hook.remove()


@pytest.mark.parametrize("name", CASES)
def test_the_losses_are_those_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = [losses(CASES[name]) for _ in range(2)]
    assert list(cache_folder().glob("activations/*.arrow")), "what this test is about"
    monkeypatch.setattr(activations, "LARGEST", 0)
    plain = losses(CASES[name])
    assert len(plain) == (4 if CASES[name].adapter != "frozen" else 1)
    assert cached == [pytest.approx(plain, rel=1e-5)] * 2


def test_a_second_run_does_not_compute_the_frozen_part_again() -> None:
    with counted() as first:
        losses(CASES["a head"])
    with counted() as second:
        losses(CASES["a head"].but(lr=1e-2, seed=4))
    assert first
    assert not second


def test_what_decides_the_activations_finds_others() -> None:
    for config in (RUN, RUN.but(attention="logsparse"), RUN.but(train_examples=5), RUN.but(task="pretraining")):
        losses(config.but(adapter="freeze", blocks="1", epochs=1))
    files = list(cache_folder().glob("activations/*.arrow"))
    assert len(files) == 2 + 2 + 1 + 2, "train and dev; a part of train has the same dev"


def test_a_damaged_file_is_made_again_and_the_oldest_go_when_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = losses(CASES["a head"])
    files = list(cache_folder().glob("activations/*.arrow"))
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert losses(CASES["a head"]) == plain
    largest = max(files, key=lambda file: file.stat().st_size)
    os.utime(largest, (0, 0))
    monkeypatch.setattr(activations, "CACHE_SIZE", largest.stat().st_size)
    losses(CASES["a head"].but(train_examples=3))
    kept = set(cache_folder().glob("activations/*.arrow"))
    assert kept - set(files), "the new one"
    assert set(files) - kept == {largest}


@pytest.mark.parametrize("damage", ["another's file", "a link to it", "other numbers"])
def test_what_is_not_what_was_written_is_computed_again(damage: str) -> None:
    run = CASES["a head"]
    plain, folder = losses(run), cache_folder() / "activations"
    own = {file: file.read_bytes() for file in folder.glob("*.arrow")}
    losses(run.but(attention="logsparse"))
    others = sorted(set(folder.glob("*.arrow")) - own.keys(), key=lambda file: file.stat().st_size)
    for file, other in zip(sorted(own, key=lambda file: len(own[file])), others, strict=True):
        assert len(own[file]) == other.stat().st_size
        if damage == "other numbers":
            middle = len(own[file]) // 2
            file.write_bytes(own[file][:middle] + bytes(8) + own[file][middle + 8 :])
            continue
        file.unlink()
        os.link(other, file) if damage == "another's file" else file.symlink_to(other)
    assert losses(run) == plain
    assert {file: file.read_bytes() for file in own} == own


def test_a_run_does_without_what_its_disk_has_no_room_for() -> None:
    plain = losses(CASES["a head"])
    for file in (cache_folder() / "activations").glob("*.arrow"):
        file.unlink()
    with files_of_at_most(1000):
        assert losses(CASES["a head"]) == pytest.approx(plain, rel=1e-5)
    assert not list((cache_folder() / "activations").glob("*.arrow"))
