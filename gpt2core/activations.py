"""A cache of the output of a model's frozen blocks, computed once for all runs that train only later blocks.

The frozen blocks run without dropout (`gpt2core.adapters`), so a text has the same activations in every epoch and in every run
of a base model. The cache is a set of memory-mapped Arrow files, which all processes of a machine share.
"""

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from gpt2core.arrow_cache import read_table, write_table
from gpt2core.config import RunConfig, keys_that_decide
from gpt2core.data.batches import collate
from gpt2core.data.tokens import Activations, Tokens
from gpt2core.files import cache_folder, locked, trim
from gpt2core.model import GPT2, TrunkInput
from gpt2core.precision import autocast
from gpt2core.tasks import Task
from gpt2core.tasks.base import by_length
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import fixed_digest

LARGEST = 4 * 10**9  # bytes of a data set's activations; larger ones are not cached
CACHE_SIZE = 20 * 10**9  # bytes, beyond which the least recently used files are deleted
ROWS = 32  # texts of a forward pass


@dataclass(frozen=True)
class FrozenBlocks:
    """The blocks of an adapted `model` before its first trainable one, which have the weights of `base`."""

    model: GPT2
    base: GPT2
    task: Task
    tokenizer: Tokenizer
    config: RunConfig

    def with_activations(self, tokens: Tokens, narrow: torch.dtype | None) -> Tokens:
        """Return examples with the output of these blocks; unchanged if no block is frozen or the output is too large."""
        model, end = self.model, self.model.first_trainable_block
        if not end or not len(tokens):
            return tokens
        of_texts = end == len(model.blocks) and self._trunk_input(tokens, np.array([0])).lengths is not None
        starts = np.arange(len(tokens)) if of_texts else np.cumsum(tokens.lengths) - tokens.lengths
        shape = (len(tokens) if of_texts else int(tokens.lengths.sum()), model.config.n_embd)
        if 4 * math.prod(shape) > LARGEST:
            return tokens
        path = cache_folder("activations") / f"{self._key(tokens, narrow)}.arrow"
        with locked(path.with_suffix(".lock")):
            if _read(path, shape) is None:
                activations = Activations(np.empty(shape, np.float32), starts, of_texts)
                with autocast(model.wte.weight.device, narrow):
                    self._fill(activations, tokens)
                with suppress(OSError):  # for example on a full disk; they are then computed in each epoch
                    array = pa.FixedSizeListArray.from_arrays(pa.array(activations.values.reshape(-1)), shape[1])
                    write_table(path, pa.Table.from_arrays([array], schema=_schema(shape[1])))
                    trim(path.parent, CACHE_SIZE)  # processes keep the deleted files that they have mapped
            values = _read(path, shape)
        return tokens if values is None else replace(tokens, activations=Activations(values, starts, of_texts))

    def _trunk_input(self, tokens: Tokens, index: np.ndarray) -> TrunkInput:
        batch = collate(tokens, index, self.model.wte.weight.device)
        return self.task.trunk_input(batch, self.tokenizer, self.config)

    @torch.inference_mode()
    def _fill(self, activations: Activations, tokens: Tokens) -> None:
        """Compute the activations in batches of texts of similar length."""
        model = self.model
        for index in by_length(tokens, ROWS):
            inputs = self._trunk_input(tokens, index)
            x = model.embed(inputs.input_ids, inputs.segments)
            outputs = model.run_blocks(x, inputs, 0, model.first_trainable_block).float().cpu().numpy()
            for row, number in enumerate(index):
                rows = outputs[row : row + 1] if activations.of_texts else outputs[row, : tokens.lengths[number]]
                start = activations.starts[number]
                activations.values[start : start + len(rows)] = rows

    def _key(self, tokens: Tokens, narrow: torch.dtype | None) -> str:
        """Return a hash of everything that decides the activations."""
        deciding = {
            "base": fixed_digest(self.base),
            "entry": self.model.first_trainable_block,
            "attention": self.config.attention_config.model_dump(),
            "task": self.task.name,
            "tokenizer": self.tokenizer.digest,  # its EOS token separates segments
            **self.config.values_of(keys_that_decide("reading")),
            "precision": str(narrow or "float32"),
            "computed": [torch.__version__, self.model.wte.weight.device.type],
        }
        sha = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
        sha.update(tokens.lengths.astype(np.int64).tobytes())
        for number in range(len(tokens)):
            sha.update(tokens[number].tobytes())
        return sha.hexdigest()


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Memory-map the activations in a file; return None if it is missing or damaged."""
    table = read_table(path, _schema(shape[1]))
    if table is None or len(table) != shape[0]:
        return None
    return np.asarray(table.column(0).chunk(0).flatten().to_numpy().reshape(shape))


def _schema(channels: int) -> pa.Schema:
    return pa.schema([("values", pa.list_(pa.float32(), channels))])
