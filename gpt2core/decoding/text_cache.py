"""A cache of generated texts, so that the same request to the same weights is decoded only once.

It is an SQLite file that the processes of a machine share. The key of a text is a hash of everything that determines it:
weights, attention, prompt, seed, EOS, and the decoding keys that its strategy reads.
"""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

import numpy as np
import torch

from gpt2core.adapters.lora import lora_layers
from gpt2core.config import DecodingConfig
from gpt2core.decoding import deciding, texts_of
from gpt2core.decoding.generate import generate
from gpt2core.files import cache_place
from gpt2core.model import GPT2
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import digest

FORMAT = 2  # increased when decoding changes the tokens of a request, or when the storage format changes
MOST = 64 * 2**20  # bytes of tokens; the oldest are deleted first
TOGETHER = 256  # rows per batch, limited by the memory of their KV caches
TABLE = "CREATE TABLE IF NOT EXISTS texts (number INTEGER PRIMARY KEY, key TEXT UNIQUE, tokens BLOB)"
SECONDS = 10.0  # timeout for a lock of another process

T = TypeVar("T")
Row = tuple[Sequence[int], DecodingConfig, int]  # prompt, configuration, seed

_bypassed = ContextVar("_bypassed", default=False)


@contextmanager
def bypassing_text_cache() -> Iterator[None]:
    """Bypass the cache, to time decoding."""
    token = _bypassed.set(True)
    try:
        yield
    finally:
        _bypassed.reset(token)


def generate_cached(
    model: GPT2, rows: Sequence[Row], *, eos: int | Sequence[int], tokenizer: Tokenizer
) -> list[list[int]]:
    """Return what `generate` returns for these rows, from the cache where possible; raise as `generate` does."""
    trains = any(parameter.requires_grad for parameter in model.parameters())
    if _bypassed.get() or trains:  # its current weights will not occur again
        return _generated(model, rows, eos, tokenizer)
    keys = _keys(model, rows, eos, tokenizer)
    texts = _with_store(lambda store: _read(store, keys)) or {}
    missing = [row for row, key in enumerate(keys) if key not in texts]
    if missing:
        generated = _generated(model, [rows[row] for row in missing], eos, tokenizer)
        new = {keys[row]: text for row, text in zip(missing, generated, strict=True)}
        _with_store(lambda store: _write(store, new))
        texts |= new
    return [texts[key] for key in keys]


def _generated(model: GPT2, rows: Sequence[Row], eos: int | Sequence[int], tokenizer: Tokenizer) -> list[list[int]]:
    """Generate the texts of all rows, at most TOGETHER at once."""
    texts: list[list[int]] = []
    size = max(1, TOGETHER // max(texts_of(config) for _, config, _ in rows))
    for start in range(0, len(rows), size):
        prompts, configs, seeds = zip(*rows[start : start + size], strict=True)
        texts += generate(model, prompts, configs, seeds=seeds, eos=eos, tokenizer=tokenizer)
    return texts


def _keys(model: GPT2, rows: Sequence[Row], eos: int | Sequence[int], tokenizer: Tokenizer) -> list[str]:
    scales = [(name, layer.scale) for name, layer in lora_layers(model)]  # not a tensor, so not in the digest
    weights = [model.wte.weight.device.type, digest(model), scales]
    ends = [eos] if isinstance(eos, int) else list(eos)
    shared = [FORMAT, torch.__version__, *weights, ends, tokenizer.digest, model.attention.model_dump()]
    start = hashlib.sha256(json.dumps(shared, sort_keys=True).encode())
    keys = []
    for prompt, config, seed in rows:
        key = start.copy()
        key.update(json.dumps([list(prompt), deciding(config), seed], sort_keys=True).encode())
        keys.append(key.hexdigest())
    return keys


def _with_store(use: Callable[[sqlite3.Connection], T]) -> T | None:
    """Return `use` of the open cache, or None if the cache cannot be opened; a damaged cache is replaced."""
    path = cache_place() / "texts.sqlite"
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(path, timeout=SECONDS)) as store, store:
                store.execute(TABLE)
                return use(store)
        except (sqlite3.OperationalError, OSError):
            return None
        except sqlite3.DatabaseError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return None


def _read(store: sqlite3.Connection, keys: Sequence[str]) -> dict[str, list[int]]:
    marks = ", ".join("?" * len(keys))
    rows = store.execute(f"SELECT key, tokens FROM texts WHERE key IN ({marks})", keys)
    return {key: ids for key, packed in rows if (ids := _unpacked(key, packed)) is not None}


def _packed(key: str, ids: Sequence[int]) -> bytes:
    """Return tokens as bytes with a checksum of key and tokens, to detect damaged or misplaced ones."""
    content = np.array(ids, np.int32).tobytes()
    return content + zlib.crc32(key.encode() + content).to_bytes(4)


def _unpacked(key: str, packed: object) -> list[int] | None:
    """Return the tokens of `_packed`, or None for invalid data."""
    if not isinstance(packed, bytes) or len(packed) < 4 or len(packed) % 4:
        return None
    ids: list[int] = np.frombuffer(packed[:-4], np.int32).tolist()
    return ids if _packed(key, ids) == packed else None


def _write(store: sqlite3.Connection, texts: dict[str, list[int]]) -> None:
    rows = [(key, _packed(key, ids)) for key, ids in texts.items()]
    store.executemany("INSERT OR REPLACE INTO texts (key, tokens) VALUES (?, ?)", rows)
    store.execute(
        "DELETE FROM texts WHERE number IN (SELECT number FROM "
        "(SELECT number, sum(length(tokens)) OVER (ORDER BY number DESC) AS upto FROM texts) WHERE upto > ?)",
        [MOST],
    )
