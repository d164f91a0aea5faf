"""Small files in the course's formats, double encoding and all."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from gpt2core.data.shakespeare import load_sonnets

SPLITS = {"train": 12, "dev": 7}
FILMS = ("a fine film", "dull", "Not bad , not good", "the worst hour of the year", "a joy")


def folder(path: Path) -> Path:
    for name, classes in (("sst", 5), ("cfimdb", 2)):
        for split, count in SPLITS.items():
            rows = [(f"{split}{n}", f" {FILMS[n % 5]} {n} .", n % classes) for n in range(count)]
            sentiment(path / name / f"ids-{name}-{split}.csv", rows)
    for split, count in SPLITS.items():
        pairs = [(f"{split}{n}", f"What is {n}?", f"Who is {n}?" * (n % 3 + 1), f"{n % 2}.0") for n in range(count)]
        quora(path / "quora" / f"quora-{split}.csv", pairs)
    poems(path / "poems" / "pdpoems13754-000.jsonl", [f"Rose number {n},\nno other is like {n}." for n in range(200)])
    return path


def release(path: Path) -> Path:
    """All files of the project as it hands them out, in a folder for each data set."""
    folder(path)
    sentiment(path / "sst" / "ids-sst-test-student.csv", [("s", " a fine film")])
    sentiment(path / "cfimdb" / "ids-cfimdb-test-student.csv", [("c", " a fine film")])
    pair = ("17 8231-ea40", '"How do you make an ""O"" ring?"', "Which rings?")
    lines = ["\t".join(row) for row in (("id", "sentence1", "sentence2"), pair)]
    (path / "quora" / "quora-test-student.csv").write_text("\n".join(lines) + "\n")
    sonnets(path / "sonnets")
    return path


def sentiment(path: Path, rows: Sequence[tuple[object, ...]]) -> Path:
    """A table of id, sentence and sentiment; without labels where the rows have two values."""
    names = ["", "id", "sentence", "sentiment"][: len(rows[0]) + 1]
    return _write(path, [names, *([n, *row] for n, row in enumerate(rows))])


def quora(path: Path, rows: Sequence[tuple[object, ...]]) -> Path:
    """A table of id, two questions and is_duplicate, encoded as CSV twice; without labels where the rows have three values."""
    names = ["", "id", "sentence1", "sentence2", "is_duplicate"][: len(rows[0]) + 1]
    return _write(path, [names, *([n, row[0], *map(encoded, row[1:3]), *row[3:]] for n, row in enumerate(rows))])


def encoded(text: object) -> str:
    """One CSV encoding: a text with quotes is put in quotes, its own doubled."""
    return '"' + str(text).replace('"', '""') + '"' if '"' in str(text) else str(text)


def poems(path: Path, texts: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"author": "A", "title": "T", "text": text, "gpt2_tokens": 9}) for text in texts]
    path.write_text("\n".join(lines) + "\n")
    return path


def sonnets(path: Path) -> Path:
    """The sonnets of the installed package in the course's three files, in a --data-dir of their own."""
    path.mkdir(parents=True, exist_ok=True)
    files = {"sonnets.txt": "train", "TRUE_sonnets_held_out_dev.txt": "dev", "sonnets_held_out.txt": "test"}
    for name, split in files.items():
        rows = load_sonnets(None).splits[split]
        (path / name).write_text("".join(f"\n\n{row.id}\n\n{row.text}\n" for row in rows), encoding="utf-8")
    return path


def _write(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="\t", lineterminator="\n").writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(buffer.getvalue())
    return path


def modules(folder: Path) -> Path:
    """A working folder with modules that are named as in the course's project, and fail if they are imported; return it."""
    folder.mkdir()
    for name in ("base_gpt", "classifier", "config", "datasets", "evaluation", "optimizer", "utils"):
        (folder / f"{name}.py").write_text('raise ImportError("a file of the working folder was imported")\n')
    return folder
