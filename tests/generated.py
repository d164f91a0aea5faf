"""Small sets of generated pairs, as `gpt2-search candidates` writes them."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gpt2core.config import Thresholds
from gpt2core.distill.acceptance import write_accepted
from gpt2core.distill.filters import filter_pairs
from gpt2core.distill.manifest import MANIFEST
from gpt2core.distill.shards import FILTERED, PAIRS, Shard, read, write
from gpt2core.files import read_json, write_json

BEGINNINGS, ENDS = ("ba", "de", "ki", "lo", "mu", "no", "pe", "ru"), ("ran", "sel", "tip", "vod", "xun")
VOCABULARY = [a + b for a in BEGINNINGS for b in ENDS]


def pair(context: str, first: int, second: int, **values: Any) -> dict[str, Any]:
    """A scored pair that all filters accept, except for `values`."""
    words = np.random.default_rng(zlib.crc32(context.encode())).choice(VOCABULARY, 12, replace=False)
    return {
        "id": f"{context}-{first:03d}-{second:03d}", "context": context, "round": 1, "first": first,
        "second": second, "sentence1": f"{' '.join(words)}?", "sentence2": f"{' '.join(words[::-1])}?",
        "length_ratio": 1.0, "forward": 0.9, "backward": 0.9, "rouge_l": 0.5, "numbers": True, "critic": 0.9,
    } | values  # fmt: skip


def folder(path: Path, rounds: Sequence[Sequence[dict[str, Any]]] | None = None) -> Path:
    """Write the scored pairs of each round in two shards, without accepted/.

    By default, of 60 contexts with a good pair and a hard negative.
    """
    entries = []
    for number, rows in enumerate([contexts(60)] if rounds is None else rounds, start=1):
        names = [f"r{number}-{shard:05d}-0000000000000000.parquet" for shard in range(2)]
        half = range(len(rows) // 2, len(rows))
        middle = next((n for n in half if rows[n]["context"] != rows[n - 1]["context"]), len(rows))
        for name, part in zip(names, (rows[:middle], rows[middle:]), strict=True):
            write(path / "pairs" / name, pa.Table.from_pylist(list(part), PAIRS))
        entries.append({"round": number, "shards": {"pairs": names}})
    write_json(path / MANIFEST, {"version": 1, "rounds": entries})
    return path


def with_accepted(path: Path, thresholds: Thresholds, rounds: Sequence[Sequence[dict[str, Any]]] | None = None) -> Path:
    values = read_json(folder(path, rounds) / MANIFEST)
    for entry in values["rounds"]:
        filtered = []
        for number, name in enumerate(entry["shards"]["pairs"]):
            filtered.append(Shard(str(path), "judged", entry["round"], number, "0" * 64))
            filtered[-1].write(filter_pairs(read(path / "pairs" / name), thresholds), FILTERED, [])
        entry |= write_accepted(path, entry["round"], filtered, thresholds) | {"thresholds": thresholds.model_dump()}
        entry["shards"]["judged"] = [shard.path.name for shard in filtered]
    write_json(path / MANIFEST, values)
    return path


def contexts(count: int, round: int = 1) -> list[dict[str, Any]]:
    """For each context, an accepted pair and a hard negative."""
    rows = []
    for number in range(count):
        name = f"r{round}-00000-{number:03d}"
        rows.append(pair(name, 0, 1, round=round))
        other = f"not {rows[-1]['sentence1']}"
        rows.append(pair(name, 0, 2, round=round, sentence2=other, forward=0.1, backward=0.2, rouge_l=0.7, critic=0.15))
    return rows
