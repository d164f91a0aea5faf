"""Check that a split can be scored."""

from gpt2core.data.corpus import NO_LABEL, Corpus
from gpt2core.errors import DataError
from gpt2core.metrics.form import GIVEN
from gpt2core.tasks import TASKS
from gpt2core.tasks.classification import Classification


def check_gold(corpus: Corpus, split: str, task: str) -> None:
    """Raise DataError if a split is missing, lacks labels, or has only the given lines of sonnets."""
    rows = corpus.splits.get(split)
    if not rows:
        filled = ", ".join(name for name, texts in corpus.splits.items() if texts)
        raise DataError(f"{corpus.origin.source}: there is no {split} split of the {corpus.name}; valid: {filled}")
    unknown = sum(row.label == NO_LABEL for row in rows) if isinstance(TASKS[task], Classification) else 0
    if unknown:
        raise DataError(
            f"{corpus.origin.source}: {unknown} of the {split} split's {len(rows)} texts have no label, so there is no score; "
            f"to predict their classes: gpt2-search predict --checkpoint RUN --split {split} --out FILE"
        )
    short = sum(row.text.count("\n") < GIVEN for row in rows) if task == "sonnet" else 0
    if short:
        raise DataError(
            f"{corpus.origin.source}: {short} of the {split} split's {len(rows)} texts have only the {GIVEN} given lines, "
            "so there is nothing to score against; the course's first release has whole sonnets in TRUE_sonnets_held_out.txt, "
            "and without --data-dir those of the package are used"
        )
