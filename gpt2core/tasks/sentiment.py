"""Sentiment of a text."""

from collections.abc import Callable, Sequence

from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Example
from gpt2core.tasks.classification import Classification
from gpt2core.tokenizer import Tokenizer


class Sentiment(Classification):
    """The class of a text, lower-cased and stripped. One for each corpus."""

    column = "Predicted_Sentiment"
    encoding = "stripped, lower-cased"

    def __init__(self, name: str, load: Callable[[str | None], Corpus], class_names: tuple[str, ...]) -> None:
        self.name, self.load, self.class_names = name, load, class_names

    def corpus(self, config: RunConfig) -> Corpus:
        """Texts with their classes."""
        return self.load(config.data_dir)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        """One example a text."""
        texts = [row.text.strip().lower() for row in rows]
        encoded = tokenizer.encode(texts)
        return [Example(row.id, text, ids, row.label) for row, text, ids in zip(rows, texts, encoded, strict=True)]
