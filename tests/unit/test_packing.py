"""Runs that are packed have the losses, gradients and weights that they have one by one, which is the slow, obvious way."""

import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2core import dropout, packing
from gpt2core.config import RunConfig
from gpt2core.errors import DivergedError
from gpt2core.joint import JointLoRA, JointTrunk
from gpt2core.loss_scaling import ScaledAdamW
from gpt2core.model import GPT2
from gpt2core.packing import Packer
from gpt2core.run import Run
from gpt2core.steps import Outcome, Step, StepResult
from gpt2core.tasks import TASKS, TaskData
from gpt2core.testing import toys
from gpt2core.training import train, train_epoch
from gpt2core.weights import digest
from tests.benchmarks import launches

LORA = toys.RUN.but(adapter="lora", rank=4, lora_dropout=0.1, dropout=0.2, lr=3e-3, epochs=50)

#: Runs that share a pass and differ in all else that a search may vary.
ALIKE = [
    LORA,
    LORA.but(rank=1, alpha=3.0, lr=1e-2, seed=5, targets="all", clip_norm=0.5),
    LORA.but(rank=8, weight_decay=0.1, batch_size=7, accumulation=3, lora_dropout=0.0),
    LORA.but(rslora=True, lora_plus=4.0, lr=1e-3, targets="qkv+dense", schedule="cosine", warmup_steps=5, dropout=0.0),
]
ABOVE = LORA.but(blocks="1", rank=2)
SST = LORA.but(task="sst", head_dropout=0.3, contrastive_weight=0.4)
DORA = LORA.but(dora=True, rank=2, targets="all")
SPARSE = LORA.but(attention="dense,logsparse", attention_window=2, batch_size=1, blocks="0")
POEMS = LORA.but(task="poems", dropout=0.0, lora_dropout=0.0, targets="all")
TWICE = SST.but(r_drop=0.5, rank=2)
PREFERS = LORA.but(loss="dpo", dpo_beta=0.5, dropout=0.1)
#: Runs of which only some share a pass.
RUNS = [
    *ALIKE,
    *(ABOVE, ABOVE.but(rank=4, batch_size=6, seed=3)),
    *(SST, SST.but(rank=3, batch_size=3, head_dropout=0.0, seed=2, dropout=0.0)),
    *(DORA, DORA.but(seed=1, lora_dropout=0.0)),
    *(SPARSE, SPARSE.but(rank=2, seed=4, batch_size=2)),
    *(TWICE, TWICE.but(seed=8, r_drop=2.0, batch_size=3)),
    *(PREFERS, PREFERS.but(seed=9, dpo_beta=0.1, rank=2)),
    *(POEMS, POEMS.but(seed=7, rank=3, batch_size=2, blocks="0", targets="qkv")),
]


@pytest.fixture(autouse=True)
def _one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs share a pass although it does not pay on a CPU."""
    monkeypatch.setattr(packing, "TOKENS", 10**9)
    monkeypatch.setattr(packing, "PADDING_ON_CPU", 10**9)


class Script:
    def __init__(self, config: RunConfig, base: GPT2, data: TaskData, above: bool = False) -> None:
        self.run = Run(config, base, data)
        if above:
            self.run.use_cached_activations()
        self.steps = self._steps()
        self.waits: Step = next(self.steps)
        self.losses: list[float] = []

    def _steps(self) -> Generator[Step, Outcome, None]:
        for epoch in itertools.count(1):
            yield from train_epoch(self.run, epoch)

    def took(self, done: Outcome) -> None:
        assert isinstance(done, StepResult), done
        self.losses.append(done.loss)
        self.waits = self.steps.send(done)

    def take(self, steps: int) -> None:
        for _ in range(steps):
            self.took(self.waits.take())

    def trained(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.run.model.named_parameters() if p.requires_grad}


def followed(packed: Sequence[Script], alone: Sequence[Script], tolerance: float, steps: int) -> None:
    """Take steps with both, and compare losses and weights."""
    packer = Packer()
    for _ in range(steps):
        for script in alone:
            script.take(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "step", None)  # no run takes its step alone, not even after an error
            answers = packer.take([script.waits for script in packed])
        for script, done in zip(packed, answers, strict=True):
            script.took(done)
    for one, other in zip(alone, packed, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=tolerance, abs=tolerance)
        assert one.losses[-1] != one.losses[0]
        for name, weight in other.trained().items():
            torch.testing.assert_close(weight, one.trained()[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of runs of each pass."""
    whole, noted = packing._losses, []

    def losses(steps: Sequence[Step], *rest: Any) -> list[Tensor]:
        noted.append(len(steps))
        return whole(steps, *rest)

    monkeypatch.setattr(packing, "_losses", losses)
    return noted


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_ten_steps_together_are_those_of_each_alone(dtype: torch.dtype, tolerance: float, sizes: list[int]) -> None:
    """In float32, those whose lower block is frozen start above it; activations are kept in no wider type."""
    base, data = toys.model().to(dtype), toys.data()
    alone = [Script(config, base, data) for config in RUNS]
    packed = [Script(config, base, data, above=dtype == torch.float32) for config in RUNS]
    followed(packed, alone, tolerance, steps=10)
    assert max(sizes) == (6 if dtype == torch.float64 else 4)


def test_with_the_dropout_of_a_gpu_a_run_draws_what_it_draws_alone(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    """Here PyTorch's generator of the CPU is switched between runs, as that of a GPU is."""

    @contextmanager
    def used(generator: torch.Generator) -> Iterator[None]:
        torch.default_generator.set_state(generator.get_state())
        yield
        generator.set_state(torch.default_generator.get_state())

    for module in (dropout, import_module("gpt2core.attention.dense")):
        monkeypatch.setattr(module, "is_hashed", lambda device: False)
    monkeypatch.setattr(dropout, "_used", used)
    base, data = toys.model().double(), toys.data()
    alone, packed = ([Script(config, base, data) for config in RUNS] for _ in range(2))
    followed(packed, alone, 1e-10, steps=4)
    assert max(sizes) == 6


@pytest.mark.parametrize("targets", ["qkv", "all"])
def test_a_pack_of_four_launches_less_than_half_of_what_its_runs_do_alone(targets: str) -> None:
    config = RunConfig(adapter="lora", targets=targets, precision="bfloat16", dropout=0.0, lora_dropout=0.0)
    alone, together = ((launches.pack(config, runs, 4) - launches.pack(config, runs, 2)) / runs for runs in (1, 4))
    assert together < 0.5 * alone


def test_runs_whose_texts_need_much_padding_take_passes_of_their_own(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    base, data = toys.model(), toys.data()
    scripts = [Script(LORA.but(seed=seed, batch_size=1), base, data) for seed in range(6)]
    lengths = sorted(script.waits.tokens for script in scripts)
    assert lengths[-1] > 1.2 * lengths[0]
    monkeypatch.setattr(packing, "PADDING_ON_CPU", 1.05)
    Packer().take([script.waits for script in scripts])
    assert 1 < max(sizes) < 6


def test_runs_that_memory_has_no_room_for_are_taken_in_smaller_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    base, data, packer = toys.model(), toys.data(), Packer()
    configs = [config.but(accumulation=3, batch_size=6) for config in ALIKE]
    alone, packed = ([Script(config, base, data) for config in configs] for _ in range(2))
    whole, sizes = packing._losses, []

    def short_of_memory(steps: Sequence[Step], *rest: Any) -> list[Tensor]:
        losses = whole(steps, *rest)
        sizes.append(len(steps))
        if len(sizes) == 2:  # when the gradients of the first part of each batch are there
            raise torch.OutOfMemoryError
        return losses

    monkeypatch.setattr(packing, "_losses", short_of_memory)
    for _ in range(2):
        for script, done in zip(packed, packer.take([script.waits for script in packed]), strict=True):
            script.took(done)
    assert sizes[:2] == [4, 4]
    assert max(sizes[2:]) == 2
    for one, other in zip(alone, packed, strict=True):
        one.take(2)
        assert other.losses == pytest.approx(one.losses, rel=1e-5)


def test_a_pass_on_a_cpu_takes_no_more_runs_than_are_of_use(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    base, data = toys.model(), toys.data()
    scripts = [Script(LORA.but(seed=seed), base, data) for seed in range(5)]
    steps = [script.waits for script in scripts]
    monkeypatch.setattr(packing, "TOKENS", min(step.tokens for step in steps) + 1)
    losses = [done.loss for done in Packer().take(steps) if isinstance(done, StepResult)]
    assert sizes == [2, 2], "and the last one alone"
    expected = [Script(LORA.but(seed=seed), base, data).waits.take() for seed in range(5)]
    assert losses == pytest.approx([done.loss for done in expected if isinstance(done, StepResult)], rel=1e-5)


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, after: bool = False) -> None:
    whole, calls = getattr(owner, name), itertools.count(1)

    def failing(*arguments: Any, **more: Any) -> Any:
        number = next(calls)
        if number == 2 and not after:
            raise error
        found = whole(*arguments, **more)
        if number == 2:
            raise error
        return found

    monkeypatch.setattr(owner, name, failing)


PASSING = [
    (Run, "collate", OSError("a file of the cache is gone")),
    (JointTrunk, "run", RuntimeError("an illegal instruction")),
    (JointLoRA, "adapt", torch.OutOfMemoryError("no memory")),
    (packing, "_losses", RuntimeError("DefaultCPUAllocator: not enough memory")),
    (TASKS["sonnet"], "training_loss", ValueError("a bug")),
    (Run, "apply_update", torch.OutOfMemoryError("no memory")),
    (torch.nn.utils, "clip_grad_norm_", RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")),
    (ScaledAdamW, "step", MemoryError()),
]


@pytest.mark.parametrize(("owner", "name", "error"), PASSING, ids=[f"{name}, {error}" for _, name, error in PASSING])
def test_an_error_that_passes_costs_no_run_a_step_and_no_step_is_taken_twice(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception
) -> None:
    base, data, packer = toys.model(), toys.data(), Packer()
    configs = [config.but(accumulation=2, batch_size=6, clip_norm=0.5) for config in ALIKE]
    alone, packed = ([Script(config, base, data) for config in configs] for _ in range(2))
    for script in alone:
        script.take(3)
    fails_once(monkeypatch, owner, name, error)
    for _ in range(3):
        for script, answer in zip(packed, packer.take([script.waits for script in packed]), strict=True):
            script.took(answer)
    for one, other in zip(alone, packed, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-5)


@pytest.mark.parametrize(("owner", "name", "error", "after"), [
    (Run, "apply_update", RuntimeError("a bug"), False),
    (Run, "apply_update", OSError("an input or output error"), True),
    (ScaledAdamW, "step", torch.OutOfMemoryError("a part of the weights is changed"), True),
])  # fmt: skip
def test_an_update_that_fails_for_good_ends_its_own_run_alone(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, after: bool
) -> None:
    base, data, packer = toys.model(), toys.data(), Packer()
    alone, packed = ([Script(config, base, data) for config in ALIKE] for _ in range(2))
    for script in alone:
        script.take(2)
    fails_once(monkeypatch, owner, name, error, after=after)
    answers = packer.take([script.waits for script in packed])
    assert [answer is error for answer in answers] == [False, True, False, False]
    going = [place for place in range(4) if place != 1]
    for place in going:
        packed[place].took(answers[place])
    for place, answer in zip(going, packer.take([packed[place].waits for place in going]), strict=True):
        packed[place].took(answer)
        assert packed[place].losses == pytest.approx(alone[place].losses, rel=1e-5)


def test_a_run_that_diverges_takes_nothing_from_the_others() -> None:
    base, data, packer = toys.model(), toys.data(), Packer()
    one, other = Script(LORA, base, data), Script(LORA.but(lr=1e30, seed=2), base, data)
    alone = Script(LORA, base, data)
    alone.take(3)
    broken = None
    while broken is None:
        done, result = packer.take([one.waits, other.waits])
        one.took(done)
        try:
            other.took(result)
        except DivergedError as error:
            broken = str(error)
    assert broken.startswith("The training loss is nan at step 2")
    one.take(3 - len(one.losses))
    assert one.losses == pytest.approx(alone.losses, rel=1e-5)


def test_the_base_is_as_it_was() -> None:
    base, data, packer = toys.model(), toys.data(), Packer()
    before = digest(base)
    scripts = [Script(config, base, data) for config in RUNS]
    for _ in range(2):
        for script, done in zip(scripts, packer.take([script.waits for script in scripts]), strict=True):
            script.took(done)
    for adapter in ("full", "freeze", "last-linear", "lora"):
        list(train(toys.RUN.but(adapter=adapter, epochs=1, task="sst"), base, data))
    assert digest(base) == before
