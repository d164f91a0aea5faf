"""Generated pairs as training data: for a student that rewrites sentences, and for paraphrase detection."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.origin import GENERATED, UNKNOWN, DataOrigin
from gpt2core.data.quora import load_quora
from gpt2core.data.tokens import sample_order
from gpt2core.distill.acceptance import CLASSES, adaptive_tau, read_accepted
from gpt2core.distill.manifest import MANIFEST, read_rounds
from gpt2core.distill.sentences import clean
from gpt2core.distill.shards import read
from gpt2core.errors import ConfigError, DataError
from gpt2core.storage import fetch, local

HELD_OUT = 20  # one context in this many goes to a student's dev split
HINT = "make one with `gpt2-search candidates --out FOLDER`"

Pair = dict[str, Any]  # a row of PAIRS


@dataclass(frozen=True)
class PairSet:
    """The generated pairs that a run learns from: accepted pairs, and hard negatives for detection."""

    accepted: list[Pair] = field(default_factory=list)
    negatives: list[Pair] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # why accepted/ was not read

    @property
    def digest(self) -> str:
        """SHA-256 of all pairs in order."""
        rows = [[pair["sentence1"], pair["sentence2"]] for pair in (*self.accepted, *self.negatives)]
        return hashlib.sha256(json.dumps([len(self.accepted), rows]).encode()).hexdigest()


def pairs_folder(config: RunConfig) -> Path:
    """Return the folder of the generated pairs that a run learns from; raise DataError if `pairs` is not set."""
    if config.pairs is None:
        raise DataError(f"The task `{config.task}` learns from generated pairs: --set pairs=FOLDER, or {HINT}")
    folder = local(config.pairs)
    for name in [None, *subfolders(config.pairs_temperature, config.pairs_critic)]:
        folder = folder / name if name else folder
        fetch(folder / MANIFEST)
        if (folder / MANIFEST).is_file():
            break
    return folder


def subfolders(temperature: float | None, critic: str | None) -> list[str]:
    """Return the names of nested folders: pairs of a generation temperature, and in there those that a critic scored."""
    of_temperature = [] if temperature is None else [f"temperature-{temperature:g}"]
    return [*of_temperature, *([f"critic-{critic}"] if critic else [])]


def rounds(folder: Path) -> list[dict[str, Any]]:
    """Return the rounds in a folder's manifest; raise DataError if it cannot be read."""
    path = folder / MANIFEST
    try:
        return read_rounds(path)
    except OSError as error:
        raise DataError(f"{path}: must be the manifest of generated pairs ({error.strerror}); {HINT}") from None
    except DataError as error:
        raise DataError(f"{error}; it must be the manifest of generated pairs: {HINT}") from None


def load_pairs(config: RunConfig) -> PairSet:
    """Return the first `pairs_examples` accepted pairs, and `negatives` times as many hard negatives; or real pairs.

    With a curriculum, those come first of whose class the critic is surest. Raises DataError, also if there are fewer pairs;
    only with `pairs_examples` all are there as many hard negatives as there can be.
    """
    if config.added_pairs == "real":
        return real_pairs(config)
    pairs, folder = PairSet(), pairs_folder(config)
    for entry in rounds(folder):
        if config.pairs_round in (None, entry["round"]):
            _check_critic(folder, entry, config)
            thresholds = config.thresholds
            if config.tau_rule == "adaptive":
                thresholds = thresholds.but(tau=adaptive_tau(folder, entry))
            shards, note = read_accepted(folder, entry, thresholds)
            pairs.notes.extend([note] if note else [])
            for shard in shards:
                left = None if config.pairs_examples == "all" else config.pairs_examples - len(pairs.accepted)
                pairs.accepted.extend(shard.accepted.slice(0, left).to_pylist())
                wanted = math.ceil(config.negatives * len(pairs.accepted)) - len(pairs.negatives)
                pairs.negatives.extend(shard.negatives(wanted).to_pylist())
    if config.pairs_examples != "all":
        _check_count("accepted pairs", len(pairs.accepted), config.pairs_examples, folder)
        _check_count("hard negatives", len(pairs.negatives), _negatives(config), folder)
    if config.tau_rule == "curriculum":
        pairs.accepted.sort(key=lambda pair: -pair["critic"])
        pairs.negatives.sort(key=lambda pair: pair["critic"])
    return pairs


def _negatives(config: RunConfig) -> int:
    """Return the number of hard negatives for a number of accepted pairs."""
    return math.ceil(config.negatives * int(config.pairs_examples))


def _check_count(what: str, count: int, wanted: int, source: str | Path) -> None:
    if count < wanted:
        raise DataError(
            f"{source}: has {count:,} {what} for this run, but `pairs_examples` and `negatives` ask for {wanted:,}; lower one "
            "of these or `tau`, or generate more contexts"
        )


def real_pairs(config: RunConfig) -> PairSet:
    """Return `pairs_examples` duplicates and `negatives` times as many other pairs of Quora's training split.

    They are the last ones in the order of samples, so that `train_examples` can sample others. Raises DataError or HubError, and
    ConfigError without a number of pairs.
    """
    if config.pairs_examples == "all":
        raise ConfigError("The value of `pairs_examples` is 'all', but must be a number with `added_pairs` 'real'")
    corpus = load_quora(config.data_dir)
    rows = corpus.splits["train"]
    chosen: list[list[Pair]] = []
    for label, count in ((1, config.pairs_examples), (0, _negatives(config))):
        last = [rows[place] for place in sample_order(len(rows))[::-1] if rows[place].label == label][:count]
        _check_count(f"pairs of class {label}", len(last), count, corpus.origin.source)
        texts = ({"sentence1": row.text, "sentence2": row.second} for row in last)
        chosen.append(
            [{"id": f"real-{row.id}", "context": row.id, **text} for row, text in zip(last, texts, strict=True)]
        )
    return PairSet(accepted=chosen[0], negatives=chosen[1])


def _most_examples(rows: Sequence[Row], pairs: PairSet) -> int:
    """Return how many rows come before the first of some real pairs in the order of samples."""
    taken = {pair["context"] for pair in (*pairs.accepted, *pairs.negatives)}
    return next(number for number, place in enumerate(sample_order(len(rows))) if rows[place].id in taken)


def _check_critic(folder: Path, entry: dict[str, Any], config: RunConfig) -> None:
    """Raise DataError if another critic than `pairs_critic` scored the pairs; manifests by hand may name none."""
    critic = (entry.get("critic") or {}).get("critic")
    if critic is not None and config.pairs_critic not in (None, critic):
        raise DataError(
            f"{folder}: the critic `{critic}` scored these pairs, but `pairs_critic` is {config.pairs_critic!r}; set it to none, "
            f"or give pairs that were made with --critic {config.pairs_critic}"
        )


def sets_digest(folders: Sequence[Path]) -> str:
    """Return the SHA-256 of all pairs in some folders, whatever the folders are called; raise DataError."""
    digest = hashlib.sha256()
    for folder in folders:
        for entry in rounds(folder):
            for part in ("pairs", *CLASSES):
                fetch(folder / part)
                names = entry["shards"].get("pairs" if part == "pairs" else "judged") or []
                for table in (read(folder / part / name) for name in names if (folder / part / name).exists()):
                    for column in table.column_names:
                        values = json.dumps(table[column].to_pylist())
                        digest.update(f"{entry['round']}\0{part}\0{column}\0{values}\n".encode())
    return digest.hexdigest()


def rewriting_corpus(config: RunConfig) -> Corpus:
    """Return the accepted pairs as sentences and their paraphrases; raise DataError if there are none.

    The dev split holds the pairs of one in HELD_OUT contexts of round 1, so the students of all rounds share it. These contexts
    are in no training split.
    """
    real = config.added_pairs == "real"
    source = "real pairs of Quora" if real else f"generated pairs in {pairs_folder(config)}"
    everything = {} if real else {"pairs_round": 1, "pairs_examples": "all"}
    first = load_pairs(config.but(negatives=0, **everything))
    names = {pair["context"] for pair in first.accepted}
    contexts = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    held_out = set(contexts[: math.ceil(len(contexts) / HELD_OUT)])
    chosen = load_pairs(config.but(negatives=0))
    splits = {
        "train": _rows([pair for pair in chosen.accepted if pair["context"] not in held_out]),
        "dev": _rows([pair for pair in first.accepted if pair["context"] in held_out]),
    }
    for split, rows in splits.items():
        if not rows:
            raise DataError(
                f"{source}: no accepted pair is left for the {split} split; lower `tau`, or generate more contexts"
            )
    notes = list(dict.fromkeys([*first.notes, *chosen.notes]))
    origin = DataOrigin(source=source, licence=UNKNOWN if real else GENERATED)
    return Corpus(name="pairs", origin=origin, splits=splits, facts=_facts(notes), notes=tuple(notes))


def with_pairs(corpus: Corpus, config: RunConfig) -> Corpus:
    """Return a corpus of question pairs with the run's added pairs behind its training rows, see `Corpus.added`.

    Accepted pairs have class 1, hard negatives class 0. The corpus is returned unchanged if the run learns from no added pairs.
    Raises DataError.
    """
    if not config.learns_from_pairs:
        return corpus
    splits = {split: _cleaned(rows) if config.clean_text else rows for split, rows in corpus.splits.items()}
    pairs = load_pairs(config)
    added = _interleaved(_rows(pairs.accepted), _rows(pairs.negatives, 0))
    real = config.added_pairs == "real"
    kind = "real" if real else "generated"
    facts: dict[str, str | int] = {
        f"{kind}_pairs": len(pairs.accepted),
        f"{kind}_negatives": len(pairs.negatives),
        f"{kind}_digest": pairs.digest,
        **_facts(pairs.notes),
    }
    words = f"{len(pairs.accepted)} generated pairs and {len(pairs.negatives)} hard negatives"
    words = f"{len(added)} real pairs more" if real else f"{words} of {pairs_folder(config)}"
    return replace(
        corpus,
        origin=corpus.origin.model_copy(update={"source": f"{corpus.origin.source}; {words}"}),
        splits={**splits, "train": [*splits["train"], *added]},
        added=len(added),
        most_examples=_most_examples(splits["train"], pairs) if real and added else None,
        facts=facts,
        notes=(*corpus.notes, *pairs.notes),
    )


def _facts(notes: Sequence[str]) -> dict[str, str | int]:
    return {"note": "; ".join(notes)} if notes else {}


def _rows(pairs: Sequence[Pair], label: int = 1) -> list[Row]:
    return [Row(id=pair["id"], text=pair["sentence1"], second=pair["sentence2"], label=label) for pair in pairs]


def _cleaned(rows: Sequence[Row]) -> list[Row]:
    return [replace(row, text=clean(row.text), second=clean(row.second)) for row in rows]


def _interleaved(first: Sequence[Row], second: Sequence[Row]) -> list[Row]:
    """Merge two sequences in their own order, each spread evenly over the result."""
    placed = [((number + 0.5) / len(rows), row) for rows in (first, second) for number, row in enumerate(rows)]
    return [row for _, row in sorted(placed, key=lambda pair: pair[0])]
