"""Causal language modelling on long texts, joined by EOS and cut into blocks of equal length."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Literal

import numpy as np
from torch import Tensor

from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Example, Tokens
from gpt2core.metrics.bootstrap import interval
from gpt2core.metrics.floors import Floor
from gpt2core.model import GPT2, IGNORE
from gpt2core.tasks.base import Evaluation, LanguageTask, TaskData, loss_statistics, mean_loss, perplexity
from gpt2core.tokenizer import Tokenizer

BLOCK = 256  # tokens of an example


class Pretraining(LanguageTask):
    """The texts of a corpus as one stream of tokens. One for each corpus."""

    objective = "dev_loss"
    encoding = f"one stream with EOS behind each text, in blocks of {BLOCK} that overlap by one"
    direction: Literal["max", "min"] = "min"

    def __init__(self, name: str, load: Callable[[str | None], Corpus]) -> None:
        self.name, self.load = name, load

    def corpus(self, data_dir: str | None) -> Corpus:
        """Long texts."""
        return self.load(data_dir)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        """Join all rows, EOS after each, and cut blocks of BLOCK tokens that overlap by one; the rest is left out."""
        stream = list(chain.from_iterable([*ids, tokenizer.eos] for ids in tokenizer.encode([r.text for r in rows])))
        return [Example(str(i), "", stream[i : i + BLOCK]) for i in range(0, len(stream) - BLOCK + 1, BLOCK - 1)]

    def losses(self, model: GPT2, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Next-token cross-entropy; unless `config.cross_documents`, no token sees, or is predicted from, another text."""
        labels = batch.next_tokens()
        if config.cross_documents:
            return model.losses(batch.input_ids, labels)
        ends = (batch.input_ids == tokenizer.eos).long()
        labels[:, 1:][ends[:, :-1].bool()] = IGNORE
        return model.losses(batch.input_ids, labels, ends.cumsum(dim=-1) - ends)  # EOS belongs to the text that it ends

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Each token but the first of a block, and of a text unless they are crossed, is predicted."""
        if config.cross_documents:
            return tokens.lengths - 1
        ends = np.cumsum([0, *(tokens.values == tokenizer.eos)])
        return np.asarray(tokens.lengths - 1 - (ends[tokens.offsets[1:] - 1] - ends[tokens.offsets[:-1]]))

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Cross-entropy (nats per token) with a 95% bootstrap interval over blocks, and perplexity."""
        statistics = loss_statistics(self, model, data, config, split)[None]
        found = interval(statistics, self.score)
        metrics = {
            f"{split}_loss": found.estimate,
            f"{split}_loss_low": found.low,
            f"{split}_loss_high": found.high,
            f"{split}_perplexity": perplexity(found.estimate),
        }
        return Evaluation(metrics=metrics, statistics=statistics)

    def score(self, statistics: np.ndarray) -> np.ndarray:
        """Nats per token."""
        return mean_loss(statistics)

    def floors(self, data: TaskData, split: str) -> dict[str, Floor]:
        """Nothing to lay beside a perplexity."""
        return {}
