"""Workers share an evaluation: each takes a part, and all get the whole."""

import pytest
import torch.distributed as dist

from gpt2core.workers import Workers, collected, share, sharing


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_what_was_shared_is_collected_in_order(count: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [str(number) for number in range(count)]
    shares = []
    for rank in range(size):
        with sharing(Workers(rank, size)):
            shares.append(share(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1

    def gather(parts: list[object], own: object) -> None:
        parts[:] = shares

    monkeypatch.setattr(dist, "all_gather_object", gather)
    for rank in range(size):
        with sharing(Workers(rank, size)):
            assert collected(shares[rank]) == items
    assert share(items) == items, "outside, a process does all"
