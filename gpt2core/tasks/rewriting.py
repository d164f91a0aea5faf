"""Rewriting a sentence in other words, learnt from generated pairs as in step 4 of Impossible Distillation."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gpt2core.config import RewritingKeys, RunConfig
from gpt2core.data.batches import Batch
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Example
from gpt2core.distill.dataset import rewriting_corpus
from gpt2core.distill.generator import REWRITE
from gpt2core.distill.student import divergences, own_texts, student_losses
from gpt2core.model import GPT2
from gpt2core.tasks.base import LanguageTask
from gpt2core.tokenizer import Tokenizer


class Rewriting(LanguageTask):
    """Paraphrase generation, trained on the generated pairs `config.pairs`."""

    name = "rewriting"
    keys = RewritingKeys
    encoding = f"{REWRITE} {{}}, EOS"

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Return overrides. A curriculum is for detection only, so that students are those of the fixed threshold."""
        rule = {"tau_rule": "fixed"} if config.tau_rule == "curriculum" else {}
        texts = {} if config.kl_weight else {"kl_on": None}
        return {**super().values(config), **rule, **texts}

    def corpus(self, config: RunConfig) -> Corpus:
        """Return accepted pairs; the dev split has those of one in twenty contexts of the first round."""
        return rewriting_corpus(config)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        """Return one example per pair: the prompt, which is given, then the paraphrase and EOS."""
        prompts = tokenizer.encode([REWRITE.format(row.text) for row in rows])
        answers = tokenizer.encode([f" {row.second}" for row in rows])
        return [
            Example(row.id, row.text, [*prompt, *answer, tokenizer.eos], given=len(prompt))
            for row, prompt, answer in zip(rows, prompts, answers, strict=True)
        ]

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        """Return cross-entropy plus `config.kl_weight` times the KL divergence from `base`, on the texts of `config.kl_on`."""
        if config.kl_on == "pairs" or not config.kl_weight:
            return student_losses(model, hidden, base, batch, config.kl_weight).sum()
        cross_entropy = model.loss(hidden, self.labels(batch, tokenizer, config), batch.predicted)
        own = own_texts(model, batch, tokenizer, config.seed)
        return cross_entropy + config.kl_weight * divergences(model, model(own.input_ids), base, own).sum()
