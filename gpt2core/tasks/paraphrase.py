"""Paraphrase detection: whether two questions ask the same. Both are put into one prompt that the next token answers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from gpt2core.config import ParaphraseKeys, RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.quora import load_quora
from gpt2core.data.tokens import Example, encoded
from gpt2core.distill.dataset import with_pairs
from gpt2core.errors import ConfigError
from gpt2core.metrics.classification import calibration_error, second_f1, squared_distances
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.losses import mean_loss
from gpt2core.metrics.metric import Metric, named
from gpt2core.model import GPT2, upcast
from gpt2core.tasks.base import values_of_pairs
from gpt2core.tasks.classification import CLASSIFIED, Classification, in_percent
from gpt2core.tokenizer import Tokenizer

#: The only prompt, of training and of all scores. It ends with a line, so that an answer is a token without a space.
PROMPT = "First question: {}\nSecond question: {}\nDo the two ask the same thing, yes or no?\n"
ANSWERS = ("no", "yes")


class Paraphrase(Classification):
    """`config.paraphrase_head` says what answers: `binary`, a head of its own, or `cloze`, the tied head's `yes` and `no`."""

    name = "paraphrase"
    keys = ParaphraseKeys
    metrics: Mapping[str, Metric] = {
        **CLASSIFIED,
        **named(
            in_percent("f1", second_f1),  # of duplicates
            Metric(
                name="brier_score",
                direction=Direction.MIN,
                unit="",
                margin=0.005,
                digits=3,
                counts="brier",
                score=mean_loss,
                bounds=(0.0, 1.0),
            ),
            Metric(
                name="calibration_error", direction=Direction.MIN, unit="", margin=0.01, digits=3, bounds=(0.0, 1.0)
            ),
        ),
    }
    class_names = ANSWERS
    column = "Predicted_Is_Paraphrase"
    encoding = PROMPT

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Without pairs, none of their keys counts."""
        return values_of_pairs(self.keys, config)

    def corpus(self, config: RunConfig) -> Corpus:
        """Quora's question pairs; with `config.pairs`, generated ones among those of the training split."""
        return with_pairs(load_quora(config.data_dir), config)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterator[Example]:
        """One prompt a pair."""
        prompts = (PROMPT.format(row.text, row.second) for row in rows)
        for row, ids in zip(rows, encoded(prompts, tokenizer), strict=True):
            yield Example(row.id, PROMPT.format(row.text, row.second), ids, row.label)

    def classes(self, config: RunConfig) -> int:
        """The cloze needs no head of its own."""
        return super().classes(config) if config.paraphrase_head == "binary" else 0

    def class_logits(self, model: GPT2, hidden: Tensor, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Scores (B, 2) of no and yes; raise ConfigError where the tokenizer has no such tokens."""
        if config.paraphrase_head == "binary":
            return super().class_logits(model, hidden, tokenizer, config)
        return upcast(functional.linear(hidden, model.wte.weight[answer_tokens(tokenizer)]))

    def further(self, probabilities: np.ndarray, gold: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Squared distances of the probability of a duplicate; the calibration error, 0 to 1."""
        distances = squared_distances(probabilities[:, 1], gold)
        counts = {"brier": np.stack([distances, np.ones(len(gold))], axis=1)[None]}
        return counts, {"calibration_error": calibration_error(probabilities, gold)}


def answer_tokens(tokenizer: Tokenizer) -> list[int]:
    """The tokens of no and yes; raise ConfigError where one of them is more than one token."""
    tokens = tokenizer.encode(ANSWERS)
    for word, ids in zip(ANSWERS, tokens, strict=True):
        if len(ids) != 1:
            raise ConfigError(
                f"The value of `paraphrase_head` is 'cloze', but this model's tokenizer cuts {word!r} into {len(ids)} "
                "tokens, and it must be one; take `binary`, or a model with GPT-2's own tokenizer"
            )
    return [ids[0] for ids in tokens]
