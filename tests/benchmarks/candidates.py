"""Compare candidate generation with a plain loop around transformers: python -m tests.benchmarks.candidates.

For each context, the loop calls `generate` with a returned sequence per candidate, then applies the same sentence rule, critic
and filters. Its contexts are given; the pipeline generates them and writes all files. Both use the same number of threads. With
`--memory`, measure instead the peak memory of the driver and the actors for 1,000 and for 10,000 contexts.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from cluster.connect import connect
from gpt2core.config import Thresholds
from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.critics import CRITICS
from gpt2core.distill.filters import filter_pairs
from gpt2core.distill.generator import Generator, pairs_of
from gpt2core.distill.scores import score_pairs
from gpt2core.distill.sentences import first_sentence
from gpt2core.distill.shards import PAIRS, read
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import load_model, model_folder
from tests.benchmarks.generation import models
from trainables.candidates.job import Job
from trainables.candidates.pipeline import run
from trainables.candidates.progress import Progress

CONSOLE = Console()
Record = dict[str, Any]


def main() -> None:
    logging.disable_progress_bar()
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--contexts", type=int, default=200, help="of the pipeline")
    options.add_argument("--loop-contexts", type=int, default=30, help="of the loop, the first ones of the pipeline's")
    options.add_argument("--candidates", type=int, default=10)
    options.add_argument("--repeats", type=int, default=1)
    options.add_argument("--model", default="gpt2-nano")
    options.add_argument("--memory", action="store_true")
    options.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000], help="contexts, with --memory")
    chosen = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    connect()
    generation = GenerationConfig(candidates=chosen.candidates)
    CONSOLE.print(memory_table(chosen, generation) if chosen.memory else speed_table(chosen, generation))


def job_of(folder: Path, model: str, generation: GenerationConfig, contexts: int, workers: int) -> Job:
    """A job of the pipeline with the critic that needs no model."""
    shape: dict[str, Any] = {"contexts": contexts, "workers": workers, "scorers": workers}
    return Job(out=str(folder), model=model, generator=model, generation=generation, thresholds=Thresholds(), **shape)


def speed_table(chosen: argparse.Namespace, generation: GenerationConfig) -> Table:
    """Candidates a second of the loop, of the pipeline from when a worker is ready, and of all of it."""
    title = f"{chosen.contexts} contexts x {chosen.candidates} candidates, {chosen.model}, {os.cpu_count()} cores"
    table = Table("workers, or threads", title=title)
    for heading in ("loop, candidates/s", "pipeline from ready", "times as fast", "pipeline in all"):
        table.add_column(heading, justify="right")
    loop = Loop(chosen.model, generation)
    rates: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    for _ in range(chosen.repeats):
        for workers, found in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                job = job_of(Path(folder), chosen.model, generation, chosen.contexts, workers)
                ready, whole = pipeline_rates(job)
                contexts = contexts_of(job)[: chosen.loop_contexts]
            found.append((loop.rate(contexts, workers), ready, whole))
    for workers, found in rates.items():
        slow, ready, whole = (statistics.median(column) for column in zip(*found, strict=True))
        table.add_row(str(workers), f"{slow:.1f}", f"{ready:.1f}", f"{ready / slow:.2f}", f"{whole:.1f}")
    return table


def pipeline_rates(job: Job) -> tuple[float, float]:
    """Candidates a second from when the first worker is ready to the last file, and of all that."""
    told: list[Progress] = []
    start = time.perf_counter()
    made = run(job, [told.append])["candidates"]["made"]
    seconds = time.perf_counter() - start
    starting = told[-1].seconds - told[-1].working
    return made / (seconds - starting), made / seconds


def contexts_of(job: Job) -> list[Record]:
    return [row for path in sorted((job.folder / "contexts").iterdir()) for row in read(path).to_pylist()]


class Loop:
    """The plain way, with the same weights."""

    def __init__(self, name: str, generation: GenerationConfig) -> None:
        self.generation = generation
        self.tokenizer = Tokenizer.load(model_folder(name))
        self.model: GPT2LMHeadModel = models(name, "cpu")[1]
        self.newlines = Generator(load_model(name), self.tokenizer).newlines
        self.critic = CRITICS["overlap"].of({})

    def rate(self, contexts: Sequence[Record], threads: int) -> float:
        """Candidates a second, with pairs scored and filtered."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        start = time.perf_counter()
        count = 0
        for context in contexts:
            rows = self.candidates(context)
            scored, _ = score_pairs(pairs_of([context], rows, round=1, rewrite=False), self.critic)
            filter_pairs(pa.Table.from_pylist(scored, PAIRS), Thresholds())
            count += len(rows)
        seconds = time.perf_counter() - start
        torch.set_num_threads(before)
        return count / seconds

    @torch.inference_mode()
    def candidates(self, context: Record) -> list[Record]:
        (prompt,) = self.tokenizer.encode([context["text"]])
        found = self.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            num_return_sequences=self.generation.candidates,
            do_sample=True,
            temperature=self.generation.temperature,
            top_p=self.generation.top_p,
            top_k=0,
            no_repeat_ngram_size=self.generation.no_repeat_ngram,
            suppress_tokens=self.newlines,
            max_new_tokens=self.generation.candidate_tokens,
            eos_token_id=self.tokenizer.eos,
            pad_token_id=self.tokenizer.eos,
        )
        texts = [first_sentence(self.tokenizer.decode(ids)) for ids in found[:, len(prompt) :].tolist()]
        rows = enumerate(zip(texts, ["" if text else "unfinished" for text in texts], strict=True))
        return [{"context": context["context"], "number": n, "text": t or "", "reason": why} for n, (t, why) in rows]


def memory_table(chosen: argparse.Namespace, generation: GenerationConfig) -> Table:
    table = Table("contexts", title=f"most memory of one process, MiB; {chosen.model}, 2 workers")
    for heading in ("driver", "generator", "scorer", "s", "pairs", "accepted"):
        table.add_column(heading, justify="right")
    for contexts in chosen.sizes:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, watched() as peaks:
            entry = run(job_of(Path(folder), chosen.model, generation, contexts, 2))
        figures = [f"{peaks.get(kind, 0) / 2**20:,.0f}" for kind in ("driver", "generator", "scorer")]
        counts = [f"{entry['pairs']['made']:,}", f"{entry['accepted']:,}"]
        table.add_row(f"{contexts:,}", *figures, f"{time.perf_counter() - start:.0f}", *counts)
    return table


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Look at this process and its actors all the time; give the most bytes of each kind."""
    peaks: dict[str, int] = {}
    end = threading.Event()

    def look() -> None:
        while not end.wait(0.2):
            for kind, resident in residents():
                peaks[kind] = max(peaks.get(kind, 0), resident)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        end.set()
        thread.join()


def residents() -> Iterator[tuple[str, int]]:
    itself = psutil.Process()
    yield "driver", itself.memory_info().rss
    for child in itself.children(recursive=True):
        try:
            name, resident = next(iter(child.cmdline()), ""), child.memory_info().rss
        except psutil.Error:
            continue  # it has just ended
        for kind in ("generator", "scorer"):
            if name.startswith(f"ray::{kind.capitalize()}Actor"):
                yield kind, resident


if __name__ == "__main__":
    main()
