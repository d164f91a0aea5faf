"""Acceptance of filtered pairs: the only place that decides it, writes accepted/ and negatives/, and reads them for students.

The filters of `gpt2core.distill.filters` see one shard; `accept` then rejects duplicates across all shards of a round.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt2core.config import Thresholds
from gpt2core.distill.dedup import BANDS, normalised, repeats
from gpt2core.distill.filters import applied, filter_pairs
from gpt2core.distill.hard_negatives import hard_negatives
from gpt2core.distill.shards import (
    ACCEPTED,
    FILTERED,
    NEGATIVES,
    PAIRS,
    Shard,
    read,
    remove_parts,
    remove_rounds,
    write,
)
from gpt2core.storage import fetch, send

EXACT, NEAR = "exact", "near"  # reasons of rejection, beside the names of FILTERS

PARTS = {ACCEPTED: 1, NEGATIVES: 0}  # folder -> class of its pairs
LABEL = "is_duplicate"
EXAMPLES = 3  # of each reason
STORED = ("thresholds", "digest", "accepted", "negatives")  # what the manifest says of accepted/
LINEAGE = ("context", "round", "first", "second")
TEXTS = ("id", "sentence1", "sentence2")

#: The columns of both folders: the course's first, then the candidates that a pair is made of, then its scores.
COLUMNS = (*TEXTS, LABEL, *LINEAGE, *(name for name in PAIRS.names if name not in (*TEXTS, *LINEAGE)))


def accept(filtered: Callable[[], Iterable[pa.Table]], round: int) -> Iterator[pa.Table]:
    """Yield each filtered table of a round with its final `reason`s, which also reject duplicates in other contexts.

    Of equal or nearly equal pairs the best stays accepted: the one with the highest critic score, after round 1 with the lowest
    ROUGE-L, and the first one where these are equal. `filtered` is called twice for the tables, and may read them from disk; some
    150 bytes of each accepted pair are in memory.
    """
    columns = [_of_accepted(table, round) for table in filtered()]
    merits, keys, bands = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    rank = np.empty(len(merits), dtype=np.int64)
    rank[np.argsort(-merits, kind="stable")] = np.arange(len(rank))
    exact = _repeated(keys, rank)
    near = np.zeros_like(exact)
    near[~exact] = repeats(lambda number: bands[~exact, number], rank[~exact])
    start = 0
    for table, (merits, *_) in zip(filtered(), columns, strict=True):
        reasons = table["reason"].to_pylist()
        rows = (row for row, reason in enumerate(reasons) if reason is None)
        for number, row in enumerate(list(rows), start=start):
            reasons[row] = EXACT if exact[number] else NEAR if near[number] else None
        start += len(merits)
        yield table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))


def accepted_of(table: pa.Table) -> pa.Table:
    """The rows of a filtered table that nothing rejected."""
    return table.filter(pc.is_null(table["reason"]))


def _of_accepted(table: pa.Table, round: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the accepted pairs (N,) of a table: their merit, a key of their words, and their keys by band (N, BANDS)."""
    accepted = accepted_of(table)
    merits = accepted["critic"].to_numpy() if round == 1 else -accepted["rouge_l"].to_numpy()
    bands = accepted["bands"].combine_chunks().flatten().to_numpy().reshape(len(accepted), BANDS)
    return merits, _keys(accepted), bands


def _keys(pairs: pa.Table) -> np.ndarray:
    """64 bits of the words of each pair, whichever sentence comes first."""
    sentences = zip(pairs["sentence1"].to_pylist(), pairs["sentence2"].to_pylist(), strict=True)
    texts = ("\0".join(sorted(map(normalised, pair))) for pair in sentences)
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _repeated(keys: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Whether each pair (N,) has the key of another one with a lower rank."""
    order = np.lexsort((rank, keys))
    repeated = np.zeros(len(keys), dtype=bool)
    repeated[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return repeated


def write_accepted(folder: Path, round: int, shards: Sequence[Shard], thresholds: Thresholds) -> dict[str, Any]:
    """Write accepted/ and negatives/ of a round, a file for each filtered shard that has any; return counts and a digest.

    Files of this round and of later ones are removed first, so that all files are always one data set, and so are those that
    killed processes left unfinished. One shard at a time is in memory, see `accept`.
    """
    for part in PARTS:
        fetch(folder / part)
    remove_parts(folder)
    for part in PARTS:
        remove_rounds(folder / part, round)
    for shard in shards:
        shard.exists()  # fetches those of other machines
    reasons: Counter[str] = Counter()
    sizes: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    digest = hashlib.sha256()
    examples: dict[str, list[tuple[str, str]]] = {}
    tables = accept(lambda: (read(shard.path, FILTERED) for shard in shards), round)
    for shard, table in zip(shards, tables, strict=True):
        reasons.update(reason or ACCEPTED for reason in table["reason"].to_pylist())
        _choose_examples(examples, table, shard.path.name)
        accepted = accepted_of(table)
        negatives = table.take(hard_negatives(table, accepted, len(accepted)))
        for part, rows in ((ACCEPTED, accepted), (NEGATIVES, negatives)):
            sizes[part] += len(rows)
            if len(rows):
                write(folder / part / shard.path.name, _labelled(rows, PARTS[part]))
        _add_to(digest, accepted)
    for part in PARTS:
        send(folder / part)
    in_order = {reason: reasons[reason] for reason in (*applied(thresholds), EXACT, NEAR, ACCEPTED)}
    return {"reasons": in_order, **sizes, "digest": digest.hexdigest(), "examples": dict(sorted(examples.items()))}


def _choose_examples(examples: dict[str, list[tuple[str, str]]], table: pa.Table, file: str) -> None:
    """Keep EXAMPLES of each reason, as file and id: those with the lowest hashes, a sample of all shards."""
    for reason in table["reason"].unique().to_pylist():
        ids = table.filter(pc.equal(pc.fill_null(table["reason"], ""), reason or ""))["id"].to_pylist()
        known = examples.setdefault(reason or ACCEPTED, [])
        places = [*known, *((file, name) for name in ids)]
        known[:] = sorted(places, key=lambda place: hashlib.sha256(place[1].encode()).digest())[:EXAMPLES]


def _labelled(rows: pa.Table, label: int) -> pa.Table:
    """Filtered pairs in COLUMNS, all of one class."""
    return rows.append_column(LABEL, pa.array([label] * len(rows), pa.int8())).select(COLUMNS)


def _add_to(digest: Any, accepted: pa.Table) -> None:
    """Update the digest of a round's accepted pairs."""
    for row in accepted.select(TEXTS).to_pylist():
        digest.update(json.dumps(list(row.values())).encode())


@dataclass(frozen=True)
class ShardPairs:
    """What a student may learn from one shard; tables of the schema PAIRS."""

    accepted: pa.Table
    stored: pa.Table | None  # its file in negatives/, at most as many as accepted pairs; None where that is not read
    filtered: Callable[[], pa.Table]  # filters the stored scores of the shard

    def negatives(self, count: int) -> pa.Table:
        """At most `count` hard negatives, the hardest first; from the stored scores where negatives/ may hold too few."""
        if self.stored is not None and (count <= len(self.stored) or len(self.stored) < len(self.accepted)):
            return self.stored.slice(0, count)
        table = self.filtered()
        return table.take(hard_negatives(table, self.accepted, count)).select(PAIRS.names)


def accepted_pairs(folder: Path, entry: Mapping[str, Any], thresholds: Thresholds) -> tuple[list[ShardPairs], str]:
    """Return the pairs of a round, an `entry` of the manifest, shard by shard; and a note, empty where accepted/ is read.

    accepted/ is read where it was written with these thresholds. Else the stored scores are filtered again, and the note says
    why. Raises DataError.
    """
    why = _difference(entry, thresholds)
    if not why:
        stored = _stored(folder, entry, thresholds)
        if stored is not None:
            return stored, ""
        why = (
            f"does not hold the {entry['accepted']:,} pairs, or negatives/ the {entry['negatives']:,}, of the manifest"
        )
    note = f"accepted/ of round {entry['round']} {why}, so the stored scores were filtered again"
    return _accepted_again(folder, entry, thresholds), note


def _difference(entry: Mapping[str, Any], thresholds: Thresholds) -> str:
    """How the thresholds that a round's accepted/ was written with differ from these; empty where they do not."""
    names, here, there = entry["shards"], thresholds.model_dump(), entry.get("thresholds") or {}
    if any(entry.get(key) is None for key in STORED) or len(names.get("judged") or ()) != len(names["pairs"]):
        return "was written with unknown thresholds"
    differing = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    written, asked = (", ".join(f"{key} {values.get(key)}" for key in differing) for values in (there, here))
    return f"was written with {written}; this run has {asked}" if differing else ""


def _stored(folder: Path, entry: Mapping[str, Any], thresholds: Thresholds) -> list[ShardPairs] | None:
    """What accepted/ and negatives/ hold of a round; None where that is not all that the manifest tells of."""
    for part in PARTS:
        fetch(folder / part)
    shards, digest, count = [], hashlib.sha256(), 0
    for name, scored in zip(entry["shards"]["judged"], entry["shards"]["pairs"], strict=True):
        accepted, negatives = (_read_part(folder / part / name) for part in PARTS)
        _add_to(digest, accepted)
        count += len(negatives)
        shards.append(ShardPairs(accepted, negatives, partial(_filtered, folder / "pairs" / scored, thresholds)))
    return shards if (digest.hexdigest(), count) == (entry["digest"], entry["negatives"]) else None


def _read_part(path: Path) -> pa.Table:
    """The pairs in a file of accepted/ or negatives/; a shard that has none has no file."""
    return read(path, PAIRS).select(PAIRS.names) if path.exists() else PAIRS.empty_table()


def _accepted_again(folder: Path, entry: Mapping[str, Any], thresholds: Thresholds) -> list[ShardPairs]:
    """What these thresholds accept of a round's stored scores."""
    fetch(folder / "pairs")
    tables = [_filtered(folder / "pairs" / name, thresholds) for name in entry["shards"]["pairs"]]
    return [_pairs_in(table) for table in accept(lambda: tables, entry["round"])]


def _pairs_in(table: pa.Table) -> ShardPairs:
    return ShardPairs(accepted_of(table).select(PAIRS.names), None, lambda: table)


def _filtered(path: Path, thresholds: Thresholds) -> pa.Table:
    """The scored pairs of a file, filtered."""
    if not path.exists():
        fetch(path)
    return filter_pairs(read(path, PAIRS), thresholds)
