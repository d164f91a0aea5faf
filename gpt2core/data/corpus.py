"""A corpus: validated rows in splits, the digest of what they were made from, and a count of what was rejected."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpt2core.errors import DataError

NO_LABEL = -1  # of a text that has no class, or whose class is not known


@dataclass(frozen=True, kw_only=True)
class Row:
    """One text, or a pair of texts, with the name it has in its source and its class where there are classes."""

    id: str
    text: str
    second: str = ""
    label: int = NO_LABEL


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Rows by split. `origin` says in plain words where they come from; `rejected` counts reasons; `facts` are worth a record."""

    name: str
    origin: str
    splits: dict[str, list[Row]]
    rejected: Counter[str] = field(default_factory=Counter)
    facts: dict[str, str | int] = field(default_factory=dict)

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
        """One line: sizes, origin, digest, rejected rows with their reasons."""
        sizes = ", ".join(f"{len(rows)} {split}" for split, rows in self.splits.items())
        lost = "; ".join(f"{count} rejected: {reason}" for reason, count in sorted(self.rejected.items()))
        return f"{self.name}: {sizes}; {self.origin}; digest {self.digest[:12]}" + (f"; {lost}" if lost else "")


def read_text(path: Path) -> str:
    """Read UTF-8 text with any line ends; raise DataError with path, line and rule where it is missing or malformed."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: must be UTF-8 text") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def no_rows_lost(rows: Sequence[Row], path: Path, rule: str) -> Sequence[Row]:
    """Return `rows`, or raise DataError where a file gave none at all."""
    if not rows:
        raise DataError(f"{path}, line 1: {rule}")
    return rows


def unique(rows: Iterable[Row], rejected: Counter[str]) -> list[Row]:
    """Return the rows that have a new id and a text; count the others by reason."""
    kept: dict[str, Row] = {}
    for row in rows:
        if not row.text.strip():
            rejected["empty text"] += 1
        elif row.id in kept:
            rejected["id seen before"] += 1
        else:
            kept[row.id] = row
    return list(kept.values())
