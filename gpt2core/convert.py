"""Convert weights saved by torch.save, such as pytorch_model.bin or a checkpoint of CS224N's GPT-2 project, into a model folder.

Only tensors and plain values are unpickled (`weights_only`), so a file cannot run code.
"""

import argparse
import itertools
import pickle
import re
import struct
import types
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2core.config import MODELS
from gpt2core.errors import WeightsError, first_line, visible
from gpt2core.foreign import FLOATS, NO_TENSORS, is_there, kind_of
from gpt2core.model_config import read_config
from gpt2core.weights import assemble, model_folder, of_trunk, save_model, to_hugging_face

_RULE = "must be a file that torch.save wrote, such as pytorch_model.bin"
#: Keys under which training programs save the state dict.
_STATES = ("model", "state_dict", "model_state_dict")
_WRAPPERS = re.compile(r"^((module|_orig_mod|gpt|model)\.)+")  # prefixes that wrapping modules add
#: The course's name of a part -> ours.
_COURSE = {
    "word_embedding": "wte",
    "pos_embedding": "wpe",
    "final_layer_norm": "ln_f",
    "self_attention.query": "attention.query",
    "self_attention.key": "attention.key",
    "self_attention.value": "attention.value",
    "attention_dense": "attention.dense",
    "attention_layer_norm": "ln_1",
    "interm_dense": "mlp_in",
    "out_dense": "mlp_out",
    "out_layer_norm": "ln_2",
}
_COURSE_NAME = re.compile(r"(?:gpt_layers\.(?P<block>\d{1,9})\.)?(?P<part>.+)\.(?P<kind>weight|bias)")
_OF_GPT2 = re.compile(r"(h\.\d|gpt_layers\.|wte\.|wpe\.|ln_f\.)")  # names of no other tensors begin like this


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The result of a conversion: the model whose shape and tokenizer were taken, and the names of tensors that were left out."""

    like: str
    left_out: list[str]


def convert(file: Path, out: Path, like: str | None = None) -> Converted:
    """Write the model folder `out` from the weights in `file`, named as in transformers or as in the course.

    Shape, special tokens and tokenizer are those of the model `like`: by default the folder of `file` if it has a config.json,
    otherwise the GPT-2 with as many blocks and channels. Heads and buffers are left out. Raises WeightsError or HubError.
    """
    tensors = [(_WRAPPERS.sub("", name), tensor) for name, tensor in _state_dict(file).items()]
    theirs = _from_course(tensors, file) if any(name == "word_embedding.weight" for name, _ in tensors) else tensors
    trunk = of_trunk(theirs, file)
    left_out = sorted(name for name in trunk if not _OF_GPT2.match(name))
    if len(left_out) == len(trunk):
        raise WeightsError(
            f"{file}: has no weights of a GPT-2, but {_listed(left_out)}; those are called wte.weight and h.0.ln_1.weight in "
            "transformers, word_embedding.weight and gpt_layers.0.out_dense.weight in the course"
        )
    trunk = {name: tensor.float() for name, tensor in trunk.items() if name not in left_out}
    like = like or _like(trunk, file)
    folder = model_folder(like)
    model = assemble(read_config(folder), trunk, file)
    save_model(model, out, tokenizer_from=folder)
    return Converted(like=like, left_out=left_out)


def _state_dict(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; raise WeightsError if it has no state dict or more than data."""
    saved = _saved(file)
    whole = saved if isinstance(saved, Mapping) else {}
    state = next((whole[key] for key in _STATES if isinstance(whole.get(key), Mapping)), whole)
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not any(kind_of(tensor) in FLOATS for tensor in tensors.values()):
        content = f"the keys {_listed(state)}" if isinstance(saved, Mapping) else f"an object of {type(saved).__name__}"
        raise WeightsError(
            f"{file}: has no state dict, neither alone nor as {', '.join(f'`{key}`' for key in _STATES)}, but {content}"
        )
    return tensors


def _listed(names: Collection[Any]) -> str:
    """Return the first of some names in words."""
    shown = [visible(str(name), 40) for name in itertools.islice(names, 3)]
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return ", ".join([*shown, *more]) or "nothing"


def _saved(file: Path) -> Any:
    """Return the object in a file; raise WeightsError."""
    reconstruct = np.empty(0).__reduce__()[0]
    # Besides what PyTorch accepts: the flags of a program, and the state of NumPy's generator.
    plain: list[Any] = [argparse.Namespace, types.SimpleNamespace, np.ndarray, np.dtype, np.dtypes.UInt32DType]
    plain += [reconstruct, (reconstruct, "numpy.core.multiarray._reconstruct")]
    try:
        with torch.serialization.safe_globals(plain), warnings.catch_warnings(action="ignore"):
            saved = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{file}: no such file; it {_RULE}") from None
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror or first_line(error)}); it {_RULE}") from None
    except (pickle.UnpicklingError, *NO_TENSORS, EOFError, IndexError, AssertionError, struct.error) as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            rule = "but only tensors and plain values are read; save the model's state_dict alone"
            raise WeightsError(f"{file}: has an object of `{refused[1]}`, {rule}") from None
        what = "is truncated, damaged or of another format" if file.stat().st_size else "is empty"
        raise WeightsError(f"{file}: {what}, but {_RULE}; copy it again") from None
    return saved


def _from_course(tensors: Iterable[tuple[str, Tensor]], file: Path) -> list[tuple[str, Tensor]]:
    """Return tensors that are named as in the course by the names of transformers, and all others under their own."""
    ours: dict[str, Tensor] = {}
    others: list[tuple[str, Tensor]] = []
    for name, tensor in tensors:
        found = _COURSE_NAME.fullmatch(name)
        if found is None or found["part"] not in _COURSE:
            others.append((name, tensor))
            continue
        block = f"blocks.{found['block']}." if found["block"] else ""
        if ours.setdefault(f"{block}{_COURSE[found['part']]}.{found['kind']}", tensor) is not tensor:
            raise WeightsError(f"{file}: the tensor `{name}` occurs twice")
    try:
        return [*to_hugging_face(ours).items(), *others]
    except KeyError as missing:
        raise WeightsError(f"{file}: the tensor for `{missing.args[0]}` is missing; the file is incomplete") from None


def _like(trunk: Mapping[str, Tensor], file: Path) -> str:
    """Return the model that has the shape of the tensors; raise WeightsError if there is none."""
    if is_there(file.parent / "config.json"):
        return str(file.parent)
    blocks = len({name.split(".")[1] for name in trunk if name.startswith("h.")})
    sizes = [tuple(trunk[name].shape) if name in trunk else (0, 0) for name in ("wte.weight", "wpe.weight")]
    for name, shape in MODELS.items():
        if blocks == shape.n_layer and sizes == [(shape.vocab_size, shape.n_embd), (shape.n_positions, shape.n_embd)]:
            return name
    raise WeightsError(
        f"{file}: no known model has {blocks} blocks and embeddings of {sizes[0]} and {sizes[1]}; set --like to one that has"
    )
