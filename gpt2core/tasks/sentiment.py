"""Sentiment classification."""

from collections.abc import Callable, Iterator, Sequence

from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Example, encoded
from gpt2core.tasks.classification import Classification
from gpt2core.tokenizer import Tokenizer


class Sentiment(Classification):
    """Sentiment of lower-cased texts of a corpus."""

    column = "Predicted_Sentiment"
    encoding = "stripped, lower-cased"

    def __init__(self, name: str, load: Callable[[str | None], Corpus], class_names: tuple[str, ...]) -> None:
        self.name, self.load, self.names = name, load, class_names

    def class_names(self, config: RunConfig) -> tuple[str, ...]:
        return self.names

    def corpus(self, config: RunConfig) -> Corpus:
        return self.load(config.data_dir)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterator[Example]:
        """Yield one example per text."""
        texts = [row.text.strip().lower() for row in rows]
        for row, text, ids in zip(rows, texts, encoded(texts, tokenizer), strict=True):
            yield Example(row.id, text, ids, row.label)
