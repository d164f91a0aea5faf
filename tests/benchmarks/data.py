"""Compare tokenising and reading pairs with `datasets.map` and transformers: python -m tests.benchmarks.data.

Pairs are in the prompt of paraphrase detection: Quora's with --data-dir, else 11 words each from Shakespeare's plays;
`--pairs 141506` is Quora's training split. All use gpt2-nano's tokenizer and write Arrow files, with the same tokens.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import datasets
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from gpt2core.data.corpus import Row
from gpt2core.data.quora import load_quora
from gpt2core.data.shakespeare import load_plays
from gpt2core.data.tokens import Tokens, tokenised
from gpt2core.tasks import TASKS
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import model_folder
from tests.benchmarks.compare import TURNS, Comparison, differs, show

PAIRS = 20_000
CHECKED = 2_000  # pairs whose tokens are compared
WORDS = 11  # of a question of Quora, on average
READS = 20  # of one sample, which takes a millisecond or less


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of each side (default: {TURNS})")
    parser.add_argument("--data-dir", help="folder with the course's files")
    chosen = parser.parse_args()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    rows = load_quora(chosen.data_dir).splits["train"][: chosen.pairs] if chosen.data_dir else pairs(chosen.pairs)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPT2_SEARCH_CACHE"] = folder
        found = comparisons(rows, Path(folder))
        show(f"{len(rows):,} pairs, {os.cpu_count()} cores", found, chosen.turns)


def pairs(number: int) -> list[Row]:
    """So many different pairs of neighbouring passages of the plays."""
    words = [word for rows in load_plays().splits.values() for row in rows for word in row.text.split()]
    step = (len(words) - 2 * WORDS) / number
    starts = [int(place * step) for place in range(number)]
    halves = [(" ".join(words[s : s + WORDS]), " ".join(words[s + WORDS : s + 2 * WORDS])) for s in starts]
    return [Row(id=str(n), text=text, second=second, label=n % 2) for n, (text, second) in enumerate(halves)]


def comparisons(rows: Sequence[Row], folder: Path) -> Iterator[Comparison]:
    task, nano = TASKS["paraphrase"], model_folder("gpt2-nano")
    tokenizer, fast = Tokenizer.load(nano), PreTrainedTokenizerFast(tokenizer_file=str(nano / "tokenizer.json"))
    texts = [example.text for example in task.encode(rows, tokenizer)]
    numbers = count()

    def fresh(count: int | None = None) -> Tokens:
        return tokenised(f"{next(numbers)}", rows[:count], tokenizer, task.encode)

    def mapped(count: int | None = None, *, batched: bool) -> datasets.Dataset:
        return datasets.Dataset.from_dict({"text": texts[:count]}).map(
            lambda row: {"input_ids": fast(row["text"])["input_ids"]},
            batched=batched,
            cache_file_name=str(folder / f"{next(numbers)}.arrow"),
            load_from_cache_file=False,
        )

    def check() -> None:
        tokens = fresh(CHECKED)
        ours = [list(tokens[number]) for number in range(len(tokens))]
        if any(ours != mapped(CHECKED, batched=batched)["input_ids"][:] for batched in (False, True)):
            raise differs("tokenising")

    def read() -> Tokens:
        return tokenised("kept", rows, tokenizer, task.encode)

    read()
    written = "tokenised and written"
    for peer, way in (("one by one", partial(mapped, batched=False)), ("in batches", partial(mapped, batched=True))):
        yield Comparison(what=written, peer=f"datasets.map, {peer}", ours=fresh, theirs=way, check=check)
    for what, again in (("", read), (", each token looked at", lambda: read().values.sum())):
        yield Comparison(what=f"read back{what}", peer=written, ours=mean(again), theirs=fresh, reach=1000)


def mean(way: Callable[[], object]) -> Callable[[], float]:
    """A way that is taken several times and returns its mean seconds."""

    def run() -> float:
        started = time.perf_counter()
        for _ in range(READS):
            way()
        return (time.perf_counter() - started) / READS

    return run


if __name__ == "__main__":
    main()
