"""Byte-level BPE, read from a Hugging Face folder by the `tokenizers` library (transformers itself takes 4 s to import)."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from gpt2core.errors import WeightsError

EOS = "<|endoftext|>"


def _letters() -> dict[str, int]:
    """The byte that each letter of a byte-level token stands for: those that print stand for themselves, as in GPT-2's."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _letters()


class Tokenizer:
    """Text to token numbers and back."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        eos = backend.token_to_id(EOS)
        if eos is None:
            raise WeightsError(f"The tokenizer has no {EOS} token, which ends every text of a GPT-2")
        self.backend = backend
        self.eos: int = eos
        self.digest = hashlib.sha256(backend.to_str().encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read tokenizer.json, or vocab.json with merges.txt; raise WeightsError where neither is whole."""
        whole, vocab, merges = (folder / n for n in ("tokenizer.json", "vocab.json", "merges.txt"))
        try:
            if whole.is_file():
                return cls(tokenizers.Tokenizer.from_file(str(whole)))
            if vocab.is_file() and merges.is_file():
                return cls(_from_parts(vocab, merges))
        except WeightsError:
            raise
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise WeightsError(f"{folder}: the tokenizer files are malformed ({error})") from None
        raise WeightsError(f"{folder}: there is no tokenizer.json, nor vocab.json with merges.txt")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, with nothing added."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts))]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token numbers, without special tokens."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each token's text, which those of a text are joined from; none of a special token."""
        added = self.backend.get_added_tokens_decoder()
        plain = {number: b"" if token.special else token.content.encode() for number, token in added.items()}
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        found = [b""] * (max(vocabulary.values()) + 1)
        for token, number in vocabulary.items():
            found[number] = plain[number] if number in plain else bytes(_BYTES.get(letter, 0) for letter in token)
        return found

    @functools.cached_property
    def characters(self) -> np.ndarray:
        """How many UTF-8 characters begin in each token (V,), so that those of a text are a sum over its tokens."""
        return np.array([sum(byte & 0xC0 != 0x80 for byte in piece) for piece in self.pieces])

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into `folder`."""
        self.backend.save(str(folder / "tokenizer.json"))


def _from_parts(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocab), str(merges)))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([EOS])
    return backend


def train_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of `vocab_size` entries, EOS the last of them as in GPT-2's own (Sennrich et al. 2016)."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([EOS])
    return Tokenizer(backend)
