"""Sentiment of a text."""

from collections.abc import Callable, Iterator, Sequence

from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.tokens import Example, encoded
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

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Iterator[Example]:
        """One example a text."""
        for row, ids in zip(rows, encoded(map(self._text, rows), tokenizer), strict=True):
            yield Example(row.id, self._text(row), ids, row.label)

    def _text(self, row: Row) -> str:
        return row.text.strip().lower()
