"""This project's own paraphrase classifier: the probability that two texts are duplicates by a run of the task `paraphrase`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt2core.errors import ConfigError

if TYPE_CHECKING:
    from gpt2core.config import RunConfig
    from gpt2core.data.tokens import Tokens
    from gpt2core.model import GPT2

MAKE_ONE = "python -m gpt2core train --task paraphrase --out FOLDER"


class Classifier:
    """The best epoch of a run, given as the folder that `python -m gpt2core train` wrote.

    Raises ConfigError without a folder or for a run of another task, CheckpointError where the folder holds no run.
    """

    stand_in = (
        "this project's paraphrase classifier, a stand-in for entailment: the probability that two questions ask the same, "
        "learned from Quora's pairs, so it must not judge a Quora result"
    )

    def __init__(self, model: str | None = None) -> None:

        from gpt2core import checkpoints
        from gpt2core.builders import build_model, device
        from gpt2core.pretrain_stage import starting_model
        from gpt2core.tasks.paraphrase import Paraphrase
        from gpt2core.tokenizer import Tokenizer
        from gpt2core.weights import model_folder

        if model is None:
            raise ConfigError(
                f"The critic `classifier` needs a run: give --critic-model its FOLDER, made by {MAKE_ONE}"
            )
        folder = Path(model).expanduser()
        self.config = checkpoints.run_config(folder)
        if self.config.task != Paraphrase.name:
            raise ConfigError(
                f"{folder}: is a run of the task `{self.config.task}`, but --critic-model must be one of "
                f"`{Paraphrase.name}`: {MAKE_ONE}"
            )
        self.task, self.tokenizer = Paraphrase(), Tokenizer.load(model_folder(self.config.model))
        base = starting_model(self.config)
        self.model = build_model(self.config, base, device())
        checkpoints.load_best(folder, self.model, base)
        self.model.train(False)
        self.identity: Mapping[str, str] = {
            "critic": "classifier",
            "model": model,
            "digest": _digest(self.config, self.model, self.tokenizer.digest),
        }

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return (N,) the probability of `duplicate` for (premise, hypothesis) in the task's prompt.

        Raises ValueError for a prompt that is longer than the model's context, DivergedError where a score is not finite.
        """
        tokens = self._tokens(premises, hypotheses)
        if not len(tokens):
            return np.zeros(0)
        scores = self.task.log_probabilities(self.model, tokens, self.tokenizer, self.config)
        return np.asarray(np.exp(scores[:, 1]))

    def _tokens(self, premises: Sequence[str], hypotheses: Sequence[str]) -> "Tokens":
        """Prompts, in memory: the cache of `tokenised` is for what is read again."""
        from gpt2core.data.corpus import Row
        from gpt2core.data.tokens import Tokens

        pairs = enumerate(zip(premises, hypotheses, strict=True))
        rows = [Row(id=str(number), text=first, second=second) for number, (first, second) in pairs]
        examples = list(self.task.encode(rows, self.tokenizer))
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        limit = self.model.config.n_positions
        if len(lengths) and lengths.max() > limit:
            worst = examples[int(lengths.argmax())]
            raise ValueError(f"The prompt {worst.text[:60]!r}... has {lengths.max()} tokens; the context has {limit}")
        return Tokens(
            ids=[example.id for example in examples],
            texts=[example.text for example in examples],
            values=np.array([token for example in examples for token in example.input_ids], dtype=np.int32),
            starts=lengths.cumsum() - lengths,
            lengths=lengths,
            labels=np.array([example.label for example in examples], dtype=np.int64),
            given=np.array([example.given for example in examples], dtype=np.int64),
        )


def _digest(config: "RunConfig", model: "GPT2", tokenizer: str) -> str:
    """SHA-256 of all weights, of those too that the run did not train and so did not save, and of what else decides scores."""
    import torch

    from gpt2core.tasks.paraphrase import PROMPT

    digest = hashlib.sha256(json.dumps([config.model_dump(), tokenizer, PROMPT], sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
