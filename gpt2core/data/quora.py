"""Quora question pairs: class 1 if the two questions ask the same, else 0."""

from collections.abc import Mapping
from os.path import lexists
from typing import Any

from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.course import course_corpus, course_folder
from gpt2core.data.hub import hub_corpus
from gpt2core.data.origin import DataOrigin, Licence

TRAIN, PARTIAL, DEV, TEST = ("quora-train.csv", "quora-train-partial.tsv", "quora-dev.csv", "quora-test-student.csv")
HUB = "nyu-mll/glue"
LICENCE = Licence(terms="Question pairs of Quora, whose terms allow non-commercial use only.")


def load_quora(data_dir: str | None) -> Corpus:
    """Return the pairs of the course's files in `data_dir` or its folder `quora`; without `data_dir`, GLUE's from the hub.

    If the training file is missing, a partial one is used, and the origin says so. Raises DataError or HubError.
    """
    if not data_dir:
        return hub_corpus("quora", HUB, "qqp", f"{TRAIN} and {DEV}", LICENCE, _hub_row)
    folder = course_folder(data_dir, "quora")
    paths = {"train": folder / TRAIN, "dev": folder / DEV, "test": folder / TEST}
    source = f"the course's files in {folder}"
    if not lexists(paths["train"]) and lexists(folder / PARTIAL):
        paths["train"] = folder / PARTIAL
        source += f", with only a part of the training split, {PARTIAL}"
    origin = DataOrigin(source=source, licence=LICENCE, place=str(folder))
    return course_corpus("quora", origin, paths, ("sentence1", "sentence2"), "is_duplicate", 2)


def _hub_row(_: str, values: Mapping[str, Any]) -> Row:
    first, second = values["question1"] or "", values["question2"] or ""
    text = first if second.strip() else ""  # so that the pair is rejected
    return Row(id=str(values["idx"]), text=text, second=second, label=values["label"])
