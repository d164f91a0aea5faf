"""Generated pairs as training data: for a student that rewrites, and for the detection of paraphrases."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.origin import GENERATED, DataOrigin
from gpt2core.distill.acceptance import PARTS, accepted_pairs
from gpt2core.distill.manifest import MANIFEST, read_rounds
from gpt2core.distill.sentences import clean
from gpt2core.distill.shards import read
from gpt2core.errors import DataError
from gpt2core.storage import fetch, local

HELD_OUT = 20  # one context in so many is for the dev split of a student
MAKE = "`python -m trainables.candidates --out FOLDER` makes one"

Pair = dict[str, Any]  # a row of PAIRS


@dataclass(frozen=True)
class PairSet:
    """The generated pairs that a run learns from: accepted ones, and hard negatives for detection."""

    accepted: list[Pair] = field(default_factory=list)
    negatives: list[Pair] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # where accepted/ was not read, and why

    @property
    def facts(self) -> dict[str, str | int]:
        """The notes as the fact that a trial shows and records."""
        return {"note": "; ".join(self.notes)} if self.notes else {}

    @property
    def digest(self) -> str:
        """SHA-256 of all pairs in order."""
        rows = [[pair["sentence1"], pair["sentence2"]] for pair in (*self.accepted, *self.negatives)]
        return hashlib.sha256(json.dumps([len(self.accepted), rows]).encode()).hexdigest()


def pairs_folder(config: RunConfig) -> Path:
    """The folder of the generated pairs that a run learns from; raise DataError where there is none."""
    if config.pairs is None:
        raise DataError(f"The task `{config.task}` learns from generated pairs: --set pairs=FOLDER; {MAKE}")
    folder = local(config.pairs)
    fetch(folder / MANIFEST)
    if config.pairs_temperature is not None and not (folder / MANIFEST).is_file():
        folder = folder / temperature_name(config.pairs_temperature)
        fetch(folder / MANIFEST)
    return folder


def temperature_name(temperature: float) -> str:
    """The folder of one generation temperature among several."""
    return f"temperature-{temperature:g}"


def rounds(folder: Path) -> list[dict[str, Any]]:
    """The rounds of the manifest; raise DataError where it cannot be read."""
    path = folder / MANIFEST
    try:
        return read_rounds(path)
    except OSError as error:
        raise DataError(f"{path}: must be the manifest of a set of candidates ({error.strerror}); {MAKE}") from None
    except DataError as error:
        raise DataError(f"{error}; it must be the manifest of a set of candidates: {MAKE}") from None


def load_pairs(config: RunConfig) -> PairSet:
    """Return the pairs of a run: the first `pairs_examples` accepted ones, and `negatives` times as many hard negatives
    where there are so many. Raises DataError."""
    pairs, folder = PairSet(), pairs_folder(config)
    for entry in rounds(folder):
        if config.pairs_round in (None, entry["round"]):
            shards, note = accepted_pairs(folder, entry, config.thresholds)
            pairs.notes.extend([note] if note else [])
            for shard in shards:
                left = None if config.pairs_examples == "all" else config.pairs_examples - len(pairs.accepted)
                pairs.accepted.extend(shard.accepted.slice(0, left).to_pylist())
                wanted = math.ceil(config.negatives * len(pairs.accepted)) - len(pairs.negatives)
                pairs.negatives.extend(shard.negatives(wanted).to_pylist())
    return pairs


def sets_digest(folders: Sequence[Path]) -> str:
    """SHA-256 of all pairs in some folders, whatever these are called; raise DataError."""
    digest = hashlib.sha256()
    for folder in folders:
        for entry in rounds(folder):
            for part in ("pairs", *PARTS):
                fetch(folder / part)
                paths = [
                    folder / part / name for name in entry["shards"].get("pairs" if part == "pairs" else "judged") or []
                ]
                for table in (read(path) for path in paths if path.exists()):
                    for column in table.column_names:
                        values = json.dumps(table[column].to_pylist())
                        digest.update(f"{entry['round']}\0{part}\0{column}\0{values}\n".encode())
    return digest.hexdigest()


def rewriting_corpus(config: RunConfig) -> Corpus:
    """Accepted pairs, each a sentence and its paraphrase; raise DataError where there are none.

    The dev split holds the pairs of one context in HELD_OUT of round 1, so that the students of all rounds share it; these
    contexts are in no training split.
    """
    folder = pairs_folder(config)
    first = load_pairs(config.but(pairs_round=1, pairs_examples="all", negatives=0))
    contexts = sorted(
        {pair["context"] for pair in first.accepted}, key=lambda name: hashlib.sha256(name.encode()).hexdigest()
    )
    held_out = set(contexts[: math.ceil(len(contexts) / HELD_OUT)])
    chosen = load_pairs(config.but(negatives=0))
    splits = {
        "train": _rows([pair for pair in chosen.accepted if pair["context"] not in held_out]),
        "dev": _rows([pair for pair in first.accepted if pair["context"] in held_out]),
    }
    for split, rows in splits.items():
        if not rows:
            raise DataError(
                f"{folder}: no accepted pair is left for the {split} split; lower tau, or make more contexts"
            )
    notes = PairSet(notes=list(dict.fromkeys([*first.notes, *chosen.notes])))
    origin = DataOrigin(source=f"generated pairs in {folder}", licence=GENERATED)
    return Corpus(name="pairs", origin=origin, splits=splits, facts=notes.facts, notes=tuple(notes.notes))


def with_pairs(corpus: Corpus, config: RunConfig) -> Corpus:
    """Spread generated pairs evenly over the training rows of a corpus of question pairs, so that its first rows hold both.

    Accepted pairs are of class 1, hard negatives of class 0. A run that learns from none gets the corpus as it is. Raises
    DataError.
    """
    if not config.learns_from_pairs:
        return corpus
    splits = {split: _cleaned(rows) if config.clean_text else rows for split, rows in corpus.splits.items()}
    pairs = load_pairs(config)
    generated = _mixed(_rows(pairs.accepted, 1), _rows(pairs.negatives, 0))
    facts: dict[str, str | int] = {
        "generated_pairs": len(pairs.accepted),
        "generated_negatives": len(pairs.negatives),
        "generated_digest": pairs.digest,
        **pairs.facts,
    }
    words = f"{len(pairs.accepted)} generated pairs and {len(pairs.negatives)} hard negatives of {pairs_folder(config)}"
    return replace(
        corpus,
        origin=corpus.origin.model_copy(update={"source": f"{corpus.origin.source}; {words}"}),
        splits={**splits, "train": _mixed(splits["train"], generated)},
        facts=facts,
        notes=(*corpus.notes, *pairs.notes),
    )


def _rows(pairs: Sequence[Pair], label: int = 1) -> list[Row]:
    return [Row(id=pair["id"], text=pair["sentence1"], second=pair["sentence2"], label=label) for pair in pairs]


def _cleaned(rows: Sequence[Row]) -> list[Row]:
    return [replace(row, text=clean(row.text), second=clean(row.second)) for row in rows]


def _mixed(one: Sequence[Row], other: Sequence[Row]) -> list[Row]:
    """Both in their own order, each spread evenly over the whole."""
    placed = [((place + 0.5) / len(rows), row) for rows in (one, other) for place, row in enumerate(rows)]
    return [row for _, row in sorted(placed, key=lambda pair: pair[0])]
