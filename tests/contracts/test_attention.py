"""The contract of attention kernels, run for each entry of ATTENTION."""

from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings, strategies
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt2core.attention import ATTENTION, Attend, kernels, schedule
from gpt2core.attention.auto import TOKENS_PER_OFFSET
from gpt2core.attention.pattern import offsets, pairs
from gpt2core.attention.reference import reference
from gpt2core.config import AttentionConfig, RunConfig
from gpt2core.errors import ConfigError, UnknownNameError
from gpt2core.identity import identity
from gpt2core.model import GPT2, KVCache
from gpt2core.testing import AttentionContract, toys
from gpt2core.testing.attention import SHAPE, Inputs, ScheduleContract, same_with_gradients, tensors, two_segments
from gpt2core.training import train
from tests.benchmarks.launches import operations

PATTERNED = {name for name, kernel in ATTENTION.items() if kernel.sparse}
PATTERNS = [(1, 0), (3, 0), (40, 0), (1, 1), (1, 4), (2, 5), (1, 64)]  # window, restart
CASES = [(name, *p) for name in sorted(ATTENTION) for p in (PATTERNS if name in PATTERNED else [(1, 0)])]

Case = tuple[str, int, int]


def kernel(case: Case) -> Attend:
    name, window, restart = case
    return kernels(AttentionConfig(schedule=name, window=window, restart=restart), 1)[0]


def expected(case: Case, inputs: Inputs, segments: Tensor | None) -> Tensor:
    """Return the reference with the pattern of a case, implemented differently from the kernels'."""
    name, window, restart = case
    return reference(*inputs, segments, seen(inputs[1].shape[-2], window, restart) if name in PATTERNED else None)


def seen(length: int, window: int, restart: int) -> set[int]:
    """Return the distances at which a token is attended to, by testing each."""

    def logarithmic(o: int) -> bool:
        return o < window or o & (o - 1) == 0  # 0 and the powers of two share no bit with the number before

    return {o for o in range(length) if logarithmic(o % restart if restart else o)}


class TestKernels(AttentionContract):
    cases: ClassVar = {
        f"{name}, {window}, {restart}": {"attention": name, "attention_window": window, "attention_restart": restart}
        for name, window, restart in CASES
    }

    def seen(self, config: AttentionConfig, length: int) -> Collection[int]:
        return seen(length, config.window, config.restart) if config.schedule in PATTERNED else range(length)


@settings(max_examples=60, deadline=None)
@given(strategies.data())
def test_it_equals_the_reference_for_random_shapes(data: strategies.DataObject) -> None:
    def number(low: int, high: int) -> int:
        return data.draw(strategies.integers(low, high))

    case = (data.draw(strategies.sampled_from(sorted(ATTENTION))), number(1, 12), number(0, 12))
    b, s = number(1, 3), number(1, 24)
    inputs = tensors((b, number(1, 3), number(1, s), s, number(1, 9)))
    row = strategies.lists(strategies.integers(0, 2), min_size=s, max_size=s)
    segments = data.draw(strategies.none() | strategies.lists(row, min_size=b, max_size=b).map(torch.tensor))
    same_with_gradients(kernel(case)(*inputs, segments, 0.0), expected(case, inputs, segments), inputs)


@pytest.mark.parametrize("queries", [1, 40, 100])
def test_blocks_of_queries_change_nothing(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small BLOCK, slices are computed in blocks as at lengths for which the reference is too slow."""
    module = import_module("gpt2core.attention.logsparse")  # `gpt2core.attention.logsparse` is the function
    monkeypatch.setattr(module, "BLOCK", 7 * 2 * 2 * 4)
    for name in ("auto", "logsparse"):
        case, shape = (name, 2, 0), (2, 2, queries, 100, 4)
        inputs, segments = tensors(shape), two_segments(shape)
        same_with_gradients(kernel(case)(*inputs, segments, 0.0), expected(case, inputs, segments), inputs)


@pytest.mark.parametrize("length", [2, 79, 80, 300])
def test_both_implementations_of_auto_are_equal(length: int) -> None:
    assert (length < TOKENS_PER_OFFSET * len(offsets(length))) == (length < 80)
    inputs = tensors((1, 2, length, length, 8))
    ours, theirs = (ATTENTION[name].attend(*inputs, None, 0.0) for name in ("auto", "logsparse"))
    same_with_gradients(ours, theirs, inputs)


# -- the pattern


@pytest.mark.parametrize("length", [1, 2, 3, 64, 100])
@pytest.mark.parametrize(("window", "restart"), PATTERNS)
def test_the_offsets_follow_their_definition(length: int, window: int, restart: int) -> None:
    pattern = offsets(length, window, restart)
    assert list(pattern) == sorted(seen(length, window, restart))
    assert pairs(length, pattern) == sum(o <= token for token in range(length) for o in pattern)


def test_a_token_attends_to_itself_and_to_powers_of_two_back() -> None:
    """Li et al. 2019: I(l) is l itself and l - 2^k for each 2^k <= l."""
    for token in range(1, 2000):
        mine = [token - o for o in offsets(2000) if o <= token]
        assert mine == [token] + [token - 2**k for k in range(11) if 2**k <= token]
        assert len(mine) == 1 + token.bit_length()
    assert [o for o in offsets(2000) if o <= 0] == [0]


def test_1024_tokens_have_10241_pairs() -> None:
    assert pairs(1024, offsets(1024)) == 10_241
    assert pairs(1024, range(1024)) == 524_800


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation creates."""

    numel = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *sizes])
        return made


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("name", sorted(PATTERNED))
def test_no_quadratic_tensor_is_created(name: str, segmented: bool, dropout: float) -> None:
    length, channels = 2048, 4
    shape = (2, 1, length, length, channels)
    inputs = tensors(shape)
    with Largest() as largest:
        out = ATTENTION[name].attend(*inputs, two_segments(shape) if segmented else None, dropout)
        torch.autograd.grad(out.sum(), inputs)
    assert 0 < largest.numel <= 2 * length * max(channels, len(offsets(length)))


def test_a_single_query_reads_only_its_own_keys() -> None:
    inputs = [tensor.detach() for tensor in tensors((1, 2, 1, 2048, 4))]
    with Largest() as largest:
        ATTENTION["logsparse"].attend(*inputs, None, 0.0)
    assert largest.numel <= 2 * len(offsets(2048)) * 4


# -- in the model


class TestSchedules(ScheduleContract):
    cases: ClassVar = {
        schedule: {"attention": schedule, "attention_window": 2, "attention_restart": 9}
        for schedule in ("dense,logsparse", "auto, dense", "logsparse,dense,dense,auto")
    }


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_with_a_schedule_learns(precision: str) -> None:
    config = toys.RUN.but(attention="dense,logsparse", attention_window=4, precision=precision, lr=3e-3)
    losses = [report.metrics["train_loss"] for report in train(config, toys.model(), toys.data())]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("spec", "n_layer"), [("dense", 3), ("dense,logsparse", 6), (" auto , dense,dense", 3)])
def test_a_schedule_is_repeated_over_the_blocks(spec: str, n_layer: int) -> None:
    names = [name.strip() for name in spec.split(",")]
    assert schedule(AttentionConfig(schedule=spec), n_layer) == (names * n_layer)[:n_layer]
    assert len(kernels(AttentionConfig(schedule=spec), n_layer)) == n_layer


def test_a_pattern_reaches_its_kernel() -> None:
    made = kernels(AttentionConfig(schedule="dense,logsparse", window=5, restart=9), 2)
    assert made[0] is ATTENTION["dense"].attend
    assert isinstance(made[1], partial)
    assert made[1].keywords == {"window": 5, "restart": 9}


@pytest.mark.parametrize("spec", ["dense,logsparse", "dense,dense,dense,dense,dense,dense", "auto,auto,auto,auto"])
def test_a_schedule_of_the_wrong_length_is_explained(spec: str) -> None:
    names = 1 + spec.count(",")
    rule = f"The value of `attention` is '{spec}', {names} names .* must divide the model's n_layer, 3"
    with pytest.raises(ConfigError, match=rule):
        GPT2(SHAPE.but(n_layer=3), attention=AttentionConfig(schedule=spec))


VALID = "valid: auto, dense, logsparse; a part of your own needs its package installed, or --import MODULE"


@pytest.mark.parametrize(("spec", "message"), [
    ("dense,logspars", "Unknown attention `logspars`: did you mean `logsparse`?"),
    ("", f"Unknown attention ``: {VALID}"),
    ("dense,", f"Unknown attention ``: {VALID}"),
])  # fmt: skip
def test_an_unknown_name_in_a_schedule_is_explained(spec: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as raised:
        kernels(AttentionConfig(schedule=spec), 2)
    assert str(raised.value) == message


@pytest.mark.parametrize(("key", "value"), [("attention_window", 0), ("attention_restart", -1)])
def test_a_pattern_out_of_range_is_explained(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"The value of `{key}` is {value}, but must be >="):
        RunConfig.of({key: value})


def test_the_pattern_is_part_of_the_identity_if_a_block_uses_it() -> None:
    keys = {"attention_window", "attention_restart"}
    assert keys.isdisjoint(identity(RunConfig(attention="dense", attention_window=4)))
    for spec in ("logsparse", "auto", "dense, logsparse"):
        run = RunConfig(attention=spec)
        assert keys <= identity(run).keys()
        assert identity(run) != identity(run.but(attention_window=4))
        assert run.but(attention_window=4).attention_config.window == 4
    assert {"auto", "logsparse"} <= PATTERNED < set(ATTENTION)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_devices_that_launch_each_operation_get_few_of_them_for_texts_of_usual_length(dropout: float) -> None:
    """The meta device computes nothing, but takes the operations that a GPU would."""
    q, k, v = torch.zeros(3, 2, 4, 170, 8, device="meta").unbind()
    counts = operations(lambda: kernel(("auto", 1, 0))(q, k, v, None, dropout))
    assert counts.total() < 40


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(ATTENTION))
@pytest.mark.parametrize("tokens", [1, 30])
def test_blocks_share_their_masks(name: str, tokens: int) -> None:
    def launched(n_layer: int) -> int:
        gpt2 = GPT2(toys.SHAPE.but(n_layer=n_layer), attention=AttentionConfig(schedule=name)).train(False)
        cache, ids = KVCache(gpt2, 2, 60), torch.ones(2, 30, dtype=torch.long)
        gpt2(ids, torch.tensor([[0, *[1] * 29], [1] * 30]), cache)
        counts = operations(lambda: gpt2(ids[:, :tokens], None, cache))
        return sum(counts[kind] for kind in ("eq", "ge", "arange", "zeros"))

    few, many = launched(2), launched(6)
    assert 0 < many <= few
