"""Rewriting: saying a sentence in other words, learnt from generated pairs as step 4 of Impossible Distillation has it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gpt2core.config import RewritingKeys, RunConfig
from gpt2core.data.batches import Batch
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Example
from gpt2core.distill.dataset import rewriting_corpus
from gpt2core.distill.generator import REWRITE
from gpt2core.distill.student import student_losses
from gpt2core.model import GPT2
from gpt2core.tasks.base import PerplexityTask, values_of_pairs
from gpt2core.tokenizer import Tokenizer


class Rewriting(PerplexityTask):
    """A sentence in, one that says the same out. `config.pairs` is what it is learnt from."""

    name = "rewriting"
    keys = RewritingKeys
    encoding = f"{REWRITE} {{}}, EOS"

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Without pairs, none of their keys counts."""
        return values_of_pairs(self.keys, config)

    def corpus(self, config: RunConfig) -> Corpus:
        """Accepted pairs; those of one context in twenty of the first round are the dev split."""
        return rewriting_corpus(config)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        """The prompt is given; what is learnt is the other sentence and EOS."""
        prompts = tokenizer.encode([REWRITE.format(row.text) for row in rows])
        answers = tokenizer.encode([f" {row.second}" for row in rows])
        return [
            Example(row.id, row.text, [*prompt, *answer, tokenizer.eos], given=len(prompt))
            for row, prompt, answer in zip(rows, prompts, answers, strict=True)
        ]

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        """Cross-entropy and `config.kl_weight` times the divergence from `base`."""
        labels = self.labels(batch, tokenizer, config)
        return student_losses(model, hidden, base, batch.input_ids, labels, config.kl_weight).sum()
