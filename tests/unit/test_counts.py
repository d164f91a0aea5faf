"""Counts survive a file unchanged, and no file content causes more than an error."""

import base64
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from hypothesis.extra import numpy as arrays

from gpt2core.errors import DataError
from gpt2core.metrics.counts import from_json, to_json

ARRAYS = strategies.one_of(
    *(
        arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
        for kind in (np.bool_, np.uint8, np.int64, np.uint64, np.float32, np.float64, ">f8", ">u4")
    )
)


@settings(max_examples=300, deadline=None)
@given(strategies.dictionaries(strategies.text(max_size=5), ARRAYS, max_size=3))
def test_counts_survive_a_file_unchanged(statistics: dict[str, np.ndarray]) -> None:
    again = from_json(json.loads(json.dumps(to_json(statistics))))
    assert again.keys() == statistics.keys()
    for name, counts in statistics.items():
        assert again[name].shape == counts.shape
        np.testing.assert_array_equal(again[name], counts.astype(again[name].dtype))
        if counts.dtype.kind == "f" or counts.dtype == np.int64:
            np.testing.assert_array_equal(again[name].astype(np.float64), counts.astype(np.float64))


@pytest.mark.parametrize(("numbers", "dtype"), [
    ([0, 1, 255], "uint8"), ([256.0], "uint16"), ([2**16], "uint32"), ([2**40], "uint64"), ([-1], "float64"),
    ([0.5], "float64"), ([np.nan], "float64"), ([np.inf], "float64"), ([2.0**60], "float64"), ([], "uint8"),
])  # fmt: skip
def test_integers_are_stored_in_the_smallest_type(numbers: list[float], dtype: str) -> None:
    array = np.array(numbers)
    packed = to_json({"a": array})
    assert packed["a"]["dtype"] == dtype
    np.testing.assert_array_equal(from_json(packed)["a"], array)


def test_answers_of_20_000_examples_are_a_few_kilobytes() -> None:
    cells = np.random.default_rng(0).choice(4, size=20_000, p=[0.5, 0.1, 0.1, 0.3])
    assert len(json.dumps(to_json({"confusion": np.eye(4, dtype=np.uint8)[None, cells]}))) < 20_000


def packed(**changes: Any) -> dict[str, Any]:
    return {"a": {"shape": [3], "dtype": "uint8", "data": coded(b"abc")} | changes}


def coded(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


@pytest.mark.parametrize("values", [
    None, [[1.0]], "a", {1: packed()["a"]}, {"a": None}, {"a": [1, 2]},
    {"a": {"shape": [3], "dtype": "uint8"}}, packed(more=1), packed(shape=3), packed(shape=[3.0]),
    packed(shape=[True]), packed(shape=["3"]), packed(shape=[-3]), packed(shape=[-1, -3]),
    packed(shape=[10**9]), packed(shape=[10**5, 10**5]), packed(shape=[0, 10**30]), packed(shape=[1] * 40),
    packed(shape=[2]), packed(shape=[4]), packed(dtype="object"), packed(dtype="O"), packed(dtype="float32"),
    packed(dtype=["uint8"]), packed(dtype="uint16"), packed(data=b"abc"), packed(data="not base64!"),
    packed(data="é"), packed(data=base64.b64encode(b"not zlib").decode()), packed(data=coded(b"abc")[:8]),
    packed(data=base64.b64encode(zlib.compress(b"abc")[:-2]).decode()),
    packed(data=base64.b64encode(zlib.compress(b"abc") + b"more").decode()), packed(data=coded(bytes(10**7))),
    packed(shape=[0]), packed(data="\n" * 5),
])  # fmt: skip
def test_invalid_content_is_an_error_of_one_line(values: object) -> None:
    with pytest.raises(DataError, match=r"^The \w*.*counts.* must ") as caught:
        from_json(values)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
