"""A cache of generated texts: the same request to the same weights is looked up, not decoded again.

It is one SQLite file, shared by the processes of a machine. The key of a text is a hash of all that decides it: weights,
attention, prompt, seed, EOS, and the decoding keys that its strategy reads.
"""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from gpt2core.adapters.lora import lora_layers
from gpt2core.config import DecodingConfig
from gpt2core.decoding import deciding
from gpt2core.decoding.generate import generate
from gpt2core.files import cache_place
from gpt2core.model import GPT2
from gpt2core.weights import digest

FORMAT = 2  # raised when decoding comes to write other tokens of the same request, or they are kept in another way
MOST = 64 * 2**20  # bytes of tokens that are kept; the oldest leave first
TOGETHER = 256  # rows of a batch, whose keys and values of attention must have room
SECONDS = 10.0  # that a process waits for another one's writing

T = TypeVar("T")

_anew = ContextVar("_anew", default=False)


@contextmanager
def bypassing_text_cache() -> Iterator[None]:
    """Bypass the cache, to time decoding."""
    token = _anew.set(True)
    try:
        yield
    finally:
        _anew.reset(token)


def generate_cached(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    config: DecodingConfig | Sequence[DecodingConfig],
    *,
    seeds: Sequence[int],
    eos: int | Sequence[int],
) -> list[list[int]]:
    """As `generate`, but texts that the same weights have generated on this machine come from the cache.

    A model that trains bypasses the cache, since its current weights are never seen again.
    """
    if _anew.get() or any(parameter.requires_grad for parameter in model.parameters()):
        return generate(model, prompts, config, seeds=seeds, eos=eos)
    configs = [config] * len(prompts) if isinstance(config, DecodingConfig) else config
    keys = _keys(model, prompts, configs, seeds, eos)
    found = _with_store(lambda store: _read(store, keys)) or {}
    rows = [row for row, key in enumerate(keys) if key not in found]
    if rows:
        texts: list[list[int]] = []
        for part in (rows[start : start + TOGETHER] for start in range(0, len(rows), TOGETHER)):
            asked = ([prompts[row] for row in part], [configs[row] for row in part])
            texts += generate(model, *asked, seeds=[seeds[row] for row in part], eos=eos)
        new = {keys[row]: text for row, text in zip(rows, texts, strict=True)}
        _with_store(lambda store: _write(store, new))
        found |= new
    return [found[key] for key in keys]


def _keys(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    configs: Sequence[DecodingConfig],
    seeds: Sequence[int],
    eos: int | Sequence[int],
) -> list[str]:
    scales = [(name, layer.scale) for name, layer in lora_layers(model)]  # no tensor, so no part of the digest
    shared = [
        FORMAT,
        torch.__version__,
        model.wte.weight.device.type,
        digest(model),
        scales,
        [eos] if isinstance(eos, int) else list(eos),
    ]
    start = hashlib.sha256(json.dumps([*shared, model.attention.model_dump()], sort_keys=True).encode())
    keys = []
    for prompt, config, seed in zip(prompts, configs, seeds, strict=True):
        row = start.copy()
        row.update(json.dumps([list(prompt), deciding(config), seed], sort_keys=True).encode())
        keys.append(row.hexdigest())
    return keys


def _with_store(use: Callable[[sqlite3.Connection], T]) -> T | None:
    """Return what `use` gives of the cache; a damaged one is replaced, one that cannot be opened is bypassed."""
    path = cache_place() / "texts.sqlite"
    for _ in range(2):
        try:
            with closing(_opened(path)) as store, store:
                return use(store)
        except (sqlite3.OperationalError, OSError):
            return None
        except sqlite3.DatabaseError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return None


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    store = sqlite3.connect(path, timeout=SECONDS)
    store.execute("CREATE TABLE IF NOT EXISTS texts (number INTEGER PRIMARY KEY, key TEXT UNIQUE, tokens BLOB)")
    return store


def _read(store: sqlite3.Connection, keys: Sequence[str]) -> dict[str, list[int]]:
    marks = ", ".join("?" * len(keys))
    rows = store.execute(f"SELECT key, tokens FROM texts WHERE key IN ({marks})", keys)
    return {key: ids for key, kept in rows if (ids := _unpacked(key, kept)) is not None}


def _packed(key: str, ids: Sequence[int]) -> bytes:
    """Tokens with a checksum of them and their key, so that damaged or misplaced ones are noticed."""
    content = np.array(ids, np.int32).tobytes()
    return content + zlib.crc32(key.encode() + content).to_bytes(4)


def _unpacked(key: str, kept: object) -> list[int] | None:
    """The inverse of `_packed`; None for invalid data."""
    if not isinstance(kept, bytes) or len(kept) < 4 or len(kept) % 4:
        return None
    ids: list[int] = np.frombuffer(kept[:-4], np.int32).tolist()
    return ids if _packed(key, ids) == kept else None


def _write(store: sqlite3.Connection, texts: dict[str, list[int]]) -> None:
    rows = [(key, _packed(key, ids)) for key, ids in texts.items()]
    store.executemany("INSERT OR REPLACE INTO texts (key, tokens) VALUES (?, ?)", rows)
    store.execute(
        "DELETE FROM texts WHERE number IN (SELECT number FROM "
        "(SELECT number, sum(length(tokens)) OVER (ORDER BY number DESC) AS upto FROM texts) WHERE upto > ?)",
        [MOST],
    )
