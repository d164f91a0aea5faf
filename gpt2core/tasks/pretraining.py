"""Causal language modelling on long texts, concatenated with EOS and cut into blocks of equal length."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from gpt2core.config import RunConfig
from gpt2core.data.batches import Batch
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Example, Tokens, encoded
from gpt2core.model import IGNORE, TrunkInput
from gpt2core.tasks.base import LanguageTask
from gpt2core.tokenizer import Tokenizer

BLOCK = 256  # tokens of an example


class Pretraining(LanguageTask):
    """Language modelling of a corpus as one stream of tokens."""

    encoding = f"one stream with EOS behind each text, in blocks of {BLOCK} that overlap by one"

    def __init__(self, name: str, load: Callable[[str | None], Corpus]) -> None:
        self.name, self.load = name, load

    def corpus(self, config: RunConfig) -> Corpus:
        return self.load(config.data_dir)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterator[Example]:
        """Yield blocks of BLOCK tokens that overlap by one, from all rows with EOS after each; drop an incomplete last block."""
        stream: list[int] = []  # the tokens after the last block, and its last token
        first = 0  # the index of the stream's first token among all tokens
        for ids in encoded((row.text for row in rows), tokenizer):
            stream += [*ids, tokenizer.eos]
            starts = range(0, len(stream) - BLOCK + 1, BLOCK - 1)
            for start in starts:
                yield Example(str(first + start), "", stream[start : start + BLOCK])
            first += len(starts) * (BLOCK - 1)
            del stream[: len(starts) * (BLOCK - 1)]

    def trunk_input(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> TrunkInput:
        """Return each text as its own segment, so that no token attends to another text, unless `config.cross_documents`."""
        if config.cross_documents:
            return TrunkInput(batch.input_ids, cached_activations=batch.cached_activations)
        ends = (batch.input_ids == tokenizer.eos).long()
        segments = ends.cumsum(dim=-1) - ends  # EOS belongs to the text that it ends
        return TrunkInput(batch.input_ids, segments, cached_activations=batch.cached_activations)

    def labels(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Return all tokens but the first of each text, which would be predicted from another text, unless `cross_documents`."""
        labels = batch.next_tokens()
        if config.cross_documents:
            return labels
        first = functional.pad(batch.input_ids[:, :-1] == tokenizer.eos, (1, 0))
        return labels.masked_fill(first, IGNORE)

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Return the number of tokens but the first of a block and, unless `cross_documents`, of each text."""
        if config.cross_documents:
            return tokens.lengths - 1
        ends = np.cumsum([0, *(tokens.values == tokenizer.eos)])
        return np.asarray(tokens.lengths - 1 - (ends[tokens.starts + tokens.lengths - 1] - ends[tokens.starts]))
