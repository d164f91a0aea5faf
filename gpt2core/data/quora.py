"""Quora question pairs: 1 for two questions that ask the same, 0 for others."""

from collections import Counter
from os.path import lexists

from gpt2core.data.corpus import Corpus, Row, unique
from gpt2core.data.course import course_folder, read_rows
from gpt2core.data.hub import load_hub
from gpt2core.data.origin import DataOrigin, Licence

TRAIN, PARTIAL, DEV, TEST = ("quora-train.csv", "quora-train-partial.tsv", "quora-dev.csv", "quora-test-student.csv")
TEXTS = ("sentence1", "sentence2")
HUB = "nyu-mll/glue"
LICENCE = Licence(terms="Question pairs of Quora, whose terms allow non-commercial use only.")


def load_quora(data_dir: str | None) -> Corpus:
    """Return the pairs of the course's files in `data_dir` or its folder `quora`; without, those of GLUE on the hub.

    Where the training file is not there, a partial one is taken, and the origin says so. Raises DataError or HubError.
    """
    if data_dir:
        return _course_files(data_dir)
    hub = load_hub(HUB, "qqp", f"{TRAIN} and {DEV}")
    rejected: Counter[str] = Counter()
    splits = {}
    for theirs, split in (("train", "train"), ("validation", "dev"), ("test", "test")):
        rows = []
        for row in hub[theirs]:
            first, second = row["question1"] or "", row["question2"] or ""
            if not second.strip():
                rejected["empty text"] += 1
            else:
                rows.append(Row(id=str(row["idx"]), text=first, second=second, label=row["label"]))
        splits[split] = unique(rows, rejected)
    origin = DataOrigin(source=f"{HUB}, qqp, of the Hugging Face hub", licence=LICENCE, hub=HUB)
    return Corpus(name="quora", origin=origin, splits=splits, rejected=rejected)


def _course_files(data_dir: str) -> Corpus:
    folder = course_folder(data_dir, "quora")
    source = f"the course's files in {folder}"
    train = folder / TRAIN
    if not lexists(train) and lexists(folder / PARTIAL):
        train = folder / PARTIAL
        source += f", of whose training split only a part is there, {PARTIAL}"
    rejected: Counter[str] = Counter()
    splits = {
        "train": read_rows(train, TEXTS, "is_duplicate", 2, rejected),
        "dev": read_rows(folder / DEV, TEXTS, "is_duplicate", 2, rejected),
    }
    if lexists(folder / TEST):
        splits["test"] = read_rows(folder / TEST, TEXTS, "is_duplicate", 2, rejected, labelled=False)
    return Corpus(name="quora", origin=DataOrigin(source=source, licence=LICENCE), splits=splits, rejected=rejected)
