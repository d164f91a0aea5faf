"""What the frozen part of a model makes of a data set, computed once: runs that train blocks further up, or a head, start there.

The frozen part runs without dropout (`gpt2core.adapters`), so a text has the same activations in every epoch and every run of
one base. They are kept in Arrow files that are mapped into memory: what is read stays in memory as long as there is room, and all
processes of a machine share it.
"""

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from gpt2core.arrow_cache import keep, kept
from gpt2core.config import RunConfig
from gpt2core.data.batches import collate
from gpt2core.data.tokens import Activations, Tokens
from gpt2core.files import cache_folder, locked, trim
from gpt2core.model import GPT2, Reading
from gpt2core.tasks import Task
from gpt2core.tasks.base import by_length
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import fixed_digest

LARGEST = 4 * 10**9  # bytes of a data set's activations; of a larger one, none are kept
ALL = 20 * 10**9  # bytes of all that is kept; beyond, what was not used for longest goes
ROWS = 32  # texts that are computed at once


@dataclass(frozen=True)
class Frozen:
    """The part of an adapted `model` below its `entry`, whose weights are those of `base`, and the task that it reads for."""

    model: GPT2
    base: GPT2
    task: Task
    tokenizer: Tokenizer
    config: RunConfig

    def read(self, tokens: Tokens, autocast: torch.autocast) -> Tokens:
        """Return the same examples with what comes out of this part, computed within `autocast`; as they are where there is no
        such part, or too much of it."""
        model = self.model
        if not model.entry or not len(tokens):
            return tokens
        of_texts = model.entry == len(model.blocks) and self._reading(tokens, np.array([0])).lengths is not None
        starts = np.arange(len(tokens)) if of_texts else np.cumsum(tokens.lengths) - tokens.lengths
        shape = (len(tokens) if of_texts else int(tokens.lengths.sum()), model.config.n_embd)
        if 4 * math.prod(shape) > LARGEST:
            return tokens
        path = cache_folder("activations") / f"{self._address(tokens, autocast)}.arrow"
        with locked(path.with_suffix(".lock")):
            if _read(path, shape) is None:
                made = Activations(np.empty(shape, np.float32), starts, of_texts)
                with autocast:
                    self._fill(made, tokens)
                with suppress(OSError):  # on a full disk, say: they are computed in each epoch then
                    _write(path, made.values)
            values = _read(path, shape)
        return tokens if values is None else tokens.with_below(Activations(values, starts, of_texts))

    def _reading(self, tokens: Tokens, index: np.ndarray) -> Reading:
        batch = collate(tokens, index, self.model.wte.weight.device)
        return self.task.reading(batch, self.tokenizer, self.config)

    @torch.inference_mode()
    def _fill(self, made: Activations, tokens: Tokens) -> None:
        """Compute the activations, texts of like length together."""
        model = self.model
        for index in by_length(tokens, ROWS):
            reading = self._reading(tokens, index)
            x = model.embed(reading.input_ids, reading.segments)
            found = model.through(x, reading, 0, model.entry).float().cpu().numpy()
            for row, number in enumerate(index):
                rows = found[row : row + 1] if made.of_texts else found[row, : tokens.lengths[number]]
                made.values[made.starts[number] : made.starts[number] + len(rows)] = rows

    def _address(self, tokens: Tokens, autocast: torch.autocast) -> str:
        """A hash of all that decides the activations."""
        deciding = {
            "base": fixed_digest(self.base),
            "entry": self.model.entry,
            "attention": self.config.attention_config.model_dump(),
            "task": self.task.name,
            "tokenizer": self.tokenizer.digest,  # its EOS divides texts into segments
            "cross_documents": self.config.cross_documents,
            "precision": str(autocast.fast_dtype) if autocast._enabled else "float32",
            "computed": [torch.__version__, self.model.wte.weight.device.type],
        }
        sha = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
        sha.update(tokens.lengths.astype(np.int64).tobytes())
        for number in range(len(tokens)):
            sha.update(tokens[number].tobytes())
        return sha.hexdigest()


def _write(path: Path, values: np.ndarray) -> None:
    """Keep activations (R, C), and let the files go that were not used for longest."""
    array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    keep(path, pa.Table.from_arrays([array], schema=_schema(values.shape[1])))
    trim(path.parent, ALL)  # who has a file mapped keeps it


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """Map the activations of a file; None where it is not there, or damaged."""
    table = kept(path, _schema(shape[1]))
    if table is None or len(table) != shape[0]:
        return None
    return np.asarray(table.column(0).chunk(0).flatten().to_numpy().reshape(shape))


def _schema(channels: int) -> pa.Schema:
    return pa.schema([("values", pa.list_(pa.float32(), channels))])
