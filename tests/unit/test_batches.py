"""Batches have the numbers of their examples, and reach a device in few transfers."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt2core.data.batches import Batch, collate
from gpt2core.data.tokens import Activations, Tokens

CPU = torch.device("cpu")


def tokens(*, activations: bool = False) -> Tokens:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, 20)
    starts = lengths.cumsum() - lengths
    total = int(lengths.sum())
    names = [str(number) for number in range(20)]
    values = Activations(random.random((total, 3)).astype(np.float32), starts, of_texts=False) if activations else None
    return Tokens(
        ids=names,
        texts=names,
        values=random.integers(0, 100, total, dtype=np.int32),
        starts=starts,
        lengths=lengths,
        labels=random.integers(-1, 5, 20, dtype=np.int32),
        given=random.integers(0, 3, 20, dtype=np.int32),
        activations=values,
    )


def one_by_one(examples: Tokens, index: np.ndarray) -> Batch:
    """The slow, obvious way: every number is put in its place."""
    longest = max(len(examples[i]) for i in index)
    ids = torch.zeros(len(index), longest, dtype=torch.long)
    blocks = examples.activations
    states = None if blocks is None else torch.zeros(len(index), longest, blocks.values.shape[1])
    predicted = []
    for row, i in enumerate(index):
        for place, token in enumerate(examples[i]):
            ids[row, place] = int(token)
            if place >= max(1, examples.given[i]):
                predicted.append(row * longest + place - 1)
            if states is not None and blocks is not None:
                states[row, place] = torch.from_numpy(blocks.values[blocks.starts[i] + place])
    columns = (examples.lengths, examples.labels, examples.given)
    numbers = (torch.tensor([int(column[i]) for i in index]) for column in columns)
    return Batch(ids, *numbers, torch.tensor(predicted), states)


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("index", [[0], [3, 3, 1], list(range(20)), [19, 0, 7, 5]], ids=str)
def test_a_batch_has_the_numbers_of_its_examples(index: list[int], activations: bool) -> None:
    examples = tokens(activations=activations)
    for column, expected in zip(
        collate(examples, np.array(index), CPU), one_by_one(examples, np.array(index)), strict=True
    ):
        if expected is None:
            assert column is None
        else:
            torch.testing.assert_close(column, expected, rtol=0, atol=0)


@contextmanager
def transfers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Record for each tensor that goes to a GPU whether the host waits for it; it stays where it is, since there is none."""
    waits: list[bool] = []
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    def to(tensor: Tensor, device: torch.device, *, non_blocking: bool = False) -> Tensor:
        assert device.type == "cuda"
        waits.append(not (non_blocking and any(tensor is other for other in pinned)))
        return tensor

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "pin_memory", pin)
        patch.setattr(Tensor, "to", to)
        yield waits


def test_the_host_does_not_wait_for_a_gpu_to_read_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for activations, count in ((False, 1), (True, 2)):
        with transfers(monkeypatch) as waits:
            collate(tokens(activations=activations), np.arange(8), torch.device("cuda"))
        assert waits == [False] * count
