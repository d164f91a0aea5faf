"""Counts of an evaluation as JSON: shape, dtype and zlib-compressed base64 data of each array, by name."""

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt2core.errors import DataError, shown

UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
DTYPES = (*UNSIGNED, "float64")
LARGEST = 10**8  # the most numbers in an array
AXES = 8  # the most axes of an array


def to_json(statistics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return values for `from_json`: integers >= 0 in the smallest unsigned type that holds them, other numbers as float64."""
    return {name: _packed(array) for name, array in statistics.items()}


def from_json(values: object) -> dict[str, np.ndarray]:
    """Return the arrays by name, with the dtype as stored; raise DataError for anything that `to_json` does not write.

    Integers are unsigned: sum them or convert them to float64 before subtracting.
    """
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise DataError(f"The counts are {shown(values)}, but must be a mapping of names to arrays")
    return {name: _unpacked(shown(name), value) for name, value in values.items()}


def _packed(array: np.ndarray) -> dict[str, Any]:
    array = np.asarray(array)
    small = array.astype(_smallest(array))
    data = zlib.compress(small.astype(small.dtype.newbyteorder("<")).tobytes())
    return {"shape": list(small.shape), "dtype": small.dtype.name, "data": base64.b64encode(data).decode()}


def _smallest(array: np.ndarray) -> str:
    """Return the first of DTYPES that holds all numbers exactly."""
    if array.dtype.kind == "f":
        whole = bool((np.isfinite(array) & (array == np.floor(array)) & (array < 2.0**53)).all())
    else:
        whole = array.dtype.kind in "bui"
    if not whole or (array < 0).any():
        return "float64"
    most = int(array.max(initial=0))
    return next(name for name in UNSIGNED if most <= np.iinfo(name).max)


def _unpacked(name: str, value: object) -> np.ndarray:
    match value:
        case {"shape": list(shape), "dtype": str(dtype), "data": str(data), **rest} if not rest:
            pass
        case _:
            raise DataError(f"The counts {name} are {shown(value)}, but must have only `shape`, `dtype` and `data`")
    if dtype not in DTYPES:
        raise DataError(f"The dtype of the counts {name} is {shown(dtype)}, but must be one of {', '.join(DTYPES)}")
    if len(shape) > AXES or not all(type(size) is int and 0 <= size <= LARGEST for size in shape):
        raise DataError(f"The shape of the counts {name} is {shown(shape)}, but must be at most {AXES} integers >= 0")
    if math.prod(shape) > LARGEST:
        raise DataError(f"The shape of the counts {name} is {shown(shape)}, but must hold at most {LARGEST:,} numbers")
    kind = np.dtype(dtype)
    raw = _inflated(name, data, math.prod(shape) * kind.itemsize)
    return np.frombuffer(raw, dtype=kind.newbyteorder("<")).astype(kind).reshape(shape)


def _inflated(name: str, data: str, size: int) -> bytes:
    """Return the decompressed bytes of `data`, exactly `size`; never decompress more than one byte beyond that."""
    packer = zlib.decompressobj()
    try:
        raw = packer.decompress(base64.b64decode(data, validate=True), size + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise DataError(f"The data of the counts {name} must be zlib data in base64 ({error})") from None
    if len(raw) != size or not packer.eof or packer.unused_data:
        raise DataError(f"The data of the counts {name} must be {size:,} bytes, as given by shape and dtype")
    return raw
