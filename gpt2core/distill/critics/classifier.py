"""This project's own paraphrase classifier: a run of the task `paraphrase` scores whether two texts are duplicates."""

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

HINT = "make one with `gpt2-search train --task paraphrase --out FOLDER`"


class Classifier:
    """Scores with the best epoch of a run, given as the folder that `gpt2-search train` wrote.

    Raises ConfigError if there is no folder or the run has another task, and CheckpointError if the folder holds no run.
    """

    stand_in = (
        "this project's paraphrase classifier, a stand-in for entailment: it was trained on Quora's pairs to say whether two "
        "questions ask the same, so it must not judge a Quora result"
    )

    def __init__(self, model: str | None = None) -> None:
        from gpt2core.builders import build_model, device
        from gpt2core.checkpoints.best import load_best, run_config
        from gpt2core.pretrain_stage import starting_model
        from gpt2core.tasks.paraphrase import Paraphrase
        from gpt2core.tokenizer import Tokenizer
        from gpt2core.weights import model_folder

        if model is None:
            raise ConfigError(f"The critic `classifier` needs a run: give --critic-model its FOLDER, or {HINT}")
        folder = Path(model).expanduser()
        self.config = run_config(folder)
        if self.config.task != Paraphrase.name:
            raise ConfigError(
                f"{folder}: is a run of the task `{self.config.task}`, but --critic-model must be one of `{Paraphrase.name}`; "
                f"{HINT}"
            )
        self.task, self.tokenizer = Paraphrase(), Tokenizer.load(model_folder(self.config.model))
        base = starting_model(self.config)
        self.model = build_model(self.config, base, device())
        load_best(folder, self.model, base)
        self.model.train(False)
        digest = _digest(self.config, self.model, self.tokenizer.digest)
        self.identity: Mapping[str, str] = {"critic": "classifier", "model": model, "digest": digest}

    def entailment(self, premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        """Return the probabilities (N,) of `duplicate` for each premise and hypothesis in the task's prompt.

        Raises ValueError for a prompt longer than the model's context, and DivergedError if a score is not finite.
        """
        tokens = self._tokens(premises, hypotheses)
        if not len(tokens):
            return np.zeros(0)
        scores = self.task.log_probabilities(self.model, tokens, self.tokenizer, self.config)
        return np.asarray(np.exp(scores[:, 1]))

    def _tokens(self, premises: Sequence[str], hypotheses: Sequence[str]) -> "Tokens":
        """Tokenise the prompts in memory: they are read only once, so not through the cache of `tokenised`."""
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
    """Return the SHA-256 of all that decides scores, including weights that the run did not train and so did not save."""
    import torch

    from gpt2core.tasks.paraphrase import PROMPT

    digest = hashlib.sha256(json.dumps([config.model_dump(), tokenizer, PROMPT], sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
