"""Weights that other programs saved with torch.save, as model folders."""

import argparse
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from gpt2core.convert import convert
from gpt2core.errors import WeightsError
from gpt2core.model import GPT2
from gpt2core.testing import toys
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import load_model

IDS = torch.arange(24).view(2, 12)
PARTS = {
    "attention.query": "self_attention.query", "attention.key": "self_attention.key",
    "attention.value": "self_attention.value", "attention.dense": "attention_dense", "ln_1": "attention_layer_norm",
    "mlp_in": "interm_dense", "mlp_out": "out_dense", "ln_2": "out_layer_norm",
}  # fmt: skip
WHOLE = {"wte": "word_embedding", "wpe": "pos_embedding", "ln_f": "final_layer_norm"}


def course_name(key: str) -> str:
    """The name of our tensor in the classifiers of the course, whose trunk is `gpt`."""
    part, kind = key.rsplit(".", 1)
    if not part.startswith("blocks."):
        return f"gpt.{WHOLE[part]}.{kind}"
    _, number, rest = part.split(".", 2)
    return f"gpt.gpt_layers.{number}.{PARTS[rest]}.{kind}"


def course(model: GPT2) -> dict[str, Tensor]:
    channels = model.config.n_embd
    state = {course_name(key): tensor for key, tensor in model.state_dict().items()}
    beside = {"gpt.pooler_dense.weight": torch.ones(channels, channels), "gpt.position_ids": torch.arange(256)[None]}
    return {**state, **beside, "paraphrase_detection_head.weight": torch.ones(2, channels)}


def saved_by_the_course(state: dict[str, Tensor], path: Path) -> Path:
    rngs = {"system_rng": random.getstate(), "numpy_rng": np.random.get_state(), "torch_rng": torch.get_rng_state()}
    flags = argparse.Namespace(lr=1e-5, model_size="toy", use_gpu=False)
    torch.save({"model": state, "optim": {"state": {}, "param_groups": [{"lr": 1e-5}]}, "args": flags, **rngs}, path)
    return path


def logits(folder: Path) -> Tensor:
    model = load_model(str(folder))
    with torch.inference_mode():
        return model.logits(model(IDS))


@pytest.fixture(scope="module")
def like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.folder(tmp_path_factory.mktemp("like"))


@pytest.mark.parametrize("prefix", ["", "module."], ids=["alone", "parallel"])
def test_a_checkpoint_of_the_course_becomes_its_model_without_the_head(prefix: str, like: Path, tmp_path: Path) -> None:
    model = toys.model(seed=5)
    state = {prefix + name: tensor for name, tensor in course(model).items()}
    converted = convert(saved_by_the_course(state, tmp_path / "10-1e-05.pt"), tmp_path / "out", str(like))
    assert converted.left_out == ["paraphrase_detection_head.weight", "pooler_dense.weight", "position_ids"]
    with torch.inference_mode():
        assert torch.equal(logits(tmp_path / "out"), model.logits(model(IDS)))
    assert Tokenizer.load(tmp_path / "out").eos == Tokenizer.load(like).eos


def test_weights_of_transformers_take_shape_and_tokenizer_from_their_folder(like: Path, tmp_path: Path) -> None:
    folder = toys.folder(tmp_path / "old")
    theirs = GPT2LMHeadModel.from_pretrained(folder).train(False)
    (folder / "model.safetensors").unlink()
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}  # as old versions wrote them
    torch.save({**theirs.state_dict(), **masks}, folder / "pytorch_model.bin")
    converted = convert(folder / "pytorch_model.bin", tmp_path / "out")
    assert (converted.like, converted.left_out) == (str(folder), [])
    with torch.inference_mode():
        assert (logits(tmp_path / "out") - theirs(IDS).logits).abs().max() < 1e-5


class Command:
    """An object that runs a command where it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("run by a pickle",)


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__delitem__(name)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a part is missing": (without("gpt.gpt_layers.1.self_attention.key.bias"), r"the tensor for `blocks.1.attention.key.bias`"),
    "a block is missing": (
        lambda state: [state.pop(name) for name in list(state) if "gpt_layers.1" in name],
        r"`n_layer` is 2, but the weights have 1 blocks",
    ),
    "another part": (
        lambda state: state.update({"gpt.gpt_layers.0.self_attention.query.lora_A": torch.ones(2)}),
        r"the tensor `gpt_layers.0.self_attention.query.lora_A` does not belong to the model",
    ),
    "another shape": (
        lambda state: state.update({"gpt.word_embedding.weight": torch.ones(7, 32)}),
        r"`wte.weight` has shape \(7, 32\), but config.json needs \(320, 32\)",
    ),
    "two models": (
        lambda state: state.update({"gpt.gpt.word_embedding.weight": torch.ones(320, 32)}), r"`\S+` occurs twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Any]], Any], words: str, like: Path, tmp_path: Path
) -> None:
    state = course(toys.model())
    change(state)
    with pytest.raises(WeightsError, match=words):
        convert(saved_by_the_course(state, tmp_path / "model.pt"), tmp_path / "out", str(like))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("content", "words"), [
    ({"model": Command()}, r"has an object of `\S*mkdir`, but only tensors and plain values are read"),
    ({"lr": 1.0}, r"has no state dict, neither alone nor as `model`, `state_dict`, `model_state_dict`, but the keys lr$"),
    ([torch.ones(2)], r"has no state dict, .*, but an object of list$"),
    ({"model": {"position_ids": torch.arange(3)}}, r"has no state dict, .*, but the keys position_ids$"),
    (torch.nn.Sequential(torch.nn.Linear(2, 3)).state_dict(), r"has no weights of a GPT-2, but 0.bias, 0.weight; those are"),
    (torch.nn.LSTM(2, 3, 2).state_dict(), r"has no weights of a GPT-2, but bias_hh_l0, bias_hh_l1, bias_ih_l0, 5 more; those"),
], ids=["code", "no tensors", "a list", "no floats", "another network", "many tensors"])  # fmt: skip
def test_what_is_no_state_dict_is_refused_and_never_run(
    content: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "model.pt")
    with pytest.raises(WeightsError, match=words):
        convert(Path("model.pt"), tmp_path / "out")
    assert not Path("run by a pickle").exists()


RULE = r"must be a file that torch\.save wrote, such as pytorch_model\.bin"


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"), (b"no weights\n", "is .* of another format"), (b"PK\x03\x04 cut short", "is truncated"),
    (b"\x80\x02\xff", "is truncated"), (b"a = [\n", "is .* of another format"), (b"\x80\x02M\x01", "is truncated"),
    (b"\x80\x74.", "is truncated"),
], ids=["empty", "text", "zip", "pickle", "operation without operand", "cut number", "unknown protocol"])  # fmt: skip
def test_a_file_of_another_kind_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"model\.pt: {words}.*, but {RULE}; copy it again$"):
        convert(tmp_path / "model.pt", tmp_path / "out")


def test_a_file_that_was_cut_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = saved_by_the_course({"wte.weight": torch.ones(3, 2)}, tmp_path / "whole.pt").read_bytes()
    for size in random.Random(1).sample(range(len(whole)), 30):
        (tmp_path / "model.pt").write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=rf"^\S+model\.pt: .* {RULE}"):
            convert(tmp_path / "model.pt", tmp_path / "out")


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"cannot be read \(Is a directory\); it {RULE}"):
        convert(tmp_path, tmp_path / "out")
    with pytest.raises(WeightsError, match=rf"no such file; it {RULE}"):
        convert(tmp_path / "model.pt", tmp_path / "out")


def test_safetensors_are_read_too(like: Path, tmp_path: Path) -> None:
    convert(like / "model.safetensors", tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out"), logits(like))


def test_a_shape_of_no_known_model_needs_one_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"no known model has 2 blocks and embeddings of \(320, 32\) and .*; set --like"
    ):
        convert(saved_by_the_course(course(toys.model()), tmp_path / "model.pt"), tmp_path / "out")
