"""Hugging Face GPT-2 folders in and out: config.json, model.safetensors (or its shards), tokenizer files."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt2core.config import MODELS, ModelConfig
from gpt2core.errors import ConfigError, WeightsError, first_line
from gpt2core.files import atomic_path, readable
from gpt2core.hub import download
from gpt2core.lookup import nearest
from gpt2core.model import GPT2, without_weights
from gpt2core.storage import fetch, is_address, local

ASSETS = Path(__file__).parent / "assets"
EMBEDDED = ("gpt2-nano",)  # models that ship with the project
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
HUB_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")

# Keys of config.json that change the formula, each with the one value that this model computes.
_FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "tie_word_embeddings": True}

# Our name of a block's part -> Hugging Face's. Its Conv1D keeps weights as (in, out), ours are (out, in).
_PARTS = {
    "ln_1": "ln_1",
    "ln_2": "ln_2",
    "attention.dense": "attn.c_proj",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
}
HEAD, THEIR_HEAD = "head.weight", "score.weight"
_QKV = ("attention.query", "attention.key", "attention.value")  # joined in this order in attn.c_attn


def model_folder(name: str) -> Path:
    """Return the local folder of a model: an embedded one, a path, or a download from the Hugging Face hub.

    Raises HubError where the hub cannot be reached and WeightsError where a folder or repository is none.
    """
    if name in EMBEDDED:
        return _embedded(name)
    path = local(name)
    fetch(path)
    if path.is_dir():
        return path
    if name in MODELS:
        return _download(hub_name(name))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    raise WeightsError(
        f"There is no model `{name}`: it is no folder and no known name ({nearest(name, MODELS)}); "
        "a model of the hub is written owner/name"
    )


def _embedded(name: str) -> Path:
    """The folder of a model that ships with the project; a job's upload leaves its weights out, an installation has them."""
    here = ASSETS / name
    if (here / "model.safetensors").is_file():
        return here
    with suppress(PackageNotFoundError):
        installed = distribution("gpt2-search")
        origin = json.loads(installed.read_text("direct_url.json") or "{}").get("url", "")
        roots = [Path(str(installed.locate_file(""))), local(origin)]
        for root in roots:
            if (root / "gpt2core" / "assets" / name / "model.safetensors").is_file():
                return root / "gpt2core" / "assets" / name
    return here


def hub_name(name: str) -> str:
    """Return what transformers calls a model: a repository of the hub, or a local folder."""
    if is_address(name) or Path(name).expanduser().is_dir() or name in EMBEDDED:
        return str(model_folder(name))
    return f"openai-community/{name}" if name in MODELS else name


def _download(repository: str) -> Path:
    offline = "to run offline, give --model a folder, or the embedded gpt2-nano"
    return download(repository, [*HUB_FILES, *TOKENIZER_FILES], offline)


def read_config(folder: Path) -> ModelConfig:
    """Read config.json of a Hugging Face folder; raise WeightsError where it is missing or no GPT-2's."""
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file; a Hugging Face model folder needs one")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(values, dict) or values.get("model_type") != "gpt2":
        raise WeightsError(f"{path}: `model_type` must be `gpt2`")
    if values.get("activation_function", "gelu_new") != "gelu_new":
        raise WeightsError(f"{path}: `activation_function` must be `gelu_new`, the tanh form")
    for key, fixed in _FIXED.items():
        if values.get(key, fixed) != fixed:
            raise WeightsError(f"{path}: `{key}` is {values[key]!r}, but must be {fixed!r}")
    try:
        return ModelConfig.of({k: values[k] for k in ModelConfig.model_fields if k in values})
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None


def shape_of(name: str) -> ModelConfig:
    """Return a model's shape without its weights; the named models need neither files nor a network."""
    return MODELS[name] if name in MODELS else read_config(model_folder(name))


def load_model(name: str, *, with_head: bool = False) -> GPT2:
    """Load a GPT-2 by name or folder in float32 on the CPU; raise WeightsError or HubError where that fails.

    `with_head`: with the head of classes that a GPT2ForSequenceClassification has, where there is one.
    """
    folder = model_folder(name)
    config = read_config(folder)
    model = without_weights(config)
    tensors = _read_tensors(folder)
    if with_head and THEIR_HEAD in tensors:
        model.head = nn.Linear(config.n_embd, len(tensors[THEIR_HEAD]), bias=False, device="meta")
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict(_from_hugging_face(tensors, expected, folder), assign=True)
    return model.train(False)


def digest(model: GPT2) -> str:
    """SHA-256 of a model: its shape, and the names and values of its tensors."""
    sha = hashlib.sha256(json.dumps(model.config.model_dump(), sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in _shards(folder):
        if not path.is_file():
            raise WeightsError(f"{path}: there is no such file; save the model as safetensors into this folder")
        try:
            with safe_open(readable(path), framework="pt") as file:
                tensors |= {key.removeprefix("transformer."): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise WeightsError(f"{path}: is truncated or no safetensors file ({first_line(error)})") from None
    return tensors


def _shards(folder: Path) -> Iterable[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index}: is no index of shards ({error})") from None
    if outside:
        raise WeightsError(f"{index}: a shard's name must not leave the folder")
    return [folder / name for name in names]


def _from_hugging_face(
    theirs: dict[str, Tensor], expected: dict[str, tuple[int, ...]], folder: Path
) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for key, shape in expected.items():
        name, conv = their_name(key)
        if name not in theirs:
            raise WeightsError(f"{folder}: the tensor `{name}` is missing; the file is partial")
        tensor = theirs[name].float()
        if any(key.startswith(f"blocks.{key.split('.')[1]}.{part}.") for part in _QKV):
            tensor = _third(tensor, key, name, folder)
        tensor = tensor.T.contiguous() if conv and tensor.ndim == 2 else tensor
        if tuple(tensor.shape) != shape:
            raise WeightsError(
                f"{folder}: the tensor `{name}` has shape {tuple(theirs[name].shape)}, "
                f"which does not fit config.json: `{key}` must be {shape}"
            )
        ours[key] = tensor
    return ours


def _third(tensor: Tensor, key: str, name: str, folder: Path) -> Tensor:
    if tensor.shape[-1] % 3:
        raise WeightsError(f"{folder}: the tensor `{name}` must hold query, key and value side by side")
    which = next(i for i, part in enumerate(_QKV) if part in key)
    return tensor.chunk(3, dim=-1)[which].contiguous()


def their_name(key: str) -> tuple[str, bool]:
    """Return Hugging Face's name of the tensor that our key is in, and whether it is a Conv1D's, kept as (in, out).

    Query, key and value have the same: they are joined in it, in this order.
    """
    if not key.startswith("blocks."):
        return (THEIR_HEAD if key == HEAD else key), False
    _, number, rest = key.split(".", 2)
    part, kind = rest.rsplit(".", 1)
    theirs = "attn.c_attn" if part in _QKV else _PARTS[part]
    return f"h.{number}.{theirs}.{kind}", not part.startswith("ln_")


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and join a GPT2 state dict (float32, CPU) into the tensors of a Hugging Face GPT2LMHeadModel.

    With a head of classes (K, C), of a GPT2ForSequenceClassification.
    """
    theirs: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key == HEAD:
            theirs[THEIR_HEAD] = tensor
            continue
        name, conv = their_name(key)
        if _QKV[0] in key:
            tensor = torch.cat([state[key.replace(_QKV[0], part)] for part in _QKV])
        elif _QKV[1] in key or _QKV[2] in key:
            continue
        theirs[f"transformer.{name}"] = (tensor.T if conv and tensor.ndim == 2 else tensor).contiguous()
    return theirs


def save_model(model: GPT2, folder: Path, tokenizer_from: Path | None = None, class_names: Sequence[str] = ()) -> None:
    """Write a folder that transformers and `load_model` both load; the weights come last, atomically.

    For transformers it is a GPT2LMHeadModel, or where the model has a head of classes a GPT2ForSequenceClassification that
    calls them `class_names`. `load_model` reads the trunk of either.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = _their_config(model.config)
    if model.head is not None:
        values |= _their_classes(model.head.out_features, class_names, pad=values["eos_token_id"])
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    for name in TOKENIZER_FILES if tokenizer_from else ():
        source = Path(str(tokenizer_from)) / name
        if source.is_file() and source.parent.resolve() != folder.resolve():
            shutil.copyfile(source, folder / name)
    state = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as part:
        save_file(to_hugging_face(state), part, metadata={"format": "pt"})


def _their_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "tie_word_embeddings": True,
        **config.model_dump(),
        "bos_token_id": config.vocab_size - 1,
        "eos_token_id": config.vocab_size - 1,
    }


def _their_classes(count: int, names: Sequence[str], pad: int) -> dict[str, Any]:
    """What config.json says of a head; EOS pads, for the class is taken from the last token that is no padding."""
    labels = names or [f"LABEL_{number}" for number in range(count)]
    return {
        "architectures": ["GPT2ForSequenceClassification"],
        "num_labels": count,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "pad_token_id": pad,
    }
