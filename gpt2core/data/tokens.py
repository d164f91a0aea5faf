"""Tokenised splits in Arrow files, written once per content and memory-mapped by all trials."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa

from gpt2core.arrow_cache import read_table, write_table
from gpt2core.data.corpus import NO_LABEL, Row
from gpt2core.files import cache_folder, locked, trim
from gpt2core.tokenizer import Tokenizer


class Example(NamedTuple):
    """One training example: the id and text of its row, its tokens, and its class if it has one.

    A language model is trained on the tokens after the first `given` ones.
    """

    id: str
    text: str
    input_ids: list[int]
    label: int = NO_LABEL
    given: int = 0


SAMPLE_SEED = 11711  # of the order of all samples; the seed of a run does not change what it learns from

Encode = Callable[[Sequence[Row], Tokenizer], Iterable[Example]]

ALL = 5 * 10**9  # bytes of all tokens that are kept; beyond, what was not used for longest goes
AT_ONCE = 4096  # texts that are encoded, or examples that are written, together

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("input_ids", pa.large_list(pa.int32())),
        ("label", pa.int32()),
        ("given", pa.int32()),
        ("whole", pa.int32()),  # tokens before the text was cut
    ]
)


class Activations(NamedTuple):
    """The output of a model's frozen blocks for examples: a row of C channels for each text, or for each of its tokens.

    Example i has the rows of `values` (R, C) from `starts[i]` on.
    """

    values: np.ndarray
    starts: np.ndarray
    of_texts: bool


class Strings(Sequence[str]):
    """The strings of an Arrow column or a list, in any order, created on access since few are ever needed."""

    def __init__(self, column: Sequence[str] | pa.Array, order: np.ndarray | None = None) -> None:
        self.column = column
        self.order = np.arange(len(column)) if order is None else order

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Strings": ...
    def __getitem__(self, place: int | slice) -> "str | Strings":
        if isinstance(place, slice):
            return Strings(self.column, self.order[place])
        return str(self.column[int(self.order[place])])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """One tokenised split. Example i has `lengths[i]` tokens from `values[starts[i]]` on and the class `labels[i]`; its first
    `given[i]` tokens are not trained on.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    given: np.ndarray
    truncated: int = 0  # examples whose text was cut
    activations: Activations | None = None  # of the frozen blocks

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.starts[index] : self.starts[index] + self.lengths[index]]

    @cached_property
    def digests(self) -> np.ndarray:
        """SHA-256 (N,) of each example's tokens, as bytes: equal for equal texts, whatever their labels."""
        found = [hashlib.sha256(self[number].astype("<i4").tobytes()).digest() for number in range(len(self))]
        return np.array(found, dtype=object)

    def sample(self, count: int | None) -> "Tokens":
        """Return `count` examples, or all for None, in a random order that is the same for all runs.

        So it is a sample however the file is sorted (SST's is nearly sorted by sentiment), and a smaller sample is the beginning
        of a larger one.
        """
        return self.take(np.random.default_rng(SAMPLE_SEED).permutation(len(self))[:count])

    def take(self, chosen: np.ndarray) -> "Tokens":
        """Return the examples of those numbers, in that order."""
        return replace(
            self,
            ids=Strings(self.ids, chosen),
            texts=Strings(self.texts, chosen),
            starts=self.starts[chosen],
            lengths=self.lengths[chosen],
            labels=self.labels[chosen],
            given=self.given[chosen],
            activations=None,
        )

    def with_activations(self, activations: Activations) -> "Tokens":
        """The same examples with the output of a model's frozen blocks for them."""
        return replace(self, activations=activations)


def tokenised(
    key: str, rows: Sequence[Row], tokenizer: Tokenizer, encode: Encode, *, limit: int | None = None
) -> Tokens:
    """Return the tokens of `rows`, from the cache if possible; texts of more than `limit` tokens are truncated.

    `key` names what decides the content beside tokenizer and limit: corpus digest, split and the encoding's name. The file is
    named by a hash of all that, so a changed source never meets an old file. A damaged file is written again. One process of a
    machine writes it; others that need it wait.
    """
    address = hashlib.sha256(f"{key}\0{tokenizer.digest}\0{limit}".encode()).hexdigest()
    path = cache_folder("tokens") / f"{address}.arrow"
    found = _read(path)
    if found is None:
        with locked(cache_folder("locks") / address):
            found = _read(path)
            if found is None:
                _write(path, encode(rows, tokenizer), limit)
                found = _read(path)
                trim(path.parent, ALL)  # who has a file mapped keeps it
    if found is None:
        raise OSError(f"{path}: cannot be read, though it has just been written")
    return found


def encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield the token numbers of each text, encoding some at a time, since a tokenizer takes 100 bytes and more per token."""
    texts = iter(texts)
    while part := list(islice(texts, AT_ONCE)):
        yield from tokenizer.encode(part)


def _write(path: Path, examples: Iterable[Example], limit: int | None) -> None:
    examples, batches = iter(examples), []
    while part := list(islice(examples, AT_ONCE)):
        batches.append(_batch(part, limit))
    write_table(path, pa.Table.from_batches(batches, schema=SCHEMA).combine_chunks())


def _batch(examples: Sequence[Example], limit: int | None) -> pa.RecordBatch:
    columns = (
        [example.id for example in examples],
        [example.text for example in examples],
        [example.input_ids[:limit] for example in examples],
        [example.label for example in examples],
        [example.given for example in examples],
        [len(example.input_ids) for example in examples],
    )
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _read(path: Path) -> Tokens | None:
    """Map a file into memory without copying its tokens or texts; None if it is damaged or missing."""
    table = read_table(path, SCHEMA)
    return None if table is None else _mapped({name: _whole(table[name]) for name in SCHEMA.names})


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one chunk, copied only if it has several."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _mapped(columns: dict[str, pa.Array]) -> Tokens:
    lists = columns["input_ids"]
    offsets = lists.offsets.to_numpy()
    lengths = np.diff(offsets)
    return Tokens(
        ids=Strings(columns["id"]),
        texts=Strings(columns["text"]),
        values=lists.values.to_numpy(),
        starts=offsets[:-1],
        lengths=lengths,
        labels=columns["label"].to_numpy(),
        given=columns["given"].to_numpy(),
        truncated=int((columns["whole"].to_numpy() > lengths).sum()),
    )
