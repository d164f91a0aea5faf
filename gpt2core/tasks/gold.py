"""Whether a split can be scored."""

from gpt2core.data.corpus import NO_LABEL, Corpus
from gpt2core.errors import DataError
from gpt2core.metrics.form import GIVEN
from gpt2core.tasks import TASKS
from gpt2core.tasks.classification import Classification


def check_gold(corpus: Corpus, split: str, task: str) -> None:
    """Raise DataError where a split is not there, has no labels, or where its texts are only the lines that are given."""
    rows = corpus.splits.get(split)
    if not rows:
        filled = ", ".join(name for name, texts in corpus.splits.items() if texts)
        raise DataError(f"{corpus.origin.source}: there is no {split} split of the {corpus.name}; valid: {filled}")
    unknown = sum(row.label == NO_LABEL for row in rows) if isinstance(TASKS[task], Classification) else 0
    if unknown:
        raise DataError(
            f"{corpus.origin.source}: {unknown} of the {split} split's {len(rows)} texts have no label, so there is no score; "
            f"to predict them: python -m gpt2core predict --checkpoint RUN --split {split} --out FILE"
        )
    short = sum(row.text.count("\n") < GIVEN for row in rows) if task == "sonnet" else 0
    if short:
        raise DataError(
            f"{corpus.origin.source}: {short} of the {split} split's {len(rows)} texts are the {GIVEN} given lines alone, "
            "so there is nothing to score against; the course's first release has them whole in TRUE_sonnets_held_out.txt, and "
            "without --data-dir the package's are taken"
        )
