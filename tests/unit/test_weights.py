"""Hugging Face folders in and out, and what a broken one says."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2core.distill.critics.folder import FILES
from gpt2core.errors import HubError, WeightsError
from gpt2core.testing import toys
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import HUB_FILES, TOKENIZER_FILES, load_model, model_folder, shape_of

IDS = torch.arange(24).view(2, 12)


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "sharded"])
@torch.no_grad()
def test_a_folder_that_transformers_wrote_gives_the_same_logits(sharded: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=120, n_positions=32, n_embd=32, n_layer=2, n_head=2)).train(False)
    theirs.save_pretrained(tmp_path, max_shard_size="40KB" if sharded else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded, "what this test is about"
    ours = load_model(str(tmp_path))
    assert (ours.logits(ours(IDS)) - theirs(IDS).logits).abs().max() < 1e-5


@torch.no_grad()
def test_a_folder_that_we_wrote_gives_transformers_the_same_logits(tmp_path: Path) -> None:
    folder = toys.folder(tmp_path / "toy")
    theirs = GPT2LMHeadModel.from_pretrained(folder).train(False)
    ours = load_model(str(folder))
    assert (ours.logits(ours(IDS)) - theirs(IDS).logits).abs().max() < 1e-5


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _drop(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, folder / "model.safetensors")


def _reshape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"][:-1].clone()
    save_file(tensors, folder / "model.safetensors")


def _configure(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))

    return change


def _index(content: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()  # a single file goes before an index
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(("damage", "message"), [
    (_truncate, r"model.safetensors: is truncated or not a safetensors file"),
    (_drop, r"the tensor `h.1.mlp.c_fc.weight` is missing; the file is incomplete"),
    (_reshape, r"`wpe.weight` has shape \(255, 32\), but config.json needs \(256, 32\) for `wpe.weight`"),
    (_index({"weight_map": {"wte.weight": "../../a.safetensors"}}), r"the name of a shard must end with"),
    (_index({"weight_map": {"wte.weight": "/a.safetensors"}}), r"the name of a shard must end with"),
    (_index({"weight_map": {"wte.weight": "a.safetensors"}}), r"a.safetensors: no such file"),
    (_index({"weight_map": {"wte.weight": 5}}), r"index.json: `weight_map` must name"),
    (_index({"weight_map": ["a.safetensors"]}), r"index.json: `weight_map` must name"),
    (_index([]), r"index.json: is not a JSON object"),
    (lambda folder: (folder / "model.safetensors").unlink(), r"model.safetensors: no such file"),
    (lambda folder: (folder / "config.json").unlink(), r"config.json: no such file"),
    (lambda folder: (folder / "config.json").write_text("{"), r"config.json: is not JSON"),
    (_configure(model_type="llama"), r"`model_type` is 'llama', but must be 'gpt2': GPT-2, DistilGPT2"),
    (_configure(activation_function="gelu"), r"`activation_function` is 'gelu', but must be 'gelu_new'"),
    (_configure(scale_attn_weights=False), r"`scale_attn_weights` is False, but must be True"),
    (_configure(scale_attn_by_inverse_layer_idx=True), r"`scale_attn_by_inverse_layer_idx` is True, but must be"),
    (_configure(tie_word_embeddings=False), r"`tie_word_embeddings` is False, but must be True"),
    (_configure(n_head=5), r"config.json: The value of `n_head` is 5, but must divide `n_embd`, 32"),
    (_configure(n_embd="wide"), r"config.json: The value of `n_embd` is 'wide', but must be a whole number"),
    (_configure(n_layer=0), r"config.json: The value of `n_layer` is 0, but must be >= 1"),
])  # fmt: skip
def test_a_broken_folder_fails(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = toys.folder(tmp_path / "toy")
    damage(folder)
    with pytest.raises(WeightsError, match=f"{folder}.*{message}"):
        load_model(str(folder))


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(WeightsError, match="did you mean `gpt2-large`"):
        model_folder("gpt2-lage")


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "unreachable"])
def test_an_unreachable_hub_says_the_way_out(offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))  # not the user's, which may hold a copy
    with pytest.raises(
        HubError,
        match=r"Could not fetch openai-community/gpt2-xl .*the local cache has no copy; to run offline, set --model to a folder",
    ):
        model_folder("gpt2-xl")


def test_named_shapes_need_neither_weights_nor_a_network() -> None:
    assert (shape_of("gpt2-xl").n_layer, shape_of("gpt2-xl").n_head) == (48, 25)


def test_the_embedded_model_is_whole_small_and_described() -> None:
    folder = model_folder("gpt2-nano")
    model = load_model("gpt2-nano")
    assert model.config == shape_of("gpt2-nano")
    assert sum(p.numel() for p in model.parameters()) <= 8_000_000
    assert (folder / "model.safetensors").stat().st_size <= 16_000_000
    assert Tokenizer.load(folder).eos == model.config.vocab_size - 1
    card = (folder / "README.md").read_text()
    assert "Held-out perplexity" in card
    assert "make nano" in card


@pytest.mark.parametrize("patterns", [(*HUB_FILES, *TOKENIZER_FILES), FILES])
def test_neither_pickles_nor_code_of_a_model_are_downloaded(patterns: Sequence[str]) -> None:
    there = [
        "config.json", "tokenizer.json", "model.safetensors", "model-00001-of-00002.safetensors",
        "pytorch_model.bin",
    ]  # fmt: skip
    there += [
        "modeling_gpt2.py", "training_args.bin", "model.pt", "x/weights.pkl", "tf_model.h5", "model.ckpt",
        "run.sh",
    ]  # fmt: skip
    assert set(filter_repo_objects(there, allow_patterns=list(patterns))) == set(there[:4])
