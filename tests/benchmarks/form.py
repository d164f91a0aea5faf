"""Measure the form of sonnets by decoder, beside Shakespeare's: python -m tests.benchmarks.form --checkpoint RUN.

RUN is the folder of `gpt2-search train --task sonnet`. Each decoder continues the dev sonnets with `--seeds` seeds. Time is that
of one thread, and `times` is in units of top-p's; the time that `form` takes to read its lexicon is printed apart.
"""

import argparse
import time
from pathlib import Path

import torch

from gpt2core.builders import build_model
from gpt2core.checkpoints.best import load_best, run_config
from gpt2core.config import RunConfig
from gpt2core.decoding.form import lexicon
from gpt2core.decoding.text_cache import bypassing_text_cache
from gpt2core.metrics.baselines import split_given
from gpt2core.metrics.diversity import distinct_n
from gpt2core.metrics.form import FORM, form_counts
from gpt2core.metrics.metric import share
from gpt2core.model import GPT2
from gpt2core.tasks import TASKS, TaskData
from gpt2core.tasks.base import load_data
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import load_model, model_folder

DECODERS = ("top-p", "edt", "best-likelihood", "best-form", "form")
COLUMNS = {**dict.fromkeys(FORM, 3), "distinct_2": 3, "text_perplexity": 1, "chrf_continuation": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--top-p", type=float, default=0.9)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    config = run_config(chosen.checkpoint).but(decode_seeds=chosen.seeds, top_p=chosen.top_p, temperature=1.0)
    tokenizer = Tokenizer.load(model_folder(config.model))
    model = build_model(config, load_model(config.model), torch.device("cpu"))
    load_best(chosen.checkpoint, model)
    data = load_data(TASKS["sonnet"], config, tokenizer, model.config.n_positions)
    started = time.perf_counter()
    lexicon(tokenizer)
    print(f"Reading the lexicon took {time.perf_counter() - started:.1f} s\n")
    print(f"| decoder | {' | '.join(name.replace('_', ' ') for name in COLUMNS)} | seconds | times |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    plain = 0.0
    for name in DECODERS:
        scores, seconds = measured(model, data, config.but(decoder=name))
        plain = plain or seconds
        show(name, scores, f"{seconds:.1f} | {seconds / plain:.1f}")
    show("Shakespeare", gold(model, data, config), " | ")


def measured(model: GPT2, data: TaskData, config: RunConfig) -> tuple[dict[str, float], float]:
    """Return the scores of a decoder, and the seconds of its texts."""
    with bypassing_text_cache():
        evaluation = TASKS["sonnet"].evaluate(model.train(False), data, config, "dev")
    return evaluation.metrics, evaluation.generate_seconds


def gold(model: GPT2, data: TaskData, config: RunConfig) -> dict[str, float]:
    """Return the scores of the dev sonnets."""
    texts = data.splits["dev"].texts
    given, rest = zip(*map(split_given, texts), strict=True)
    counts = form_counts(given, [rest], data.splits["train"].texts)
    loss = TASKS["sonnet"].evaluate(model, data, config.but(decode_seeds=0), "dev").metrics
    others = {"distinct_2": distinct_n(texts, 2), "text_perplexity": loss["dev_perplexity"], "chrf_continuation": 100.0}
    return {name: float(share(count.sum(axis=(0, 1)))) for name, count in counts.items()} | others


def show(name: str, scores: dict[str, float], seconds: str) -> None:
    print(
        f"| {name} | {' | '.join(f'{scores[key]:.{digits}f}' for key, digits in COLUMNS.items())} | {seconds} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
