"""What this project makes of a folder is what transformers and peft make of it, or one line that refuses it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from hypothesis import HealthCheck, given, settings, strategies
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model

from gpt2core.adapters.folder import load_adapter
from gpt2core.config import DecodingConfig
from gpt2core.decoding.generate import generate
from gpt2core.errors import UserError
from gpt2core.model import GPT2
from gpt2core.model_config import read_config, unused_decoding
from gpt2core.model_folder import load_folder, sort_classes
from gpt2core.testing import toys
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import load_model, save_model

pytestmark = [
    # peft 0.21 asks transformers 5 by an old name when it puts an adapter on a model.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
    pytest.mark.filterwarnings("ignore:The following .* keys did not match any targeted module:RuntimeWarning"),
]

SHAPE: dict[str, Any] = {"vocab_size": 320, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
TOY = toys.tokenizer()
EOS = TOY.eos  # the last of its tokens
ENDS = {"bos_token_id": EOS, "eos_token_id": EOS}
IDS = torch.arange(30).view(2, 15)

Change = Callable[[Path], None]


def made(folder: Path, kind: type = GPT2LMHeadModel, shard: str = "1GB", **changes: Any) -> Any:
    """A model of transformers at random weights, larger than at a usual start, and its folder."""
    torch.manual_seed(3)
    model = kind(GPT2Config(**{**SHAPE, **ENDS, **changes})).train(False)
    for parameter in model.parameters():
        parameter.data *= 3
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def edit(name: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        values = json.loads(path.read_text()) if path.is_file() else {}
        values = {key: value for key, value in (values | changes).items() if value is not None}
        path.write_text(json.dumps(values))

    return change


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Change:
    def write(folder: Path) -> None:
        name = next(path for path in folder.glob("*.safetensors"))
        found = load_file(name)
        change(found)
        save_file({key: tensor.contiguous().clone() for key, tensor in found.items()}, name, metadata={"format": "pt"})

    return write


def both(*changes: Change) -> Change:
    def write(folder: Path) -> None:
        for change in changes:
            change(folder)

    return write


def nothing(folder: Path) -> None:
    """The folder as it is."""


def each(change: Callable[[Tensor], Tensor]) -> Change:
    return tensors(lambda found: found.update({key: change(tensor) for key, tensor in found.items()}))


def head_alone(found: dict[str, Tensor]) -> None:
    found["lm_head.weight"] = found.pop("transformer.wte.weight")


def stale_index(folder: Path) -> None:
    GPT2LMHeadModel(GPT2Config(**SHAPE)).save_pretrained(folder / "old", max_shard_size="40KB")
    for path in (folder / "old").glob("model*"):
        path.rename(folder / path.name)


def refused(load: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


ALIASES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 64}
EQUAL: dict[str, tuple[dict[str, Any], Change]] = {
    "plain": ({}, nothing),
    "sharded": ({"shard": "20KB"}, nothing),
    "trunk alone": ({"kind": GPT2Model}, nothing),
    "old index beside it": ({}, stale_index),
    "head alone": ({}, tensors(head_alone)),
    "head beside": ({}, tensors(lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"]}))),
    "aliases": (
        {"n_head": 8},
        edit("config.json", n_embd=None, n_layer=None, n_head=None, n_positions=None, **ALIASES),
    ),
    "epsilon": ({"layer_norm_epsilon": 0.1}, nothing),
    "upcast": ({"reorder_and_upcast_attn": True}, nothing),
    "tanh form": ({"activation_function": "gelu_pytorch_tanh"}, nothing),
    "inner as usual": ({"n_inner": 128}, nothing),
    "dropouts": ({"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5}, nothing),
    "half": ({}, each(lambda tensor: tensor.half())),
    "bfloat16": ({}, each(lambda tensor: tensor.bfloat16())),
    "masks": ({}, tensors(lambda t: t.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64)}))),
    "one block": ({"n_layer": 1}, nothing),
    "kind by its class": ({}, edit("config.json", model_type=None)),
    "kind by its keys": ({}, edit("config.json", model_type=None, architectures=None)),
}


@pytest.mark.parametrize(("build", "change"), EQUAL.values(), ids=EQUAL.keys())
@torch.no_grad()
def test_logits_are_those_of_transformers(build: dict[str, Any], change: Change, tmp_path: Path) -> None:
    made(tmp_path, **build)
    change(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32).train(False)
    ours = load_model(str(tmp_path))
    torch.testing.assert_close(ours.logits(ours(IDS)), theirs(IDS).logits, atol=2e-5, rtol=0)


REFUSED: dict[str, tuple[dict[str, Any], Change, str]] = {
    "erf form": ({"activation_function": "gelu"}, nothing, "activation_function"),
    "relu": ({"activation_function": "relu"}, nothing, "activation_function"),
    "narrow": ({"n_inner": 64}, nothing, "n_inner"),
    "unscaled": ({"scale_attn_weights": False}, nothing, "scale_attn_weights"),
    "by block": ({"scale_attn_by_inverse_layer_idx": True}, nothing, "scale_attn_by_inverse_layer_idx"),
    "cross": ({"add_cross_attention": True}, nothing, "add_cross_attention"),
    "untied": ({"tie_word_embeddings": False}, nothing, "tie_word_embeddings"),
    "another head": (
        {},
        tensors(lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1})),
        "lm_head.weight",
    ),
    "quantised": ({}, edit("config.json", quantization_config={"quant_method": "gptq"}), "quantization_config"),
    "pruned": ({}, edit("config.json", pruned_heads={"0": [1]}), "pruned_heads"),
    "own code": ({}, edit("config.json", auto_map={"AutoModel": "code.Model"}), "auto_map"),
    "no kind": ({}, edit("config.json", model_type=None, architectures=["GPTNeoForCausalLM"]), "model_type"),
    "two names": ({}, edit("config.json", num_attention_heads=8), "num_attention_heads"),
    "fewer blocks": ({}, edit("config.json", n_layer=1), "n_layer"),
    "window": ({}, edit("config.json", sliding_window=4), "`sliding_window` is 4, but must be None"),
    "chunks": ({}, edit("config.json", attention_chunk_size=4), "attention_chunk_size"),
    "kinds of blocks": ({}, edit("config.json", layer_types=["sliding_attention"] * 2), "layer_types"),
    "both ways": ({}, edit("config.json", is_causal=False), "is_causal"),
    "more blocks": ({}, edit("config.json", n_layer=10**9), "n_layer"),
    "wide": ({}, edit("config.json", n_embd=6 * 10**12, n_head=1), "n_embd"),
    "many words": ({}, edit("config.json", vocab_size=10**18), "vocab_size"),
    "long": ({}, edit("config.json", n_positions=10**12), "n_positions"),
    "no head": ({}, edit("config.json", n_head=0), "n_head"),
    "half a head": ({}, edit("config.json", n_head=2.0), "n_head"),
    "true": ({}, edit("config.json", n_layer=True), "n_layer"),
    "number in text": ({}, edit("config.json", n_layer="2"), "n_layer"),
    "digits": ({}, lambda f: (f / "config.json").write_text('{"n_layer": ' + "9" * 5000 + "}") and None, "config.json"),
    "deep": ({}, lambda f: (f / "config.json").write_text("[" * 10**5 + "]" * 10**5) and None, "config.json"),
    "bytes": ({}, lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}") and None, "config.json"),
    "a folder": ({}, lambda f: (f / "config.json").rename(f / "c") and (f / "config.json").mkdir(), "config.json"),
    "eight bits": ({}, each(lambda tensor: tensor.to(torch.int8)), "int8"),
    "left over": ({}, tensors(lambda t: t.update({"transformer.h.0.extra": torch.ones(2)})), "h.0.extra"),
    "twice": ({}, tensors(lambda t: t.update({"wte.weight": t["transformer.wte.weight"]})), "twice"),
    "a number": ({}, tensors(lambda t: t.update({"transformer.ln_f.weight": torch.tensor(1.0)})), "ln_f.weight"),
    "no header": ({}, lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 8) and None, "model.safetensors"),
    "shard missing": ({"shard": "20KB"}, lambda f: next(f.glob("model-*")).unlink(), "no such file"),
    "shard outside": (
        {},
        both(
            lambda f: (f / "model.safetensors").unlink(),
            edit("model.safetensors.index.json", weight_map={"a": "../x.safetensors"}),
        ),
        "stay in the folder",
    ),
}


@pytest.mark.parametrize(("build", "change", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_other_formulas_and_bad_files_fail(build: dict[str, Any], change: Change, words: str, tmp_path: Path) -> None:
    made(tmp_path, **build)
    change(tmp_path)
    line = refused(lambda: load_model(str(tmp_path)))
    assert words in line
    assert str(tmp_path) in line


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)

    def closed(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    assert "config.json: cannot be read (Permission denied)" in refused(lambda: read_config(tmp_path))


# --- where a text ends


@pytest.fixture(scope="module")
def greedy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A folder, and what its model writes behind a prompt where nothing ends it."""
    folder = tmp_path_factory.mktemp("greedy")
    model = made(folder)
    TOY.save(folder)
    written = model.generate(IDS[1:], max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
    return folder, written[0, 15:].tolist()


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("listed", [False, True], ids=["one", "list"])
@pytest.mark.parametrize("decoding", [{"strategy": "greedy"}, {"strategy": "beam", "num_beams": 3}], ids=str)
def test_a_text_ends_where_transformers_ends_it(
    file: str, listed: bool, decoding: dict[str, Any], greedy: tuple[Path, list[int]], tmp_path: Path
) -> None:
    source, text = greedy
    for path in source.iterdir():
        (tmp_path / path.name).symlink_to(path)
    named: Any = [text[9], text[6], 5000] if listed else text[6]
    for name in ("config.json", "generation_config.json"):
        values = json.loads((source / name).read_text()) | {"eos_token_id": named if name == file else text[12]}
        (tmp_path / name).unlink()
        if name == file or file == "generation_config.json":
            (tmp_path / name).write_text(json.dumps(values))
    if not (tmp_path / "config.json").exists():
        pytest.fail("what this test is about")
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path)
    beams = decoding.get("num_beams", 1)
    expected = theirs.generate(IDS[1:], max_new_tokens=30, do_sample=False, num_beams=beams, pad_token_id=0)[0, 15:]
    stops = Tokenizer.load(tmp_path).stops
    config = DecodingConfig(max_new_tokens=30, **decoding)
    (new,) = generate(load_model(str(tmp_path)), IDS[1:].tolist(), config, seeds=[1], eos=stops)
    ends = [place for place, token in enumerate(expected.tolist()) if token in stops]
    assert new == expected.tolist()[: ends[0] if ends else 30]
    if beams == 1:
        assert len(new) <= 6, "what this test is about"


def test_a_text_ends_with_the_tokenizers_own_token_where_the_model_has_none_of_the_named(tmp_path: Path) -> None:
    made(tmp_path, bos_token_id=50256, eos_token_id=50256)
    TOY.save(tmp_path)
    found = Tokenizer.load(tmp_path)
    assert (found.stops, found.eos) == ((EOS,), EOS)
    save_model(load_model(str(tmp_path)), tmp_path / "out", tokenizer_from=tmp_path)
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "out").generation_config.eos_token_id == [EOS]


def test_an_ordinary_token_ends_a_text_but_none_that_is_learnt(tmp_path: Path) -> None:
    made(tmp_path, eos_token_id=[13, 11])
    TOY.save(tmp_path)
    found = Tokenizer.load(tmp_path)
    assert (found.stops, found.eos) == ((13, 11, EOS), EOS)
    save_model(load_model(str(tmp_path)), tmp_path / "out", tokenizer_from=tmp_path)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == [13, 11], "what the base says"
    assert GPT2LMHeadModel.from_pretrained(tmp_path / "out").generation_config.eos_token_id == [13, 11, EOS]


@pytest.mark.parametrize("value", ["319", [1, "2"], {"a": 1}, 1.5, True])
def test_an_end_that_is_no_token_is_refused(value: object, tmp_path: Path) -> None:
    made(tmp_path)
    TOY.save(tmp_path)
    edit("generation_config.json", eos_token_id=value)(tmp_path)
    assert "eos_token_id" in refused(lambda: Tokenizer.load(tmp_path))


def test_what_a_folder_says_of_decoding_is_named_as_not_used(tmp_path: Path) -> None:
    made(tmp_path)
    assert unused_decoding(tmp_path) == "", "special tokens, and what chooses no text"
    edit("generation_config.json", repetition_penalty=1.3, top_p=0.9, min_length=None)(tmp_path)
    said = unused_decoding(tmp_path)
    assert "generation_config.json: ignored: `repetition_penalty`, `top_p`; the settings of the run decide" in said


# --- tokens

TEXTS = [
    "Shall I compare thee to a summer's day?\nThou art",
    "thy love [SEP] is as[SEP]a rose [PAD] <|endoftext|> never", "naïve — 日本 🌹", "[EOS]", "  two  spaces ", "",
]  # fmt: skip
PLAIN = "GPT2Tokenizer"


def special(number: int, **flags: Any) -> dict[str, Any]:
    """A token as tokenizer_config.json declares it."""
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True} | flags
    return {str(number): {"content": flags.pop("content"), **flags}}


OLDER = {"content": "<|endoftext|>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
END = special(EOS, content="<|endoftext|>")


def whole(**changes: Any) -> Change:
    def write(folder: Path) -> None:
        TOY.save(folder)
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return write


def parts(folder: Path) -> None:
    model = json.loads(TOY.backend.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"] | {"<|endoftext|>": len(model["vocab"])}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in model["merges"]))


def fast(change: Callable[[Any], Any]) -> Change:
    """What transformers writes of a tokenizer that was used and changed."""

    def write(folder: Path) -> None:
        (folder / "made").mkdir()
        TOY.save(folder / "made")
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder / "made", eos_token="<|endoftext|>")
        change(tokenizer)
        tokenizer.save_pretrained(folder)

    return write


def padded(tokenizer: Any) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer(["thy love is", "a"], padding="max_length", max_length=8, truncation=True)


def model_of(**changes: Any) -> Change:
    def write(folder: Path) -> None:
        values = json.loads(TOY.backend.to_str())
        (folder / "tokenizer.json").write_text(json.dumps(values | {"model": values["model"] | changes}))

    return write


PADDING = {
    "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": EOS, "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}  # fmt: skip
CUTTING = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
TEMPLATE = json.loads(
    tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", EOS)]
    ).__getstate__()
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
SAME_TOKENS: dict[str, Change] = {
    "whole": whole(),
    "whole of GPT-2's class": both(whole(), edit("tokenizer_config.json", tokenizer_class=PLAIN)),
    "padding and truncation": whole(padding=PADDING, truncation=CUTTING),
    "template": whole(post_processor=TEMPLATE),
    "bytes": whole(post_processor=BYTES, pre_tokenizer=BYTES),
    "used with padding": fast(padded),
    "with tokens": fast(lambda t: t.add_tokens(["[SEP]", " rose"])),
    "with special tokens": fast(lambda t: t.add_special_tokens({"pad_token": "[PAD]", "sep_token": "[SEP]"})),
    "with extra tokens": fast(lambda t: t.add_special_tokens({"additional_special_tokens": ["[EOS]", "[SEP]"]})),
    "parts": parts,
    "parts with added tokens": both(
        parts, edit("added_tokens.json", **{"[PAD]": EOS + 1, "[SEP]": EOS + 2, "[EOS]": EOS + 3})
    ),
    "parts with named tokens": both(
        parts,
        edit("added_tokens.json", **{"[PAD]": EOS + 1, "[SEP]": EOS + 2}),
        edit("special_tokens_map.json", pad_token="[PAD]", sep_token={"content": "[SEP]", "lstrip": True}),
    ),
    "parts with declared tokens": both(
        parts,
        edit(
            "tokenizer_config.json",
            added_tokens_decoder=END | special(EOS + 1, content="[SEP]", lstrip=True, special=False),
        ),
    ),
    "parts with an older map": both(
        parts,
        edit("added_tokens.json", **{"[PAD]": EOS + 1}),
        edit(
            "special_tokens_map.json",
            pad_token="[PAD]",
            **dict.fromkeys(("bos_token", "eos_token", "unk_token"), OLDER),
        ),
    ),
    "whole with an older map": both(
        whole(), edit("special_tokens_map.json", pad_token=OLDER, bos_token=OLDER, eos_token=OLDER, unk_token=OLDER)
    ),
    "parts with names alone": both(parts, edit("tokenizer_config.json", pad_token="[PAD]", sep_token="[SEP]")),
    "names alone": both(
        whole(), edit("tokenizer_config.json", pad_token="[PAD]", cls_token="[SEP]", tokenizer_class=PLAIN)
    ),
    "whole with declared tokens": both(
        whole(), edit("tokenizer_config.json", added_tokens_decoder=END | special(EOS + 1, content="[SEP]"))
    ),
    "bos is asked for": both(whole(), edit("tokenizer_config.json", add_bos_token=True, tokenizer_class=PLAIN)),
    "cleaned": both(whole(), edit("tokenizer_config.json", clean_up_tokenization_spaces=True)),
    "old form": model_of(continuing_subword_prefix="", end_of_word_suffix=""),
    "another end": both(
        parts, edit("added_tokens.json", **{"[EOS]": EOS + 1}), edit("tokenizer_config.json", eos_token="[EOS]")
    ),
}
OTHER_TOKENS: dict[str, tuple[Change, str]] = {
    "prefix": (both(whole(), edit("tokenizer_config.json", add_prefix_space=True)), "add_prefix_space"),
    "prefix in whole": (whole(pre_tokenizer=BYTES | {"add_prefix_space": True}), "add_prefix_space"),
    "no regex": (whole(pre_tokenizer=BYTES | {"use_regex": False}), "use_regex"),
    "white space": (whole(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer.type"),
    "sequence": (whole(pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTES]}), "pre_tokenizer.type"),
    "none": (whole(pre_tokenizer=None), "byte-level BPE"),
    "lower case": (whole(normalizer={"type": "Lowercase"}), "normalizer"),
    "plain decoder": (whole(decoder=None), "byte-level BPE"),
    "dropout": (model_of(dropout=0.1), "model.dropout"),
    "word pieces": (model_of(type="WordPiece"), "model.type"),
    "suffix": (model_of(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "byte fallback": (model_of(byte_fallback=True), "byte_fallback"),
    "ignored merges": (model_of(ignore_merges=True), "ignore_merges"),
    "no bytes": (model_of(vocab={"a": 0, "<|endoftext|>": EOS}, merges=[]), "of 256 bytes"),
    "negative": (model_of(vocab={"a": -1}, merges=[]), "tokenizer"),
    "far": (
        model_of(vocab={**json.loads(TOY.backend.to_str())["model"]["vocab"], "<|endoftext|>": EOS, "far": 2**31}),
        "above",
    ),
    "another class": (both(whole(), edit("tokenizer_config.json", tokenizer_class="BertTokenizer")), "tokenizer_class"),
    "own code": (both(whole(), edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["a", "b"]})), "auto_map"),
    "split": (both(whole(), edit("tokenizer_config.json", split_special_tokens=True)), "split_special_tokens"),
    "other numbers": (both(parts, edit("added_tokens.json", **{"[SEP]": 400})), "declared as number 400"),
    "no numbers": (both(parts, edit("added_tokens.json", **{"[SEP]": "x"})), "number of a token"),
    "two ways": (
        both(
            whole(),
            edit("tokenizer_config.json", added_tokens_decoder=special(EOS, content="<|endoftext|>", lstrip=True)),
        ),
        "contradict each other",
    ),
    "not declared": (
        both(
            fast(lambda t: t.add_tokens(["[SEP]"])),
            edit("tokenizer_config.json", tokenizer_class=PLAIN, added_tokens_decoder=END),
        ),
        "adds '[SEP]'",
    ),
    "no merges": (both(parts, lambda folder: (folder / "merges.txt").unlink()), "merges.txt"),
    "no parts of this class": (
        both(parts, edit("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")),
        "tokenizer.json",
    ),
    "list": (lambda folder: (folder / "tokenizer.json").write_text("[]") and None, "JSON object"),
    "deep": (lambda folder: (folder / "tokenizer.json").write_text("[" * 10**5) and None, "nested"),
}


def model_for_tokens(folder: Path) -> None:
    edit("config.json", **(SHAPE | {"vocab_size": 330, "model_type": "gpt2", "eos_token_id": EOS}))(folder)


@pytest.mark.parametrize("write", SAME_TOKENS.values(), ids=SAME_TOKENS.keys())
def test_tokens_are_those_of_transformers(write: Change, tmp_path: Path) -> None:
    model_for_tokens(tmp_path)
    write(tmp_path)
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    expected = [theirs(text, add_special_tokens=False, padding=False, truncation=False).input_ids for text in TEXTS]
    assert ours.encode(TEXTS) == expected
    for ids in expected:
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert all(len(ours.pieces[token]) < 40 for ids in expected for token in ids)


@pytest.mark.parametrize(("write", "words"), OTHER_TOKENS.values(), ids=OTHER_TOKENS.keys())
def test_other_tokens_are_refused(write: Change, words: str, tmp_path: Path) -> None:
    model_for_tokens(tmp_path)
    write(tmp_path)
    assert words in refused(lambda: Tokenizer.load(tmp_path))


def test_more_tokens_than_the_model_has_are_refused_with_both_sizes(tmp_path: Path) -> None:
    made(tmp_path, vocab_size=EOS + 1)
    parts(tmp_path)
    edit("added_tokens.json", **{"[PAD]": EOS + 1})(tmp_path)
    line = refused(lambda: Tokenizer.load(tmp_path))
    assert f"token numbers up to {EOS + 1}" in line
    assert f"`vocab_size` of the model is {EOS + 1}" in line
    with pytest.raises(UserError, match=f"the token {EOS + 1}, but the model has the tokens 0 to {EOS}"):
        generate(load_model(str(tmp_path)), [[1, EOS + 1]], DecodingConfig(), seeds=[1], eos=3)


# --- export


@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_an_export_keeps_the_bases_tokens_and_no_old_weights(classes: int, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    made(base, vocab_size=330, bos_token_id=EOS + 2, eos_token_id=[EOS, EOS + 1])
    both(
        parts,
        edit("added_tokens.json", **{"[SEP]": EOS + 1, "[PAD]": EOS + 2}),
        edit("tokenizer_config.json", pad_token="[PAD]"),
    )(base)
    made(out, shard="20KB")
    (out / "adapter_config.json").write_text("{}")
    model = load_model(str(base))
    if classes:
        model.head = torch.nn.Linear(32, classes, bias=False)
    save_model(model, out, tokenizer_from=base)
    assert {path.suffix for path in out.iterdir()} <= {".json", ".txt", ".safetensors"}
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]
    assert not (out / "adapter_config.json").exists()
    values = json.loads((out / "config.json").read_text())
    assert (values["bos_token_id"], values["eos_token_id"]) == (EOS + 2, [EOS, EOS + 1])
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [EOS, EOS + 1]
    ours, theirs = Tokenizer.load(out), AutoTokenizer.from_pretrained(out)
    assert ours.encode(TEXTS) == [theirs(text).input_ids for text in TEXTS] == Tokenizer.load(base).encode(TEXTS)
    assert ours.stops == (EOS, EOS + 1)
    if classes:
        classifier = GPT2ForSequenceClassification.from_pretrained(out).train(False)
        assert classifier.config.pad_token_id == EOS + 2
        texts = ["thy love is a rose", "never"]
        together = classifier(**theirs(texts, padding=True, return_tensors="pt")).logits
        alone = torch.cat([classifier(**theirs([text], return_tensors="pt")).logits for text in texts])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    else:
        again = GPT2LMHeadModel.from_pretrained(out).train(False)
        torch.testing.assert_close(again(IDS).logits, model.logits(model(IDS)), atol=2e-5, rtol=0)


# --- classes

LABELS = {0: "POSITIVE", 1: "NEGATIVE"}


@torch.no_grad()
def test_classes_are_taken_by_their_names(tmp_path: Path) -> None:
    theirs = made(tmp_path, GPT2ForSequenceClassification, id2label=LABELS, label2id={v: k for k, v in LABELS.items()})
    model = sort_classes(load_folder(tmp_path).model, ("negative", "positive"))
    scores = model.head(model(IDS[:1])[:, -1])  # type: ignore[misc]
    torch.testing.assert_close(scores.flip(-1), theirs(IDS[:1]).logits, atol=1e-5, rtol=0)


def test_numbered_classes_are_in_order_and_other_names_are_refused(tmp_path: Path) -> None:
    made(tmp_path, GPT2ForSequenceClassification, num_labels=2)
    model = load_folder(tmp_path).model
    before = model.head.weight.clone()  # type: ignore[union-attr]
    assert torch.equal(sort_classes(model, ("no", "yes")).head.weight, before)  # type: ignore[union-attr]
    edit("config.json", id2label={"0": "0", "1": "1"})(tmp_path)
    assert not load_folder(tmp_path).model.class_names
    edit("config.json", id2label={"0": "spam", "1": "ham"})(tmp_path)
    line = refused(lambda: sort_classes(load_folder(tmp_path).model, ("no", "yes")))
    assert "'spam', 'ham'" in line
    assert "'no', 'yes'" in line
    for labels in ({"0": "a"}, {"0": "a", "7": "b"}, ["a", "b"], {"0": 1, "1": 2}):
        edit("config.json", id2label=labels)(tmp_path)
        assert "id2label" in refused(lambda: load_folder(tmp_path))


# --- adapters

PLAIN_LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"], "fan_in_fan_out": True}
Q, P, F = "transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_proj", "transformer.h.1.mlp.c_fc"
ALL = ["c_attn", "c_proj", "c_fc"]
AS_PEFT: dict[str, dict[str, Any]] = {
    "plain": {}, "mlp": {"target_modules": ["c_fc", "mlp.c_proj"]}, "rslora": {"use_rslora": True},
    "dora": {"use_dora": True}, "dora, all": {"use_dora": True, "target_modules": "all-linear"},
    "alpha by full name": {"alpha_pattern": {Q: 32}}, "alpha by anchored name": {"alpha_pattern": {f"^{Q}": 32}},
    "alpha by end": {"alpha_pattern": {"h.0.attn.c_attn": 32, "c_attn": 16}},
    "alpha of a middle": {"alpha_pattern": {"attn": 32, "0.attn": 16}},
    "alpha by expression": {"alpha_pattern": {r".*\.[0-9]\.attn\.c_attn": 32}},
    "first of two": {"alpha_pattern": {"c_attn": 16, Q: 32}},
    "alpha of one digit": {"alpha_pattern": {r"h\.\d+\.attn\.(c_attn|c_proj)": 3.5}},
    "ranks": {"rank_pattern": {Q: 2, "c_fc": 6}, "target_modules": ALL, "alpha_pattern": {"c_fc": 1}},
    "ranks with rslora": {"rank_pattern": {f"^{Q}$": 2}, "use_rslora": True},
    "one block": {"layers_to_transform": 1}, "blocks": {"layers_to_transform": [0], "layers_pattern": "h"},
    "blocks of several": {"layers_to_transform": [0], "layers_pattern": ["x", "h"]},
    "blocks of a choice": {"target_modules": [Q, "c_fc"], "layers_to_transform": [1], "layers_pattern": "h|x"},
    "full names": {"target_modules": [Q, P]},
    "full name of another block": {"target_modules": [Q, "c_proj"], "layers_to_transform": [1]},
    "expression": {"target_modules": r".*\.(c_attn|c_fc)"},
    "expression of a block": {"target_modules": r"transformer\.h\.[1-9]\..*c_attn"},
    "all": {"target_modules": "all-linear"},
    "excluded": {"target_modules": ALL, "exclude_modules": ["mlp.c_proj"]},
    "excluded by expression": {"target_modules": "all-linear", "exclude_modules": r".*\.mlp\..*"},
    "peft's choice": {"target_modules": None}, "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"}, "random": {"init_lora_weights": False},
    "negative alpha": {"lora_alpha": -3}, "dropout": {"lora_dropout": 0.5},
}  # fmt: skip
NOT_AS_PEFT: dict[str, tuple[dict[str, Any], str]] = {
    "bias": ({"lora_bias": True}, "lora_bias"),
    "biases": ({"bias": "lora_only"}, "without biases"),
    "all biases": ({"bias": "all"}, "without biases"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights"),
    "embeddings": ({"target_modules": ["c_attn", "wte"]}, "belongs to no"),
    "head": ({"target_modules": ["c_attn", "lm_head"]}, "belongs to no"),
    "saved": ({"modules_to_save": ["ln_f"]}, "modules_to_save"),
    "saved embeddings": ({"modules_to_save": ["wte"]}, "modules_to_save"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    "invoked": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
}


def adapter(folder: Path, config: Any, kind: type = GPT2LMHeadModel, **changes: Any) -> PeftModel:
    """An adapter of peft whose pairs moved, saved, with the folder of its base beside it."""
    made(folder / "base", kind, **changes)
    base = kind.from_pretrained(folder / "base").train(False)  # type: ignore[attr-defined]
    model = get_peft_model(base, config).train(False)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name or "trainable_tokens" in name:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder / "adapter")
    return model


def folded(folder: Path) -> GPT2:
    return load_adapter(folder / "adapter", load_model(str(folder / "base")))


def loaded(folder: Path, kind: Any = GPT2LMHeadModel) -> Any:
    return PeftModel.from_pretrained(kind.from_pretrained(folder / "base"), folder / "adapter").train(False)


@pytest.mark.parametrize("keys", AS_PEFT.values(), ids=AS_PEFT.keys())
@torch.no_grad()
def test_an_adapter_is_what_peft_makes_of_it(keys: dict[str, Any], tmp_path: Path) -> None:
    adapter(tmp_path, LoraConfig(**{"task_type": "CAUSAL_LM", **PLAIN_LORA, **keys}))
    ours = folded(tmp_path)
    found = ours.logits(ours(IDS))
    torch.testing.assert_close(found, loaded(tmp_path)(IDS).logits, atol=5e-4, rtol=1e-4)
    base = load_model(str(tmp_path / "base"))
    assert (found - base.logits(base(IDS))).abs().max() > 0.01, "what this test is about"


@pytest.mark.parametrize("kind", [GPT2Model, GPT2LMHeadModel])
@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", None])
@torch.no_grad()
def test_the_trunk_may_be_adapted_without_its_head(kind: type, task: str | None, tmp_path: Path) -> None:
    pattern = {"h.0.attn.c_attn": 32, "transformer.h.1.attn.c_attn": 2}
    adapter(tmp_path, LoraConfig(task_type=task, **PLAIN_LORA, alpha_pattern=pattern), kind)
    theirs = loaded(tmp_path, kind)(IDS)
    ours = folded(tmp_path)(IDS)
    expected = theirs.last_hidden_state if kind is GPT2Model else None
    if expected is not None:
        torch.testing.assert_close(ours, expected, atol=5e-4, rtol=1e-4)
    else:
        torch.testing.assert_close(folded(tmp_path).logits(ours), theirs.logits, atol=5e-4, rtol=1e-4)


@torch.no_grad()
def test_an_adapter_of_classes_brings_its_head(tmp_path: Path) -> None:
    adapter(tmp_path, LoraConfig(task_type="SEQ_CLS", **PLAIN_LORA), GPT2ForSequenceClassification, num_labels=3)
    theirs = loaded(tmp_path, GPT2ForSequenceClassification)(IDS[1:]).logits
    ours = folded(tmp_path)
    torch.testing.assert_close(ours.head(ours(IDS[1:])[:, -1]), theirs, atol=5e-4, rtol=1e-4)  # type: ignore[misc]
    edit("adapter_config.json", task_type="CAUSAL_LM", modules_to_save=None)(tmp_path / "adapter")
    assert "there is a head" in refused(lambda: folded(tmp_path))


@pytest.mark.parametrize(("keys", "words"), NOT_AS_PEFT.values(), ids=NOT_AS_PEFT.keys())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_that_does_more_is_refused(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    adapter(tmp_path, LoraConfig(**{"task_type": "CAUSAL_LM", **PLAIN_LORA, **keys}))
    assert words in refused(lambda: folded(tmp_path))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_another_kind_of_adapter_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path, IA3Config(task_type="CAUSAL_LM", target_modules=["c_fc"], feedforward_modules=[]))
    assert "must describe a LoRA adapter" in refused(lambda: folded(tmp_path))


A, B = f"base_model.model.{Q}.lora_A.weight", f"base_model.model.{Q}.lora_B.weight"
SLOW = "(" * 20 + "(.*)*" + ")*" * 20 + "x"
BROKEN: dict[str, tuple[Change, str]] = {
    "alpha in words": (edit("adapter_config.json", lora_alpha="x"), "lora_alpha"),
    "alpha of text": (edit("adapter_config.json", alpha_pattern={"c_attn": "32"}), "alpha_pattern"),
    "rank of nothing": (edit("adapter_config.json", r=0), "`r`"),
    "other rank": (edit("adapter_config.json", r=3), "its rank is 3"),
    "bad pattern": (edit("adapter_config.json", alpha_pattern={"(": 2}), "regular expression"),
    "bad ends": (edit("adapter_config.json", alpha_pattern={"a)|(b": 2}), "regular expression"),
    "named group": (edit("adapter_config.json", target_modules="(?P<a>.*)(?P=a)"), "regular expression"),
    "look behind": (edit("adapter_config.json", target_modules="(?=.*).*c_attn"), "regular expression"),
    "long pattern": (edit("adapter_config.json", target_modules="a" * 10**5), "regular expression"),
    "many patterns": (edit("adapter_config.json", alpha_pattern={str(n): 1 for n in range(5000)}), "at most 1024"),
    "long list": (edit("adapter_config.json", target_modules=list(range(9999))), "target_modules"),
    "no B": (tensors(lambda found: found.pop(B)), "is incomplete"),
    "no A": (tensors(lambda found: found.pop(A)), "is incomplete"),
    "flat": (tensors(lambda found: found.update({A: found[A].flatten()})), "its rank is"),
    "narrow": (tensors(lambda found: found.update({A: found[A][:, :5]})), "does not fit"),
    "magnitude": (
        tensors(lambda found: found.update({f"base_model.model.{Q}.lora_magnitude_vector": torch.ones(96)})),
        "is incomplete",
    ),
    "no magnitude": (edit("adapter_config.json", use_dora=True), "is incomplete"),
    "more than it names": (edit("adapter_config.json", target_modules=[Q]), "belongs to no"),
    "fewer than it names": (edit("adapter_config.json", target_modules=ALL), "is incomplete"),
    "without prefix": (
        tensors(lambda found: found.update({A.removeprefix("base_model.model."): found.pop(A)})),
        "is incomplete",
    ),
    "eight bits": (tensors(lambda found: found.update({A: found[A].to(torch.int8)})), "int8"),
    "long base": (edit("adapter_config.json", base_model_name_or_path="a" * 9999), "There is no model"),
    "nobody's base": (edit("adapter_config.json", base_model_name_or_path="~nobody9/x"), "There is no model"),
    "base of no name": (edit("adapter_config.json", base_model_name_or_path="a\0b"), "There is no model"),
    "nothing adapted": (
        both(
            tensors(lambda found: found.clear() or found.update(x=torch.ones(1))),
            edit("adapter_config.json", target_modules=["q_proj"]),
        ),
        "names no projection",
    ),
    "other branch": (edit("adapter_config.json", revision="v2"), "revision"),
    "replicated": (edit("adapter_config.json", layer_replication=[[0, 2]]), "layer_replication"),
    "parameters": (edit("adapter_config.json", target_parameters=["h.0.attn.c_attn.weight"]), "target_parameters"),
    "another kind": (edit("adapter_config.json", peft_type="ADALORA"), "must describe a LoRA adapter"),
    "no kind": (edit("adapter_config.json", peft_type=["LORA"]), "must describe a LoRA adapter"),
    "megatron": (edit("adapter_config.json", megatron_config={"a": 1}, megatron_core="os"), "megatron_config"),
    "new key": (edit("adapter_config.json", use_new=True), "use_new"),
    "block as text": (edit("adapter_config.json", layers_to_transform=["0"], target_modules=["c_attn"]), "layers_to"),
    "pattern without blocks": (edit("adapter_config.json", layers_pattern="h"), "layers_pattern"),
    "deep": (lambda folder: (folder / "adapter_config.json").write_text('{"a":' * 10**5) and None, "nested"),
    "truncated": (
        lambda f: (
            (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:-9]) and None
        ),
        "truncated",
    ),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_adapter_is_refused(change: Change, words: str, tmp_path: Path) -> None:
    adapter(tmp_path, LoraConfig(task_type="CAUSAL_LM", **PLAIN_LORA))
    change(tmp_path / "adapter")
    assert words in refused(lambda: load_folder(tmp_path / "adapter"))


@torch.no_grad()
def test_what_an_adapter_does_not_say_is_pefts_default(tmp_path: Path) -> None:
    adapter(tmp_path, LoraConfig(task_type="CAUSAL_LM", **PLAIN_LORA | {"r": 8}))
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["c_attn"], "fan_in_fan_out": True}))
    ours = folded(tmp_path)
    torch.testing.assert_close(ours.logits(ours(IDS)), loaded(tmp_path)(IDS).logits, atol=5e-4, rtol=1e-4)


def test_a_pattern_that_would_take_for_ever_is_matched_at_once(tmp_path: Path) -> None:
    adapter(tmp_path, LoraConfig(task_type="CAUSAL_LM", **PLAIN_LORA))
    for pattern in (r"(.*)*(.*)*(.*)*(.*)*(.*)*(.*)*x", "((t|tr|a|n|s|f|o|r|m|e)+)+y", SLOW):
        edit("adapter_config.json", alpha_pattern={pattern: 32})(tmp_path / "adapter")
        folded(tmp_path)


def test_a_tokenizer_beside_an_adapter_must_be_the_bases(tmp_path: Path) -> None:
    adapter(tmp_path, LoraConfig(task_type="CAUSAL_LM", **PLAIN_LORA))
    for place in ("base", "adapter"):
        TOY.save(tmp_path / place)
    load_folder(tmp_path / "adapter")
    fast(lambda tokenizer: tokenizer.add_tokens(["[SEP]"]))(tmp_path / "adapter")
    assert "has another tokenizer than" in refused(lambda: load_folder(tmp_path / "adapter"))


# --- anything

JSON = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-3, 2**70)
    | strategies.floats()
    | strategies.text(max_size=5)
    | strategies.sampled_from(["gpt2", "BPE", "c_attn", "(", "ByteLevel", "<|endoftext|>", 10**18, -1, 1e400]),
    lambda inner: (
        strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:24]:
        yield (*place, key)
        yield from places(inner, (*place, key))


def mutated(text: str, data: strategies.DataObject) -> str:
    """A JSON text with one of its values changed or left out, or with its bytes broken."""
    if data.draw(strategies.integers(0, 9)) == 0:
        return text[: data.draw(strategies.integers(0, len(text)))] + data.draw(strategies.text(max_size=3))
    values = json.loads(text)
    *way, last = data.draw(strategies.sampled_from(list(places(values))))
    inner = values
    for key in way:
        inner = inner[key]
    if data.draw(strategies.booleans()):
        inner[last] = data.draw(JSON)
    else:
        del inner[last]
    return json.dumps(values)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all kinds of files: weights in shards, a tokenizer, an adapter."""
    folder = tmp_path_factory.mktemp("everything")
    adapter(folder, LoraConfig(task_type="CAUSAL_LM", **PLAIN_LORA, alpha_pattern={Q: 32}, rank_pattern={Q: 2}))
    model = GPT2LMHeadModel.from_pretrained(folder / "base")
    (folder / "base" / "model.safetensors").unlink()
    model.save_pretrained(folder / "base", max_shard_size="20KB")
    TOY.save(folder / "base")
    known = special(EOS, content="<|endoftext|>")
    edit("tokenizer_config.json", added_tokens_decoder=known, pad_token="[PAD]")(folder / "base")
    (folder / "parts").mkdir()
    model_for_tokens(folder / "parts")
    parts(folder / "parts")
    edit("added_tokens.json", **{"[PAD]": EOS + 1, "[SEP]": EOS + 2})(folder / "parts")
    edit("special_tokens_map.json", pad_token="[PAD]", sep_token={"content": "[SEP]"})(folder / "parts")
    return folder


FILES = ["base/config.json", "base/generation_config.json", "base/tokenizer.json", "base/tokenizer_config.json"]
FILES += ["parts/vocab.json", "parts/added_tokens.json", "parts/special_tokens_map.json"]
FILES += ["base/model.safetensors.index.json", "adapter/adapter_config.json"]


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=settings().max_examples * 2 // 5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data())
def test_any_changed_file_loads_or_fails_in_one_line(name: str, everything: Path, data: strategies.DataObject) -> None:
    path = everything / name
    before, lines = path.read_text(), [""]
    try:
        path.write_text(mutated(before, data), encoding="utf-8", errors="surrogatepass")
        assert Tokenizer.load(everything / ("parts" if name.startswith("parts") else "base")).encode(TEXTS)[0]
        folded(everything)
    except UserError as error:
        lines.append(str(error))
    finally:
        path.write_text(before)
    assert "\n" not in lines[-1]


@settings(max_examples=settings().max_examples * 2 // 5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=strategies.integers(0, 2000), byte=strategies.integers(0, 255))
def test_any_byte_of_weights_gives_a_result_or_one_line(everything: Path, place: int, byte: int) -> None:
    path = everything / "adapter" / "adapter_model.safetensors"
    before, lines = path.read_bytes(), [""]
    try:
        path.write_bytes(before[:place] + bytes([byte]) + before[place + 1 :])
        folded(everything)
    except UserError as error:
        lines.append(str(error))
    finally:
        path.write_bytes(before)
    assert "\n" not in lines[-1]
