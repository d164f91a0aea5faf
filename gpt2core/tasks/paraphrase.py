"""Paraphrase detection: whether two questions ask the same, as a prompt with both that the next token answers."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from gpt2core.config import ParaphraseKeys, RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.quora import load_quora
from gpt2core.data.tokens import Example, encoded
from gpt2core.distill.dataset import with_pairs
from gpt2core.errors import ConfigError
from gpt2core.metrics.classification import calibration_error, second_f1
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.losses import mean_loss
from gpt2core.metrics.metric import Metric, named
from gpt2core.model import GPT2, upcast
from gpt2core.tasks.classification import CLASSIFIED, Classification, in_percent
from gpt2core.tokenizer import Tokenizer

#: The prompt for training and evaluation. It ends with a line break, so that an answer is a token without a leading space.
PROMPT = "First question: {}\nSecond question: {}\nDo the two ask the same thing, yes or no?\n"
ANSWERS = ("no", "yes")


class Paraphrase(Classification):
    """Detection by `config.paraphrase_head`: `binary` is a head of its own, `cloze` the tied head's logits of `yes` and `no`."""

    name = "paraphrase"
    keys = ParaphraseKeys
    metrics: Mapping[str, Metric] = {
        **CLASSIFIED,
        **named(
            in_percent("f1", second_f1),  # of duplicates
            Metric("brier_score", Direction.MIN, "", 0.005, 3, "brier", mean_loss, (0.0, 1.0)),
            Metric("calibration_error", Direction.MIN, "", 0.01, 3, bounds=(0.0, 1.0)),
        ),
    }
    column = "Predicted_Is_Paraphrase"
    encoding = PROMPT

    def class_names(self, config: RunConfig) -> tuple[str, ...]:
        return ANSWERS

    def corpus(self, config: RunConfig) -> Corpus:
        """Return Quora's question pairs; with `config.pairs`, mixed with generated pairs in the training split."""
        return with_pairs(load_quora(config.data_dir), config)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterator[Example]:
        """Yield one prompt per pair."""
        prompts = (PROMPT.format(row.text, row.second) for row in rows)
        for row, ids in zip(rows, encoded(prompts, tokenizer), strict=True):
            yield Example(row.id, PROMPT.format(row.text, row.second), ids, row.label)

    def classes(self, config: RunConfig) -> int:
        """Return 2 for a head of its own, 0 for the cloze."""
        return super().classes(config) if config.paraphrase_head == "binary" else 0

    def class_logits(self, model: GPT2, hidden: Tensor, tokenizer: Tokenizer, config: RunConfig) -> Tensor:
        """Return the logits (B, 2) of no and yes; raise ConfigError if the tokenizer has no such tokens."""
        if config.paraphrase_head == "binary":
            return super().class_logits(model, hidden, tokenizer, config)
        return upcast(functional.linear(hidden, model.wte.weight[answer_tokens(tokenizer)]))

    def further(self, probabilities: np.ndarray, gold: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Return the counts of the Brier score, and the calibration error, 0 to 1."""
        distances = (probabilities[:, 1] - gold) ** 2  # their mean is the Brier score (Brier 1950)
        counts = {"brier": np.stack([distances, np.ones(len(gold))], axis=1)[None]}
        return counts, {"calibration_error": calibration_error(probabilities, gold)}


def answer_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of no and yes; raise ConfigError if one of these words is more than one token."""
    tokens = tokenizer.encode(ANSWERS)
    for word, ids in zip(ANSWERS, tokens, strict=True):
        if len(ids) != 1:
            raise ConfigError(
                f"The value of `paraphrase_head` is 'cloze', but this model's tokenizer splits {word!r} into {len(ids)} "
                "tokens instead of one; use `binary`, or a model with GPT-2's own tokenizer"
            )
    return [ids[0] for ids in tokens]
