"""Tokenised splits in Arrow files: made once per content, memory-mapped by every trial that needs them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from gpt2core.data.corpus import Row
from gpt2core.files import atomic_path, cache_folder
from gpt2core.tokenizer import Tokenizer

#: Rows and a tokenizer -> the name, the text and the token numbers of each training example.
Encode = Callable[[Sequence[Row], Tokenizer], tuple[list[str], list[str], list[list[int]]]]

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("input_ids", pa.large_list(pa.int32()))])


@dataclass(frozen=True)
class Tokens:
    """One tokenised split. Example i has the tokens `values[offsets[i]:offsets[i + 1]]`."""

    ids: list[str]
    texts: list[str]
    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def first(self, count: int | None) -> "Tokens":
        """Return the first `count` examples, or all for None."""
        if count is None or count >= len(self):
            return self
        return Tokens(self.ids[:count], self.texts[:count], self.values, self.offsets[: count + 1])

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each example."""
        return np.diff(self.offsets)


def tokenised(key: str, rows: Sequence[Row], tokenizer: Tokenizer, encode: Encode) -> Tokens:
    """Return the tokens of `rows`, from the cache where they are.

    `key` says what decides the content beside the tokenizer: corpus digest, split and the encoding's name. The file is
    named by the hash of all of it, so a changed source never meets an old file. A damaged file is made again.
    """
    address = hashlib.sha256(f"{key}\0{tokenizer.digest}".encode()).hexdigest()
    path = cache_folder() / "tokens" / f"{address}.arrow"
    try:
        return _read(path)
    except (OSError, pa.ArrowInvalid):
        _write(path, *encode(rows, tokenizer))
        return _read(path)


def _write(path: Path, ids: list[str], texts: list[str], input_ids: list[list[int]]) -> None:
    table = pa.Table.from_arrays(
        [pa.array(c, f.type) for c, f in zip((ids, texts, input_ids), SCHEMA, strict=True)], schema=SCHEMA
    )
    with atomic_path(path) as part, pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table.combine_chunks())


def _read(path: Path) -> Tokens:
    with pa.memory_map(str(path)) as source:
        batch = pa.ipc.open_file(source).read_all().combine_chunks()
    lists = batch["input_ids"].combine_chunks()  # one array, also where a split has no rows and so no chunk
    return Tokens(
        ids=batch["id"].to_pylist(),
        texts=batch["text"].to_pylist(),
        values=lists.values.to_numpy(),
        offsets=lists.offsets.to_numpy(),
    )
