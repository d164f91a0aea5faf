"""A corpus: validated rows in splits, with a digest of their content, their origin, and the rejected rows by reason."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from gpt2core.data.origin import DataOrigin
from gpt2core.distill.text import words
from gpt2core.errors import DataError

NO_LABEL = -1  # of a text without a class, or with an unknown one

#: The first bytes of files that are not UTF-8 text.
KINDS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive",
}
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile("[\ud800-\udfff]")  # cannot be encoded as UTF-8


@dataclass(frozen=True, kw_only=True)
class Row:
    """A text or a pair of texts, with its id in the source and its class, if any."""

    id: str
    text: str
    second: str = ""
    label: int = NO_LABEL


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Rows by split, and what is known about them."""

    name: str
    origin: DataOrigin
    splits: dict[str, list[Row]]
    rejected: Counter[str] = field(default_factory=Counter)  # rows by reason
    facts: dict[str, str | int] = field(default_factory=dict)  # recorded with each trial, which shows the fact `note`
    notes: tuple[str, ...] = ()  # remarks for `describe`
    #: Rows at the end of `train` that come on top of `train_examples`; the best first, if they have scores.
    added: int = 0
    most_examples: int | None = None  # the greatest `train_examples`, if some of the first rows are added too

    def __post_init__(self) -> None:
        sizes = {split: len(rows) for split, rows in self.splits.items()}
        own = self.origin.model_copy(update={"corpus": self.name, "sizes": sizes})
        object.__setattr__(self, "origin", own)

    @property
    def digest(self) -> str:
        """SHA-256 of all rows, independent of the machine and of the files' location."""
        sha = hashlib.sha256(self.name.encode())
        for split in sorted(self.splits):
            for row in self.splits[split]:
                sha.update(f"\0{split}\0{row.id}\0{row.text}".encode())
                if row.second or row.label != NO_LABEL:
                    sha.update(f"\0{row.second}\0{row.label}".encode())
        return sha.hexdigest()

    def describe(self) -> str:
        """Return one line: sizes, origin, digest, rejected rows by reason, notes, and texts that occur in several splits."""
        sizes = ", ".join(f"{count} {split}" for split, count in self.origin.sizes.items())
        parts = [f"{self.name}: {sizes}", self.origin.source, f"digest {self.digest[:12]}"]
        return "; ".join([*parts, *by_reason(self.rejected), *self.notes, shared_texts(self.splits)])


def by_reason(rejected: Counter[str]) -> list[str]:
    """Return the number of rejected rows for each reason, in words."""
    return [f"{count} rejected: {reason}" for reason, count in sorted(rejected.items())]


def corpus_of(name: str, origin: DataOrigin, splits: Mapping[str, Iterable[Row]]) -> Corpus:
    """Return a corpus of the `unique` rows of each split."""
    rejected: Counter[str] = Counter()
    kept = {split: unique(rows, rejected) for split, rows in splits.items()}
    return Corpus(name=name, origin=origin, splits=kept, rejected=rejected)


def shared_texts(splits: Mapping[str, Sequence[Row]]) -> str:
    """Return one line: how many texts of a split also occur in an earlier one, up to case and punctuation, and exactly."""
    overlaps = []
    for earlier, later in combinations(splits, 2):
        shared = []
        for key in (_words, lambda row: (row.text, row.second)):
            wanted = Counter(map(key, splits[later]))
            shared.append(sum(wanted.pop(known, 0) for known in map(key, splits[earlier])))
        alike, same = shared
        if alike:
            overlaps.append(f"{alike} of {len(splits[later])} {later} texts are also in {earlier}, {same} exactly")
    return "; ".join(overlaps) or "no two splits have a text in common"


def _words(row: Row) -> tuple[str, ...]:
    """Return the words of the row's texts without case and punctuation, the two of a pair in a fixed order."""
    first, second = (" ".join(words(text)) or text for text in (row.text, row.second))
    return (first, second) if first <= second else (second, first)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file without their ends; raise DataError naming path, line and rule.

    A line ends with LF, with CR, or with any run of CR before LF: CR CR LF results from converting line ends twice.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for raw in file:
                body = raw.rstrip(b"\r\n") if raw.endswith(b"\n") else raw.removesuffix(b"\r")
                for line in body.split(b"\r"):
                    number += 1
                    yield _decoded(line, path, number)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _decoded(line: bytes, path: Path, number: int) -> str:
    """Return a line as text, the first one without a byte order mark; raise DataError if it is not UTF-8."""
    if number == 1:
        for start, kind in KINDS.items():
            if line.startswith(start):
                raise DataError(f"{path}, line 1: must be UTF-8 text, but is {kind}")
        line = line.removeprefix(BOM)
    if b"\0" in line:
        raise DataError(f"{path}, line {number}: must be UTF-8 text, but has a NUL byte, as UTF-16 and binary files do")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {number}: must be UTF-8 text") from None


def lines_in(text: str) -> list[str]:
    """Return the lines of a text, with the line ends of `read_lines`."""
    *ended, last = text.split("\n")
    return [line for piece in (*(piece.rstrip("\r") for piece in ended), last) for line in piece.split("\r")]


def read_text(path: Path) -> str:
    """Return a UTF-8 text file with its line ends as LF; raise DataError as `read_lines` does."""
    return "\n".join(read_lines(path))


def unique(rows: Iterable[Row], rejected: Counter[str]) -> list[Row]:
    """Return the rows with a new id and a text that can be stored; count the others in `rejected` by reason."""
    kept: dict[str, Row] = {}
    for row in rows:
        if not row.text.strip():
            rejected["empty text"] += 1
        elif SURROGATE.search(row.text + row.second):
            rejected["half of a surrogate pair"] += 1
        elif row.id in kept:
            rejected["duplicate id"] += 1
        else:
            kept[row.id] = row
    return list(kept.values())
