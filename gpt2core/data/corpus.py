"""A corpus: validated rows in splits, the digest of what they were made from, and a count of what was rejected."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from gpt2core.data.origin import DataOrigin
from gpt2core.errors import DataError

NO_LABEL = -1  # of a text that has no class, or whose class is not known

#: How files begin that are no text, or text in another encoding.
OTHER_KINDS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive",
}
WORD = re.compile(r"\w+")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One text, or a pair of texts, with the name it has in its source and its class where there are classes."""

    id: str
    text: str
    second: str = ""
    label: int = NO_LABEL


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Rows by split. `origin` says where they come from; `rejected` counts reasons; `facts` are worth a record, of which a
    trial shows its `note`, and `notes` are what a person should know of the rows."""

    name: str
    origin: DataOrigin
    splits: dict[str, list[Row]]
    rejected: Counter[str] = field(default_factory=Counter)
    facts: dict[str, str | int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = {split: len(rows) for split, rows in self.splits.items()}
        own = self.origin.model_copy(update={"corpus": self.name, "sizes": sizes})
        object.__setattr__(self, "origin", own)

    @property
    def digest(self) -> str:
        """SHA-256 of all rows, independent of the machine and of where the files lie."""
        sha = hashlib.sha256(self.name.encode())
        for split in sorted(self.splits):
            for row in self.splits[split]:
                sha.update(f"\0{split}\0{row.id}\0{row.text}".encode())
                if row.second or row.label != NO_LABEL:
                    sha.update(f"\0{row.second}\0{row.label}".encode())
        return sha.hexdigest()

    def describe(self) -> str:
        """One line: sizes, origin, digest, rejected rows with their reasons, notes, and texts that several splits have."""
        sizes = ", ".join(f"{count} {split}" for split, count in self.origin.sizes.items())
        lost = [f"{count} rejected: {reason}" for reason, count in sorted(self.rejected.items())]
        parts = [f"{self.name}: {sizes}", self.origin.source, f"digest {self.digest[:12]}"]
        return "; ".join([*parts, *lost, *self.notes, shared_texts(self.splits)])


def shared_texts(splits: Mapping[str, Sequence[Row]]) -> str:
    """One line: how many texts of a split are in an earlier one too, by their words, and how many of these to the letter."""
    overlaps = []
    for earlier, later in combinations(splits, 2):
        alike, same = (_in_both(splits[earlier], splits[later], key) for key in (_words, _letters))
        if alike:
            overlaps.append(
                f"{alike} of {len(splits[later])} {later} texts are in {earlier} too, {same} of them to the letter"
            )
    return "; ".join(overlaps) or "no two splits have a text in common"


def _in_both(earlier: Sequence[Row], later: Sequence[Row], key: Callable[[Row], tuple[str, ...]]) -> int:
    """How many rows of the later split an earlier row is equal to, by a key."""
    wanted = [key(row) for row in later]
    known = set(wanted)
    both = {one for one in map(key, earlier) if one in known}
    return sum(one in both for one in wanted)


def _letters(row: Row) -> tuple[str, ...]:
    return row.text, row.second


def _words(row: Row) -> tuple[str, ...]:
    """The words of a text without case and punctuation, or of both texts of a pair in either order."""
    first, second = _plain(row.text), _plain(row.second)
    return (first, second) if first <= second else (second, first)


def _plain(text: str) -> str:
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join(WORD.findall(folded)) or text


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of UTF-8 text without their ends; raise DataError with path, line and rule.

    A line ends with LF, CR, or any run of CR before LF: CR CR LF is what is left of a text that was converted twice.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for raw in file:
                body = raw.rstrip(b"\r\n") if raw.endswith(b"\n") else raw.removesuffix(b"\r")
                for line in body.split(b"\r"):
                    number += 1
                    yield _text(line if number > 1 else _without_mark(path, line), path, number)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _without_mark(path: Path, line: bytes) -> bytes:
    """The first line of a file without UTF-8's mark; raise DataError where it begins as another kind of file does."""
    for start, kind in OTHER_KINDS.items():
        if line.startswith(start):
            raise DataError(f"{path}, line 1: must be UTF-8 text, but is {kind}")
    return line.removeprefix(BOM)


def _text(line: bytes, path: Path, number: int) -> str:
    if b"\0" in line:
        raise DataError(f"{path}, line {number}: must be UTF-8 text, but holds a NUL, as UTF-16 and binary files do")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {number}: must be UTF-8 text") from None


def lines_in(text: str) -> list[str]:
    """The lines of a text, whose ends are those of `read_lines`."""
    *ended, last = text.split("\n")
    return [line for piece in (*(piece.rstrip("\r") for piece in ended), last) for line in piece.split("\r")]


def read_text(path: Path) -> str:
    """Read UTF-8 text with any line ends; raise DataError as `read_lines`."""
    return "\n".join(read_lines(path))


def no_rows_lost(rows: Sequence[Row], path: Path, rule: str) -> Sequence[Row]:
    """Return `rows`, or raise DataError where a file gave none at all."""
    if not rows:
        raise DataError(f"{path}, line 1: {rule}")
    return rows


def unique(rows: Iterable[Row], rejected: Counter[str]) -> list[Row]:
    """Return the rows that have a new id and a text that can be written; count the others by reason."""
    kept: dict[str, Row] = {}
    for row in rows:
        if not row.text.strip():
            rejected["empty text"] += 1
        elif not _can_be_written(row.text + row.second):
            rejected["half of a surrogate pair, which is no character"] += 1
        elif row.id in kept:
            rejected["id seen before"] += 1
        else:
            kept[row.id] = row
    return list(kept.values())


def _can_be_written(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
