"""Byte-level BPE, read from a Hugging Face folder with the `tokenizers` library (importing transformers takes 4 s).

A folder has the same tokens as in transformers, or is rejected: several files may configure a tokenizer, and transformers reads
different ones for different tokenizer classes.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken

from gpt2core.errors import WeightsError, first_line, shown
from gpt2core.foreign import check_values, is_there, read_json
from gpt2core.model_config import read_config, special_ids

EOS = "<|endoftext|>"
MAX_VOCABULARY = 2**24

#: Tokenizer classes of transformers that read a folder as this module does.
CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
FAST = ("PreTrainedTokenizerFast", "TokenizersBackend")

#: Supported values in tokenizer.json; other values make other tokens in some of the classes.
_PARTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "model": {
        "type": ("BPE",),
        "dropout": (None,),
        "continuing_subword_prefix": (None, ""),
        "end_of_word_suffix": (None, ""),
        "byte_fallback": (False,),
        "ignore_merges": (False,),
    },
    "pre_tokenizer": {"type": ("ByteLevel",), "add_prefix_space": (False,), "use_regex": (True,)},
    "decoder": {"type": ("ByteLevel",)},
}
#: Supported values in tokenizer_config.json.
_SETTINGS = {
    "tokenizer_class": (None, *CLASSES, *FAST),
    "auto_map": (None,),
    "add_prefix_space": (None, False),
    "split_special_tokens": (None, False),
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": (None, False),
}
#: Keys that name a special token, in the order in which transformers adds new ones.
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def _bytes_by_letter() -> dict[str, int]:
    """Return the byte of each letter of a byte-level token. As in GPT-2, printable bytes are their own letters."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _bytes_by_letter()


class Tokenizer:
    """Encodes and decodes texts. `eos` ends a text, `stops` end a generated text, `pad` pads a batch."""

    def __init__(
        self, backend: tokenizers.Tokenizer, end: str = EOS, stops: Sequence[int] = (), pad: str | None = None
    ) -> None:
        eos = backend.token_to_id(end)
        if eos is None:
            raise WeightsError(f"The tokenizer has no {end} token, which ends each text of GPT-2")
        self.backend = backend
        added = backend.get_added_tokens_decoder()
        ends = [eos] if eos in stops else [stop for stop in stops if stop in added and added[stop].special]
        # An ordinary token, such as a full stop, may stop generation, but does not end training texts.
        self.eos: int = [*ends, eos][0]
        self.stops: tuple[int, ...] = tuple(dict.fromkeys([*stops, self.eos]))
        padding = None if pad is None else backend.token_to_id(pad)
        self.pad: int = eos if padding is None else padding
        self.digest = hashlib.sha256(f"{backend.to_str()}\0{self.eos}".encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read the tokenizer of a folder as transformers does, and the stop tokens from the model's configuration.

        Raises WeightsError if a file is damaged, needs an unsupported feature, or names tokens that the model lacks.
        """
        settings = _settings(folder)
        backend = _from_files(folder, settings)
        end, pad = settings["eos_token"] or EOS, settings["pad_token"]
        if not is_there(folder / "config.json"):
            return cls(backend, end, pad=pad)
        size = read_config(folder).vocab_size
        largest = max(backend.get_vocab(with_added_tokens=True).values())
        if largest >= size:
            raise WeightsError(
                f"{folder}: the tokenizer has token numbers up to {largest}, but the `vocab_size` of the model is {size}; "
                "resize the embeddings, or use the tokenizer that the model was trained with"
            )
        stops = [number for number in special_ids(folder)["eos_token_id"] if number < size]
        return cls(backend, end, stops, pad)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token numbers of each text, without special tokens."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token numbers, without special tokens."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each token, empty for special tokens."""
        added = self.backend.get_added_tokens_decoder()
        plain = {number: b"" if token.special else token.content.encode() for number, token in added.items()}
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        pieces = [b""] * (max(vocabulary.values()) + 1)
        for token, number in vocabulary.items():
            pieces[number] = plain[number] if number in plain else bytes(_BYTES.get(letter, 0) for letter in token)
        return pieces

    @functools.cached_property
    def characters(self) -> np.ndarray:
        """The number of UTF-8 characters that start in each token (V,); summed over its tokens, those of a text."""
        return np.array([sum(byte & 0xC0 != 0x80 for byte in piece) for piece in self.pieces])

    def save(self, folder: Path) -> None:
        """Write tokenizer.json to `folder`."""
        self.backend.save(str(folder / "tokenizer.json"))


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder; `special` tokens are numbered in order, `added` ones are (number, token)."""
    path = folder / "tokenizer_config.json"
    values = read_json(path) if is_there(path) else {}
    check_values(path, values, _SETTINGS)
    declared = values.get("added_tokens_decoder")
    if not isinstance(declared or {}, dict):
        raise WeightsError(f"{path}: `added_tokens_decoder` must be an object")
    added = [(_number(path, number), _token(path, token)) for number, token in (declared or {}).items()]
    if declared is None:
        values, older = _with_older_files(folder, path, values)
        added += older
    names = list(_special(path, values))
    is_fast = values.get("tokenizer_class") in FAST
    return {
        "class": values.get("tokenizer_class"),
        "is_whole_list": declared is not None and not is_fast,
        "has_default": not is_fast and not {"bos_token", "eos_token", "unk_token"} <= values.keys(),
        "added": sorted(added, key=lambda item: item[0]),
        "special": [token for _, token in names],
        **{key: next((t.content for k, t in names if k == key), None) for key in ("eos_token", "pad_token")},
    }


def _with_older_files(
    folder: Path, path: Path, values: dict[str, Any]
) -> tuple[dict[str, Any], list[tuple[int, AddedToken]]]:
    """Add the settings of special_tokens_map.json and added_tokens.json; raise WeightsError."""
    names, numbers = folder / "special_tokens_map.json", folder / "added_tokens.json"
    later = read_json(names) if is_there(names) else {}
    for key in _EXTRA:
        if values.get(key) and later.get(key, values[key]) != values[key]:
            raise WeightsError(f"{names}: `{key}` differs from the list in {path.name}")
    # transformers does not see this list at this point.
    unseen = {} if values.get(_EXTRA[0]) else {_EXTRA[0]: None}
    special = {token.content for _, token in _special(names, values | later | unseen)}
    added = [
        (_number(numbers, number), AddedToken(text, normalized=text not in special, special=text in special))
        for text, number in (read_json(numbers) if is_there(numbers) else {}).items()
    ]
    return values | later, added


def _number(path: Path, number: object) -> int:
    """Return the number of a token, which may be a string in JSON; raise WeightsError."""
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 9:
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MAX_VOCABULARY:
        raise WeightsError(f"{path}: the number of a token is {shown(number)}, but must be 0 to {MAX_VOCABULARY - 1}")
    return number


def _token(path: Path, value: object, *, named: bool = False) -> AddedToken:
    """Return a declared token, given by its text or with flags; raise WeightsError. A `named` one is always special."""
    fields = {"content": value, "special": True} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("content"), str) or not fields["content"]:
        raise WeightsError(f"{path}: an added token is {shown(value)}, but must be a text or an object with `content`")
    flags = {key: fields[key] for key in _FLAGS if fields.get(key) is not None}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise WeightsError(f"{path}: the flags of the token {shown(fields['content'])} must be true or false")
    token = AddedToken(fields["content"], **flags)
    token.special = token.special or named
    return token


def _special(path: Path, values: Mapping[str, Any]) -> Iterator[tuple[str, AddedToken]]:
    """Yield the named special tokens with the keys that name them."""
    texts = [key for key, value in values.items() if key.endswith("_token") and isinstance(value, str)]
    for key in (*_NAMED, *(key for key in texts if key not in _NAMED)):
        if values.get(key) is not None:
            yield key, _token(path, values[key], named=True)
    if values.get(_EXTRA[0]) and values.get(_EXTRA[1]) and values[_EXTRA[0]] != values[_EXTRA[1]]:
        raise WeightsError(f"{path}: `{_EXTRA[0]}` and `{_EXTRA[1]}` are the same list, but differ")
    for key in _EXTRA:
        listed = values.get(key) or []
        if not isinstance(listed, list | dict):
            raise WeightsError(f"{path}: `{key}` must be a list of tokens")
        for value in listed.values() if isinstance(listed, dict) else listed:
            yield key, _token(path, value, named=True)


def _from_files(folder: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Read tokenizer.json, or vocab.json and merges.txt, and the tokens of the other files; raise WeightsError."""
    whole, vocab, merges = (folder / n for n in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not is_there(whole) and not (is_there(vocab) and is_there(merges)):
        raise WeightsError(f"{folder}: has neither tokenizer.json nor vocab.json with merges.txt")
    if not is_there(whole) and settings["class"] in FAST:
        raise WeightsError(f"{folder}: the tokenizer class {settings['class']} needs a tokenizer.json")
    try:
        backend = _from_whole(whole) if is_there(whole) else _from_parts(vocab, merges)
        _add(folder, backend, settings)
    except WeightsError:
        raise
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise WeightsError(f"{folder}: the tokenizer files are malformed ({first_line(error)})") from None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if not {EOS, settings["eos_token"]} & vocabulary.keys():
        raise WeightsError(f"{folder}: the tokenizer has no {EOS} token, which ends each text of GPT-2")
    kinds = [type(part).__name__ for part in (backend.model, backend.pre_tokenizer, backend.decoder)]
    if kinds != ["BPE", "ByteLevel", "ByteLevel"]:
        raise WeightsError(f"{folder}: the tokenizer must be a byte-level BPE like GPT-2's, but has {', '.join(kinds)}")
    if (largest := max(vocabulary.values())) >= MAX_VOCABULARY:
        raise WeightsError(f"{folder}: the tokenizer has the token number {largest}, above {MAX_VOCABULARY - 1}")
    if missing := sorted(set(_BYTES) - vocabulary.keys()):
        raise WeightsError(
            f"{folder}: the tokenizer has no token for {len(missing)} of 256 bytes, such as {missing[0]!r}"
        )
    return backend


def _from_whole(path: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer of tokenizer.json without padding, truncation and templates, which `encode` does not use."""
    values = read_json(path)
    check_values(path, values, {"normalizer": (None,)})
    for key, rules in _PARTS.items():
        check_values(path, values[key] if isinstance(values.get(key), dict) else {}, rules, f"{key}.")
    plain = values | {"padding": None, "truncation": None, "post_processor": None}
    backend = tokenizers.Tokenizer.from_str(json.dumps(plain))
    for token in values.get("added_tokens") or []:
        _check_number(path, backend, _number(path, token["id"]), token["content"])
    return backend


def _from_parts(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    read_json(vocab)  # checks the size of the file, unlike the library
    return _byte_level(tokenizers.models.BPE.from_file(str(vocab), str(merges)))


def _byte_level(model: tokenizers.models.BPE) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


def _add(folder: Path, backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """Add the tokens that files other than the vocabulary declare; raise WeightsError if files contradict each other."""
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for number, token in settings["added"]:
        other = known.setdefault(token.content, token)
        if other is token:
            backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])
        _check_alike(folder, token, other)
        _check_number(folder, backend, number, token.content)
    if settings["is_whole_list"] and (lost := known.keys() - {token.content for _, token in settings["added"]}):
        raise WeightsError(f"{folder}: tokenizer.json adds {shown(min(lost))}, but `added_tokens_decoder` does not")
    has_default = backend.token_to_id(EOS) is not None or not is_there(folder / "tokenizer.json")
    default = [AddedToken(EOS, special=True)] if settings["has_default"] and has_default else []
    named: dict[str, AddedToken] = {}
    for token in [*default, *settings["special"]]:
        _check_alike(folder, token, named.setdefault(token.content, token))
        other = known.setdefault(token.content, token)
        if other is token:
            backend.add_special_tokens([token])
        elif not other.special:
            raise WeightsError(f"{folder}: the token {shown(token.content)} is named as special, but not declared so")


def _check_alike(folder: Path, token: AddedToken, other: AddedToken) -> None:
    flags = [flag for flag in _FLAGS if flag != "normalized"]  # which has no effect without a normaliser
    if any(getattr(token, flag) != getattr(other, flag) for flag in flags):
        raise WeightsError(f"{folder}: the tokenizer files contradict each other about {shown(token.content)}")


def _check_number(path: Path, backend: tokenizers.Tokenizer, number: int, text: str) -> None:
    actual = backend.token_to_id(text)
    if actual != number:
        raise WeightsError(f"{path}: the token {shown(text)} is declared as number {number}, but gets number {actual}")


def train_bpe(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016) with `vocab_size` tokens; as in GPT-2, EOS is the last."""
    backend = _byte_level(tokenizers.models.BPE())
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([EOS])
    return Tokenizer(backend)
