"""A user's own data: reviews with stars and titles, as files."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from gpt2core.testing import toys

COLUMNS = ("review", "stars", "title")
Record = tuple[str, str, str]


def records(count: int = 60, seed: int = 0) -> list[Record]:
    """Different reviews, whose stars follow from their first word, and titles."""
    random = np.random.default_rng(seed)
    stars = random.integers(3, size=count)
    words = (" ".join(random.choice(toys.WORDS, size=6)) for _ in range(count))
    return [
        (f"{('poor', 'fair', 'fine')[star]} {text} {number}", str(star + 1), f"title {number}")
        for number, (star, text) in enumerate(zip(stars, words, strict=True))
    ]


def table(path: Path, rows: list[Record] | None = None) -> Path:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *(records() if rows is None else rows)])
    return path


def flags(task: str, folder: Path) -> dict[str, Any]:
    """The values of a run of a task on own data; none for other tasks."""
    columns = {
        "classify": {"label": "stars", "class_names": ("1", "2", "3")},
        "generate": {"target": "title"},
        "text": {},
    }
    if task not in columns:
        return {}
    return {"train": str(table(folder / "reviews.csv")), "text": "review", **columns[task]}
