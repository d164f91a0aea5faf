"""The tokenizer against its own round trip and against Hugging Face's two file forms."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, strategies

from gpt2core.errors import WeightsError
from gpt2core.testing import toys
from gpt2core.tokenizer import Tokenizer, train_bpe
from gpt2core.weights import model_folder

TOY = toys.tokenizer()


@given(strategies.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    assert TOY.decode(TOY.encode([text])[0]) == text.replace("<|endoftext|>", "")


def test_vocab_and_merges_give_what_tokenizer_json_gives(tmp_path: Path) -> None:
    model = json.loads((model_folder("gpt2-nano") / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps({**model["vocab"], "<|endoftext|>": len(model["vocab"])}))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(merge) for merge in model["merges"]))
    parts, whole = Tokenizer.load(tmp_path), Tokenizer.load(model_folder("gpt2-nano"))
    texts = ["Shall I compare thee to a summer's day?\nThou art", "naïve — 日本"]
    assert parts.encode(texts) == whole.encode(texts)
    assert parts.eos == whole.eos


@pytest.mark.parametrize("size", [257, 280, 300])
def test_a_trained_vocabulary_has_the_size_asked_for_and_eos_last(size: int) -> None:
    words = train_bpe([toys.lines(50, seed) for seed in range(3)], size)
    assert words.backend.get_vocab_size() == size
    assert words.eos == size - 1


def test_missing_or_malformed_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has neither tokenizer.json nor vocab.json with merges.txt"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match=f"{tmp_path.name}/tokenizer.json: is not JSON"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(("vocab", "merges"), [("[]", "a b"), ('{"a": 0}', "a b"), ('{"a": 0, "b": 1}', "a b c d")])
def test_malformed_vocab_or_merges_are_refused(vocab: str, merges: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    words = f"{tmp_path.name}.*(the tokenizer files are malformed|is not a JSON object)"
    with pytest.raises(WeightsError, match=words):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_that_cannot_end_a_text_is_refused(tmp_path: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(WeightsError, match="has no <|endoftext|> token".replace("|", r"\|")):
        Tokenizer.load(tmp_path)


def test_characters_of_a_text_are_a_sum_over_its_tokens() -> None:
    for words in (toys.tokenizer(), Tokenizer.load(model_folder("gpt2-nano"))):
        for text in ("thy love", "\n  naïve \u2019tis — 愛 🌹\n\n\u00a0x\t\0", ""):
            (ids,) = words.encode([text])
            assert b"".join(words.pieces[token] for token in ids) == text.encode()
            assert words.characters[ids].sum() == len(text)
        assert words.pieces[words.eos] == b""
        assert len(words.pieces) == words.backend.get_vocab_size()
