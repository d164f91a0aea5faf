"""Read and write Hugging Face GPT-2 folders: config.json, model.safetensors or its shards, tokenizer files."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt2core.component import nearest
from gpt2core.config import MODELS, ModelConfig
from gpt2core.errors import DataError, WeightsError, first_line, shown
from gpt2core.files import atomic_path, json_object
from gpt2core.foreign import download, is_there, read_json, read_tensors
from gpt2core.model import GPT2, without_weights
from gpt2core.model_config import GENERATION, class_names, read_config
from gpt2core.storage import fetch, is_address, local
from gpt2core.tokenizer import Tokenizer

ASSETS = Path(__file__).parent / "assets"
EMBEDDED = ("gpt2-nano",)  # models that ship with the project
OWNERS = {"distilgpt2": "distilbert"}  # of a model's repository on the hub, if not openai-community
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
)
HUB_FILES = ("config.json", GENERATION, "model.safetensors", "model.safetensors.index.json", "model-*.safetensors")

#: Tensors of the causal mask, which old versions of transformers wrote.
_MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
#: Weight files that `save_model` does not write, so they belong to another model.
_STALE = (
    *("*.safetensors.index.json", "model-*-of-*.safetensors", "pytorch_model*.bin*"),
    *("adapter_config.json", "adapter_model.*"),
)

#: Our name of a part of a block -> that of Hugging Face, whose Conv1D stores weights as (in, out); ours are (out, in).
_PARTS = {
    "attention.dense": "attn.c_proj",
    "mlp_in": "mlp.c_fc",
    "mlp_out": "mlp.c_proj",
    "ln_1": "ln_1",
    "ln_2": "ln_2",
}
_digests: WeakKeyDictionary[GPT2, str] = WeakKeyDictionary()

HEAD, THEIR_HEAD = "head.weight", "score.weight"
_QKV = ("attention.query", "attention.key", "attention.value")  # joined in this order in attn.c_attn


def model_folder(name: str) -> Path:
    """Return the folder of a model: embedded, local, remote, or downloaded from the hub; raise HubError or WeightsError."""
    if name in EMBEDDED:
        return _embedded(name)
    try:
        path = local(name)
        fetch(path)
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # for example a name that is too long, or an unknown user
        reason = getattr(error, "strerror", None) or first_line(error)
        raise WeightsError(f"There is no model {shown(name)}: {reason}") from None
    if is_folder:
        return path
    if is_file:
        raise WeightsError(
            f"{name}: is a file, but a model is a folder; for weights in a file, see `gpt2-search convert`"
        )
    if name in MODELS:
        return _download(hub_name(name))
    if _is_of_hub(name):
        return _download(name)
    raise _unknown(name)


def check_model_name(name: str) -> None:
    """Raise WeightsError for a name that is neither known, nor of the hub's form, nor an address, nor a folder here."""
    if not (name in MODELS or _is_of_hub(name) or is_address(name) or Path(name).expanduser().is_dir()):
        raise _unknown(name)


def _is_of_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _unknown(name: str) -> WeightsError:
    return WeightsError(
        f"There is no model `{name}`: it is neither a folder nor a known name ({nearest(name, MODELS)}); the form of hub models "
        "is owner/name"
    )


def _embedded(name: str) -> Path:
    """Return the folder of an embedded model. The upload of a Ray job lacks its weights, but the installed project has them."""
    folder = ASSETS / name
    if (folder / "model.safetensors").is_file():
        return folder
    with suppress(PackageNotFoundError, DataError):
        installed = distribution("gpt2-search")
        origin = str(json_object((installed.read_text("direct_url.json") or "{}").encode(), 2**16).get("url", ""))
        for root in (Path(str(installed.locate_file(""))), local(origin)):
            if (root / "gpt2core" / "assets" / name / "model.safetensors").is_file():
                return root / "gpt2core" / "assets" / name
    return folder


def hub_name(name: str) -> str:
    """Return the name of a model in transformers: a repository of the hub, or a local folder."""
    if is_address(name) or Path(name).expanduser().is_dir() or name in EMBEDDED:
        return str(model_folder(name))
    return f"{OWNERS.get(name, 'openai-community')}/{name}" if name in MODELS else name


def _download(repository: str) -> Path:
    offline = "to run offline, set --model to a folder or to the embedded gpt2-nano"
    return download(repository, [*HUB_FILES, *TOKENIZER_FILES], offline)


def shape_of(name: str) -> ModelConfig:
    """Return the shape of a model without loading weights; named models need neither files nor a network."""
    return MODELS[name] if name in MODELS else read_config(model_folder(name))


def load_model(name: str, *, with_head: bool = False) -> GPT2:
    """Load a GPT-2 in float32 on the CPU, `with_head` with its classification head if any; raise WeightsError or HubError."""
    folder = model_folder(name)
    return assemble(read_config(folder), _read_tensors(folder), folder, with_head=with_head)


def assemble(config: ModelConfig, tensors: dict[str, Tensor], folder: Path, *, with_head: bool = False) -> GPT2:
    """Return the model with the tensors of transformers' GPT2Model; raise WeightsError about `folder` if they do not fit."""
    blocks = {int(key.split(".")[1]) for key in tensors if re.match(r"h\.\d{1,9}\.", key)}
    if len(blocks) != config.n_layer:  # checked first, since building a model with a wrong number may take forever
        raise WeightsError(f"{folder}: `n_layer` is {config.n_layer}, but the weights have {len(blocks)} blocks")
    model = without_weights(config)
    head = tensors.get(THEIR_HEAD)
    if with_head and head is not None:
        if head.ndim != 2:
            raise WeightsError(f"{folder}: `{THEIR_HEAD}` has shape {tuple(head.shape)}, but must have 2 dimensions")
        model.head = nn.Linear(config.n_embd, len(head), bias=False, device="meta")
        model.class_names = tuple(class_names(folder, len(head)))
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if unknown := sorted(tensors.keys() - {their_name(key)[0] for key in expected} - {THEIR_HEAD}):
        raise WeightsError(f"{folder}: the tensor `{unknown[0]}` does not belong to the model in config.json")
    model.load_state_dict(_from_hugging_face(tensors, expected, folder), assign=True)
    return model.train(False)


def digest(model: GPT2) -> str:
    """Return the SHA-256 of a model: its shape, and the names and values of its tensors."""
    sha = hashlib.sha256(json.dumps(model.config.model_dump(), sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def fixed_digest(base: GPT2) -> str:
    """Return the digest of a model that never changes, computed once."""
    if base not in _digests:
        _digests[base] = digest(base)
    return _digests[base]


def origin(base: GPT2) -> str:
    """Return the digest of a model's first stage, which does not change if it is trained again, or else of its weights."""
    return base.origin or fixed_digest(base)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder by their names in transformers' GPT2Model, and the head; raise WeightsError."""
    return of_trunk(((key, tensor) for path in _shards(folder) for key, tensor in read_tensors(path).items()), folder)


def of_trunk(named: Iterable[tuple[str, Tensor]], folder: Path) -> dict[str, Tensor]:
    """Return tensors by their names in transformers' GPT2Model, without causal masks and the tied output; raise WeightsError."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in named:
        if tensors.setdefault(key.removeprefix("transformer."), tensor) is not tensor:
            raise WeightsError(f"{folder}: the tensor `{key}` occurs twice")
    tied = tensors.pop("lm_head.weight", None)
    if tied is not None and not torch.equal(tensors.setdefault("wte.weight", tied), tied):
        raise WeightsError(
            f"{folder}: `lm_head.weight` differs from `wte.weight`, but must be tied (`tie_word_embeddings`)"
        )
    return {key: tensor for key, tensor in tensors.items() if not _MASKS.fullmatch(key)}


def _shards(folder: Path) -> Iterable[Path]:
    """Return the weight files of a folder: model.safetensors, or the shards of an index, as in transformers."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if is_there(whole) or not is_there(index):
        return [whole]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise WeightsError(f"{index}: `weight_map` must name a file for each tensor")
    names = sorted(set(weight_map.values()))
    if any(Path(name).name != name or not name.endswith(".safetensors") or "\0" in name for name in names):
        raise WeightsError(f"{index}: the name of a shard must end with .safetensors and stay in the folder")
    return [folder / name for name in names]


def _from_hugging_face(
    theirs: dict[str, Tensor], expected: dict[str, tuple[int, ...]], folder: Path
) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for key, shape in expected.items():
        name, conv = their_name(key)
        if name not in theirs:
            raise WeightsError(f"{folder}: the tensor `{name}` is missing; the file is incomplete")
        tensor = theirs[name]
        if any(key.startswith(f"blocks.{key.split('.')[1]}.{part}.") for part in _QKV):
            if not tensor.ndim or tensor.shape[-1] % 3:
                raise WeightsError(f"{folder}: the tensor `{name}` must be the concatenation of query, key and value")
            which = next(i for i, part in enumerate(_QKV) if part in key)
            tensor = tensor.chunk(3, dim=-1)[which].contiguous()
        tensor = tensor.T.contiguous() if conv and tensor.ndim == 2 else tensor
        if tuple(tensor.shape) != shape:
            raise WeightsError(
                f"{folder}: the tensor `{name}` has shape {tuple(theirs[name].shape)}, but config.json needs {shape} for `{key}`"
            )
        ours[key] = tensor
    return ours


def their_name(key: str) -> tuple[str, bool]:
    """Return the Hugging Face tensor that has our key, and whether it belongs to a Conv1D, stored as (in, out).

    Query, key and value have the same name: that tensor concatenates them in this order.
    """
    if not key.startswith("blocks."):
        return (THEIR_HEAD if key == HEAD else key), False
    _, number, rest = key.split(".", 2)
    part, kind = rest.rsplit(".", 1)
    theirs = "attn.c_attn" if part in _QKV else _PARTS[part]
    return f"h.{number}.{theirs}.{kind}", not part.startswith("ln_")


def to_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a GPT2 state dict (float32, CPU) into that of GPT2LMHeadModel, or with a head GPT2ForSequenceClassification."""
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
    """Write a folder for transformers and `load_model`; the weights are written last, atomically.

    In transformers it is a GPT2LMHeadModel, or with a classification head a GPT2ForSequenceClassification with classes
    `class_names`. Special tokens and tokenizer files are those of the folder `tokenizer_from`; without one, the special token is
    the last of the vocabulary, as in GPT-2. Weights and tokenizer files of another model are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    eos = model.config.vocab_size - 1
    named: dict[str, Any] = {"bos_token_id": eos, "eos_token_id": eos}
    generation: dict[str, Any] = {}
    if tokenizer_from is not None:
        named, generation = _their_tokens(model, tokenizer_from)
        _copy_tokenizer(tokenizer_from, folder)
    elif model.head is not None:
        named["pad_token_id"] = eos
    (folder / "config.json").write_text(json.dumps(_their_config(model, class_names) | named, indent=2) + "\n")
    if generation:
        (folder / GENERATION).write_text(json.dumps(generation, indent=2) + "\n")
    state = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as part:
        save_file(to_hugging_face(state), part, metadata={"format": "pt"})
    for path in (path for pattern in _STALE for path in folder.glob(pattern)):
        path.unlink()


def _copy_tokenizer(source: Path, folder: Path) -> None:
    if source.resolve() == folder.resolve():
        return
    for name in (*TOKENIZER_FILES, GENERATION):
        (folder / name).unlink(missing_ok=True)
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _their_config(model: GPT2, names: Sequence[str]) -> dict[str, Any]:
    """Return the model shape, and its classes if it has any, in the form of config.json."""
    count = model.head.out_features if model.head is not None else 0
    labels = names or [f"LABEL_{number}" for number in range(count)]
    classes = {
        "num_labels": count,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    return {
        "architectures": ["GPT2ForSequenceClassification" if count else "GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "tie_word_embeddings": True,
        **model.config.model_dump(),
        **(classes if count else {}),
    }


def _their_tokens(model: GPT2, base: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the special tokens of the base, with the EOS of training and, for a head, a padding token (default: EOS)."""
    tokenizer, config = Tokenizer.load(base), read_json(base / "config.json")
    generation = read_json(base / GENERATION) if is_there(base / GENERATION) else {}
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    named: dict[str, Any] = {key: config[key] for key in keys if key in config}
    deciding = generation or named
    ends = deciding.get("eos_token_id")
    if tokenizer.eos not in (ends if isinstance(ends, list) else [ends]):
        deciding["eos_token_id"] = list(tokenizer.stops)
    if model.head is not None and named.get("pad_token_id") is None:
        named["pad_token_id"] = tokenizer.pad
    return named, generation
