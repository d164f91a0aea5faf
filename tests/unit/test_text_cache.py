"""Texts of a frozen model are cached by everything that determines them."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt2core.config import RunConfig
from gpt2core.decoding import text_cache
from gpt2core.model import GPT2
from gpt2core.tasks.sonnet import continuations, generate_ahead
from gpt2core.testing import toys
from gpt2core.training import train

GIVEN = [toys.lines(3, seed) for seed in range(3)]


class Decoder:
    def __init__(self) -> None:
        self.rows = 0

    def generate(self, model: GPT2, prompts: Sequence[Sequence[int]], *rest: object, **keys: object) -> list[list[int]]:
        self.rows += len(prompts)
        return generate(model, prompts, *rest, **keys)  # type: ignore[arg-type]

    def asked(self) -> int:
        rows, self.rows = self.rows, 0
        return rows


generate = text_cache.generate


@pytest.fixture
def decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Decoder:
    monkeypatch.setenv("GPT2_SEARCH_CACHE", str(tmp_path))
    counted = Decoder()
    monkeypatch.setattr(text_cache, "generate", counted.generate)
    return counted


def fixed(seed: int = 0) -> GPT2:
    return toys.model(seed).requires_grad_(False)


def write(model: GPT2, config: RunConfig = toys.RUN) -> list[list[str]]:
    return continuations(model, toys.tokenizer(), GIVEN, config)


def test_the_same_request_is_decoded_once(decoder: Decoder) -> None:
    first = write(fixed())
    assert decoder.asked() == 6
    assert write(fixed()) == first
    assert write(fixed(), toys.RUN.but(top_k=7, num_beams=9, lr=0.5)) == first  # no key that top-p reads
    assert decoder.asked() == 0
    more = write(fixed(), toys.RUN.but(decode_seeds=3))
    assert (decoder.asked(), more[:2]) == (3, first)


@pytest.mark.parametrize("change", [{"seed": 1}, {"top_p": 0.5}, {"max_new_tokens": 11}, {"decoder": "min-p"}], ids=str)
def test_another_seed_or_configuration_is_decoded(decoder: Decoder, change: dict[str, object]) -> None:
    first = write(fixed())
    assert write(fixed(), toys.RUN.but(**change)) != first
    assert decoder.asked() == 12


def test_other_weights_and_prompts_are_decoded(decoder: Decoder) -> None:
    model = fixed()
    first = write(model)
    with torch.no_grad():
        model.blocks[0].mlp_in.weight[0, 0] += 1.0
    write(model)
    continuations(model, toys.tokenizer(), [text + " rose" for text in GIVEN], toys.RUN)
    assert write(fixed(1)) != first
    assert decoder.asked() == 24


def test_trainable_models_and_timed_decoding_bypass_the_cache(decoder: Decoder) -> None:
    write(fixed())
    write(toys.model())
    with text_cache.bypassing_text_cache():
        write(fixed())
    assert decoder.asked() == 18


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.9])
def test_a_damaged_cache_is_replaced(decoder: Decoder, tmp_path: Path, share: float) -> None:
    first = write(fixed())
    path = tmp_path / "texts.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert write(fixed()) == first
    assert decoder.asked() == 12
    assert write(fixed()) == first
    assert decoder.asked() == 0


@pytest.mark.parametrize(
    "tokens", [b"abc", "a text", None, 5, b"", bytes(4), np.arange(12, dtype=np.int32).tobytes()], ids=repr
)
def test_damaged_texts_are_decoded_again(decoder: Decoder, tmp_path: Path, tokens: object) -> None:
    first = write(fixed())
    with sqlite3.connect(tmp_path / "texts.sqlite") as store:
        ((key, kept), *_) = store.execute("SELECT key, tokens FROM texts").fetchall()
        store.execute("UPDATE texts SET tokens = ? WHERE key = ?", (tokens, key))
        update = "UPDATE texts SET tokens = ? WHERE key = (SELECT max(key) FROM texts WHERE key != ?)"
        store.execute(update, (kept, key))
    decoder.asked()
    assert write(fixed()) == first
    assert decoder.asked() == 2
    assert write(fixed()) == first
    assert decoder.asked() == 0


def test_a_damaged_fixed_cache_is_ignored(decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(fixed())
    (tmp_path / "texts.sqlite").write_bytes(b"no database" * 100)

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refused)
    assert write(fixed()) == first


def test_the_oldest_texts_are_evicted(decoder: Decoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        text_cache, "MOST", 6 * (12 + 1) * 4
    )  # bytes of one evaluation: tokens, and a check sum of each text
    config = toys.RUN.but(decoder="greedy")
    write(fixed(0), config)
    write(fixed(1), config)
    decoder.asked()
    write(fixed(1), config)
    assert decoder.asked() == 0
    write(fixed(0), config)
    assert decoder.asked() > 0
    with sqlite3.connect(tmp_path / "texts.sqlite") as store:
        assert store.execute("SELECT sum(length(tokens)) FROM texts").fetchone()[0] <= text_cache.MOST


def test_texts_generated_ahead_are_found_by_each_configuration(decoder: Decoder) -> None:
    frozen = toys.RUN.but(adapter="frozen", epochs=1)
    configs = [frozen, frozen.but(decoder="greedy"), frozen.but(temperature=0.5, seed=3)]

    def written(config: RunConfig) -> list[dict[str, str]]:
        return next(train(config, toys.model(), toys.data())).evaluation.samples

    with text_cache.bypassing_text_cache():
        plain = [written(config) for config in configs]
    decoder.asked()
    generate_ahead(toys.model().requires_grad_(False), toys.data(), configs, "dev")
    assert decoder.asked() == 3 * 2 * 4, "settings, seeds, texts"
    assert [written(config) for config in configs] == plain
    assert decoder.asked() == 0
