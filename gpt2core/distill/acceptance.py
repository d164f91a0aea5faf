"""Acceptance of pairs: the only code that decides it, writes accepted/ and negatives/, and reads both for students.

The filters in `filters.py` see one shard. `reject_duplicates` then compares the pairs of all shards of a round.
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
from gpt2core.distill.dedup import BANDS, duplicates, normalised
from gpt2core.distill.filters import applied, filter_pairs
from gpt2core.distill.hard_negatives import hard_negatives
from gpt2core.distill.shards import ACCEPTED, FILTERED, NEGATIVES, PAIRS, Shard, read, remove_stale, write
from gpt2core.storage import fetch, send

EXACT, NEAR = "exact", "near"  # reasons of rejection that follow those in FILTERS

CLASSES = {ACCEPTED: 1, NEGATIVES: 0}  # folder -> class of its pairs
LABEL = "is_duplicate"
EXAMPLES = 3  # of each reason
TEXTS = ("id", "sentence1", "sentence2")
ORIGIN = ("context", "round", "first", "second")

#: The columns of both folders: first those of the course's files, then where the pair comes from, then its scores.
COLUMNS = (*TEXTS, LABEL, *ORIGIN, *(name for name in PAIRS.names if name not in (*TEXTS, *ORIGIN)))


def write_accepted(folder: Path, round: int, shards: Sequence[Shard], thresholds: Thresholds) -> dict[str, Any]:
    """Write accepted/ and negatives/ of a round from its filtered shards; return counts, a digest and examples.

    First removes files of this and later rounds and those that killed processes left unfinished, so that all files are always
    one data set. A shard without accepted pairs or negatives has no file there. One shard at a time is in memory.
    """
    for part in CLASSES:
        fetch(folder / part)
    remove_stale(folder, CLASSES, round)
    reasons: Counter[str] = Counter()
    sizes: Counter[str] = Counter(dict.fromkeys(CLASSES, 0))
    digest = hashlib.sha256()
    examples: dict[str, list[tuple[str, str]]] = {}
    tables = reject_duplicates(lambda: (shard.read(FILTERED) for shard in shards), round)
    for shard, table in zip(shards, tables, strict=True):
        reasons.update(reason or ACCEPTED for reason in table["reason"].to_pylist())
        _choose_examples(examples, table, shard.path.name)
        accepted = accepted_rows(table)
        negatives = table.take(hard_negatives(table, accepted, len(accepted)))
        for part, rows in ((ACCEPTED, accepted), (NEGATIVES, negatives)):
            sizes[part] += len(rows)
            if len(rows):
                label = pa.array([CLASSES[part]] * len(rows), pa.int8())
                write(folder / part / shard.path.name, rows.append_column(LABEL, label).select(COLUMNS))
        _update(digest, accepted)
    for part in CLASSES:
        send(folder / part)
    in_order = {reason: reasons[reason] for reason in (*applied(thresholds), EXACT, NEAR, ACCEPTED)}
    return {"reasons": in_order, **sizes, "digest": digest.hexdigest(), "examples": dict(sorted(examples.items()))}


def _choose_examples(examples: dict[str, list[tuple[str, str]]], table: pa.Table, file: str) -> None:
    """Keep EXAMPLES rows of each reason, as file and id: those with the lowest hashes, a sample of all shards."""
    for reason in table["reason"].unique().to_pylist():
        ids = table.filter(pc.equal(pc.fill_null(table["reason"], ""), reason or ""))["id"].to_pylist()
        chosen = examples.setdefault(reason or ACCEPTED, [])
        rows = [*chosen, *((file, id) for id in ids)]
        chosen[:] = sorted(rows, key=lambda row: hashlib.sha256(row[1].encode()).digest())[:EXAMPLES]


def _update(digest: Any, accepted: pa.Table) -> None:
    """Update the digest of a round's accepted pairs."""
    for row in accepted.select(TEXTS).to_pylist():
        digest.update(json.dumps(list(row.values())).encode())


def reject_duplicates(filtered: Callable[[], Iterable[pa.Table]], round: int) -> Iterator[pa.Table]:
    """Yield each filtered table of a round, with EXACT or NEAR as the `reason` of duplicates of pairs in other contexts.

    The best pair of each group of duplicates stays accepted: the one with the highest critic score (after round 1, the lowest
    ROUGE-L), and the first of equals. `filtered` is called twice, so it may read the tables from disk; only about 150 bytes of
    each accepted pair stay in memory.
    """
    columns = [_merits_and_keys(table, round) for table in filtered()]
    merits, keys, bands = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    rank = np.empty(len(merits), dtype=np.int64)
    rank[np.argsort(-merits, kind="stable")] = np.arange(len(rank))
    exact, near = duplicates(keys, rank), duplicates(bands, rank)
    start = 0
    for table, (merits, *_) in zip(filtered(), columns, strict=True):
        reasons = table["reason"].to_pylist()
        rows = [row for row, reason in enumerate(reasons) if reason is None]
        for number, row in enumerate(rows, start=start):
            reasons[row] = EXACT if exact[number] else NEAR if near[number] else None
        start += len(merits)
        yield table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))


def _merits_and_keys(table: pa.Table, round: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return merits (N,), keys of the words (N, 1) and band keys (N, BANDS) of the accepted pairs of a table."""
    accepted = accepted_rows(table)
    merits = accepted["critic"].to_numpy() if round == 1 else -accepted["rouge_l"].to_numpy()
    sentences = zip(accepted["sentence1"].to_pylist(), accepted["sentence2"].to_pylist(), strict=True)
    texts = ("\0".join(sorted(map(normalised, pair))) for pair in sentences)
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    bands = accepted["bands"].combine_chunks().flatten().to_numpy()
    return merits, np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 1), bands.reshape(-1, BANDS)


def accepted_rows(table: pa.Table) -> pa.Table:
    """Return the rows of a filtered table that nothing rejected."""
    return table.filter(pc.is_null(table["reason"]))


@dataclass(frozen=True)
class ShardPairs:
    """The pairs of one shard that a student may learn from; tables of the schema PAIRS."""

    accepted: pa.Table
    filtered: pa.Table | Callable[[], pa.Table]  # all pairs of the shard, or how to filter its stored scores
    stored: pa.Table | None = None  # its file in negatives/, with at most as many rows as `accepted`; None if not read

    def negatives(self, count: int) -> pa.Table:
        """Return up to `count` hard negatives, the hardest first; from the stored scores if negatives/ may hold too few."""
        if self.stored is not None and (count <= len(self.stored) or len(self.stored) < len(self.accepted)):
            return self.stored.slice(0, count)
        table = self.filtered() if callable(self.filtered) else self.filtered
        return table.take(hard_negatives(table, self.accepted, count)).select(PAIRS.names)


def read_accepted(folder: Path, entry: Mapping[str, Any], thresholds: Thresholds) -> tuple[list[ShardPairs], str]:
    """Return the accepted pairs of a round by shard, and a note that is empty if accepted/ was read.

    `entry` is the round in the manifest. If accepted/ was written with other thresholds or is incomplete, the stored scores are
    filtered again, and the note says why. Raises DataError.
    """
    mismatch = _mismatch(entry, thresholds)
    if not mismatch:
        shards = _read_stored(folder, entry, thresholds)
        if shards is not None:
            return shards, ""
        counts = f"{entry['accepted']:,} pairs, or negatives/ the {entry['negatives']:,}"
        mismatch = f"does not hold the {counts}, of the manifest"
    fetch(folder / "pairs")
    filtered = [_filtered(folder / "pairs" / name, thresholds) for name in entry["shards"]["pairs"]]
    tables = reject_duplicates(lambda: filtered, entry["round"])
    pairs = [ShardPairs(accepted_rows(table).select(PAIRS.names), table) for table in tables]
    return pairs, f"accepted/ of round {entry['round']} {mismatch}, so the stored scores were filtered again"


def adaptive_tau(folder: Path, entry: Mapping[str, Any]) -> float:
    """Return the self-adaptive threshold of the scored pairs of a round for the class paraphrase. Raises DataError.

    FreeMatch (Wang et al. 2023, arXiv 2205.07246, equations 5 to 8) multiplies the mean confidence of all predictions by the
    mean probability of the class over that of the most probable class. Its moving averages over training are means here, since
    stored scores do not change. A score s is the critic's probability of a paraphrase, so the confidence is max(s, 1 - s).
    """
    paths = [folder / "pairs" / name for name in entry["shards"]["pairs"]]
    for path in paths:
        fetch(path)
    scores = np.concatenate([read(path, PAIRS)["critic"].to_numpy() for path in paths] or [np.zeros(0)])
    if not len(scores):
        return Thresholds().tau
    share = float(scores.mean())
    return float(np.maximum(scores, 1 - scores).mean()) * share / max(share, 1 - share)


def _mismatch(entry: Mapping[str, Any], thresholds: Thresholds) -> str:
    """Say how the thresholds that accepted/ was written with differ from `thresholds`; empty if they do not."""
    files, wanted, written = entry["shards"], thresholds.model_dump(), entry.get("thresholds") or {}
    recorded = all(entry.get(key) is not None for key in ("thresholds", "digest", *CLASSES))
    if not recorded or len(files.get("judged") or ()) != len(files["pairs"]):
        return "was written with unknown thresholds"
    differing = [key for key in {**written, **wanted} if written.get(key) != wanted.get(key)]
    before, now = (", ".join(f"{key} {values.get(key)}" for key in differing) for values in (written, wanted))
    return f"was written with {before}; this run has {now}" if differing else ""


def _read_stored(folder: Path, entry: Mapping[str, Any], thresholds: Thresholds) -> list[ShardPairs] | None:
    """Read accepted/ and negatives/ of a round; return None if they are not what the manifest records."""
    for part in CLASSES:
        fetch(folder / part)
    shards, digest, count = [], hashlib.sha256(), 0
    for name, scored in zip(entry["shards"]["judged"], entry["shards"]["pairs"], strict=True):
        paths = [folder / part / name for part in CLASSES]  # a shard without such pairs has no file
        tables = [read(path, PAIRS).select(PAIRS.names) if path.exists() else PAIRS.empty_table() for path in paths]
        accepted, negatives = tables
        _update(digest, accepted)
        count += len(negatives)
        shards.append(ShardPairs(accepted, partial(_filtered, folder / "pairs" / scored, thresholds), negatives))
    return shards if (digest.hexdigest(), count) == (entry["digest"], entry["negatives"]) else None


def _filtered(path: Path, thresholds: Thresholds) -> pa.Table:
    """Read and filter a file of scored pairs."""
    if not path.exists():
        fetch(path)
    return filter_pairs(read(path, PAIRS), thresholds)
