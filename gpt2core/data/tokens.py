"""Tokenised splits in Arrow files, which are written once per content and memory-mapped by all trials."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa

from gpt2core.arrow_cache import read_table, write_table
from gpt2core.data.corpus import NO_LABEL, Row
from gpt2core.files import cache_folder, locked, trim
from gpt2core.tokenizer import Tokenizer


class Example(NamedTuple):
    """An example: the id and text of its row, its tokens and its class, if any."""

    id: str
    text: str
    input_ids: list[int]
    label: int = NO_LABEL
    given: int = 0  # the first tokens, on which language models are not trained


SAMPLE_SEED = 11711  # of the order of samples; the seed of a run does not change its examples

Encode = Callable[[Sequence[Row], Tokenizer], Iterable[Example]]

ALL = 5 * 10**9  # bytes of the cache; beyond that, the least recently used files are deleted
AT_ONCE = 4096  # texts to encode, or examples to write, at once

INT = pa.int32()
#: The fields of Example, and the number of tokens before truncation.
SCHEMA = pa.schema(
    {"id": pa.string(), "text": pa.string(), "input_ids": pa.large_list(INT), "label": INT, "given": INT, "whole": INT}
)


class Activations(NamedTuple):
    """Outputs of a model's frozen blocks."""

    values: np.ndarray  # (R, C): a row per text or per token
    starts: np.ndarray  # the first row of each example
    of_texts: bool


class Strings(Sequence[str]):
    """The strings of an Arrow column or a list in any order, created on access because few of them are needed."""

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


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A tokenised split. Example i has `lengths[i]` tokens from `values[starts[i]]` on."""

    ids: Sequence[str]
    texts: Sequence[str]
    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray  # classes
    given: np.ndarray  # numbers of first tokens that are not trained on
    truncated: int = 0  # number of examples that were cut
    activations: Activations | None = None  # of the frozen blocks

    @classmethod
    def of(cls, examples: Iterable[Example], limit: int | None = None) -> "Tokens":
        """Return examples in memory; those of more than `limit` tokens are truncated."""
        ids, texts, inputs, labels, given = zip(*examples, strict=True)
        lengths = np.array([min(len(tokens), limit or len(tokens)) for tokens in inputs])
        return cls(
            ids=ids,
            texts=texts,
            values=np.concatenate([tokens[:length] for tokens, length in zip(inputs, lengths, strict=True)]).astype(
                "i4"
            ),
            starts=lengths.cumsum() - lengths,
            lengths=lengths,
            labels=np.array(labels),
            given=np.array(given),
            truncated=sum(len(tokens) > length for tokens, length in zip(inputs, lengths, strict=True)),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.starts[index] : self.starts[index] + self.lengths[index]]

    @cached_property
    def digests(self) -> np.ndarray:
        """SHA-256 (N,) of each example's tokens, as bytes, independent of labels."""
        digests = [hashlib.sha256(self[number].astype("<i4").tobytes()).digest() for number in range(len(self))]
        return np.array(digests, dtype=object)

    def sample(self, count: int | None) -> "Tokens":
        """Return `count` examples, or all for None, in a random order that is the same for all runs.

        The order matters as SST is nearly sorted by sentiment. A smaller sample is the beginning of a larger one.
        """
        return self.take(sample_order(len(self))[:count])

    def at_most(self, count: int | None) -> "Tokens":
        """Return a sample of `count` examples, or for None or no more examples all, in their order."""
        return self if count is None or count >= len(self) else self.sample(count)

    def take(self, chosen: np.ndarray) -> "Tokens":
        """Return the examples with the indices `chosen`, in that order."""
        ids, texts = Strings(self.ids, chosen), Strings(self.texts, chosen)
        columns = {name: getattr(self, name)[chosen] for name in ("starts", "lengths", "labels", "given")}
        return replace(self, ids=ids, texts=texts, **columns, activations=None)


def sample_order(count: int) -> np.ndarray:
    """Return the random order (count,) of examples whose beginnings are samples."""
    return np.random.default_rng(SAMPLE_SEED).permutation(count)


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Return the examples of all parts, in order, without activations."""
    sizes = [len(part.values) for part in parts]
    shifts = np.cumsum([0, *sizes[:-1]])
    return Tokens(
        ids=tuple(chain.from_iterable(part.ids for part in parts)),
        texts=tuple(chain.from_iterable(part.texts for part in parts)),
        values=np.concatenate([part.values for part in parts]),
        starts=np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=True)]),
        lengths=np.concatenate([part.lengths for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        given=np.concatenate([part.given for part in parts]),
        truncated=sum(part.truncated for part in parts),
    )


def tokenised(key: str, rows: Sequence[Row], tokenizer: Tokenizer, encode: Encode, limit: int | None = None) -> Tokens:
    """Return the tokens of `rows`, from the cache if possible; examples of more than `limit` tokens are truncated.

    `key` must determine the content together with tokenizer and limit: corpus digest, split and encoding. The file name is a
    hash of all of these, so a changed source never gets an old file. Damaged files are rewritten. One process of a machine
    writes a file while others wait for it.
    """
    name = hashlib.sha256(f"{key}\0{tokenizer.digest}\0{limit}".encode()).hexdigest()
    path = cache_folder("tokens") / f"{name}.arrow"
    tokens = _read(path)
    if tokens is None:
        with locked(cache_folder("locks") / name):
            tokens = _read(path)
            if tokens is None:
                _write(path, encode(rows, tokenizer), limit)
                tokens = _read(path)
                trim(path.parent, ALL)  # deleted files stay readable where they are mapped
    if tokens is None:
        raise OSError(f"{path}: cannot be read, although it has just been written")
    return tokens


def encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield the token ids of each text, encoded in batches because a tokenizer needs at least 100 bytes per token."""
    texts = iter(texts)
    while part := list(islice(texts, AT_ONCE)):
        yield from tokenizer.encode(part)


def truncated(example: Example, limit: int | None) -> Example:
    """Return an example of at most `limit` tokens: first the beginning of its given tokens is cut, then the end of the others."""
    excess = 0 if limit is None else max(0, len(example.input_ids) - limit)
    start = min(excess, max(0, example.given - 1))
    return example._replace(input_ids=example.input_ids[start:][:limit], given=example.given - start)


def _write(path: Path, examples: Iterable[Example], limit: int | None) -> None:
    examples, batches = iter(examples), []
    while part := list(islice(examples, AT_ONCE)):
        cut = [truncated(example, limit) for example in part]
        columns = [*zip(*cut, strict=True), [len(example.input_ids) for example in part]]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
    write_table(path, pa.Table.from_batches(batches, schema=SCHEMA).combine_chunks())


def _read(path: Path) -> Tokens | None:
    """Map a file into memory without copying its tokens or texts; return None if it is damaged or missing."""
    table = read_table(path, SCHEMA)
    if table is None:
        return None
    # An empty table has no chunk; only combining several chunks copies them.
    columns = [column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() for column in table.columns]
    ids, texts, input_ids, labels, given, whole = columns
    offsets = input_ids.offsets.to_numpy()
    lengths = np.diff(offsets)
    return Tokens(
        ids=Strings(ids),
        texts=Strings(texts),
        values=input_ids.values.to_numpy(),
        starts=offsets[:-1],
        lengths=lengths,
        labels=labels.to_numpy(),
        given=given.to_numpy(),
        truncated=int((whole.to_numpy() > lengths).sum()),
    )
