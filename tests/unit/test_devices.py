"""The device of a process, and what Apple's GPUs lack. There is none here, so PyTorch only claims it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from gpt2core.builders import device
from gpt2core.config import RunConfig
from gpt2core.dropout import Stream
from gpt2core.errors import ConfigError
from gpt2core.precision import narrow_type
from gpt2core.run import Run
from gpt2core.testing import toys
from gpt2core.workers import Workers

APPLE = torch.device("mps")


def claim(monkeypatch: pytest.MonkeyPatch, *names: str, wanted: str = "") -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)
    monkeypatch.setenv("GPT2_SEARCH_DEVICE", wanted)


@pytest.mark.parametrize(("names", "wanted", "expected"), [
    ([], "", "cpu"),
    (["cuda"], "", "cuda"),
    (["mps"], "", "cpu"),
    (["mps"], "mps", "mps"),
    (["cuda"], "cpu", "cpu"),
])  # fmt: skip
def test_the_device_is_a_gpu_or_the_one_that_is_asked_for(
    names: list[str], wanted: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(monkeypatch, *names, wanted=wanted)
    assert device() == torch.device(expected)


@pytest.mark.parametrize("wanted", ["mps", "tpu"])
def test_a_missing_device_is_an_error(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(monkeypatch, "cuda", wanted=wanted)
    with pytest.raises(ConfigError, match=rf"GPT2_SEARCH_DEVICE is '{wanted}', but must be .*: cuda, cpu$"):
        device()


def test_apples_gpus_compute_in_float32() -> None:
    assert narrow_type(RunConfig(), APPLE) is None
    assert narrow_type(RunConfig(precision="float32"), APPLE) is None
    with pytest.raises(ConfigError, match="`precision` is 'bfloat16', but must be auto or float32 on Apple's GPUs"):
        narrow_type(RunConfig(precision="bfloat16"), APPLE)


def test_a_run_of_several_workers_on_apples_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    claim(monkeypatch, "mps", wanted="mps")
    with pytest.raises(ConfigError, match="has 2 workers, but must have one on Apple's GPUs"):
        Run(toys.RUN, toys.model(), toys.data(), Workers(0, 2))


def test_dropout_on_apples_gpus_depends_on_seed_step_and_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, default = torch.Generator, torch.default_generator
    module = SimpleNamespace(get_rng_state=default.get_state, set_rng_state=default.set_state)
    monkeypatch.setattr(torch, "Generator", lambda _: generator())
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)

    def masks(seed: int, step: int) -> list[list[bool]]:
        first, other = (Stream(seed, step, part, np.arange(4), APPLE) for part in (0, 1))
        drawn = []
        for stream in (first, other, first):  # passes of packed runs alternate
            with stream.drawing():
                drawn.append((functional.dropout(torch.ones(64), 0.5) > 0).tolist())
        return drawn

    one = masks(7, 3)
    assert masks(7, 3) == one
    assert len({str(drawn) for drawn in (*one, *masks(7, 4), *masks(8, 3))}) == 9
