"""The actors of a round: generators make contexts and candidates; scorers score pairs, filter them and write the accepted ones.

Shard names are known before the files exist: an actor makes the files that are missing, and answers with counts. Rows stay in
the files.
"""

import functools
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from gpt2core.builders import device
from gpt2core.config import RunConfig
from gpt2core.distill.acceptance import write_accepted
from gpt2core.distill.critics import CRITICS, Critic
from gpt2core.distill.filters import filter_pairs
from gpt2core.distill.generator import Generator, Record, generate_candidates, generate_contexts, pairs_of, prefixes_of
from gpt2core.distill.scores import score_pairs
from gpt2core.distill.shards import ACCEPTED, STAGES, Shard, read
from gpt2core.estimates import Range
from gpt2core.precision import for_generation
from gpt2core.speed import mean_range, timed
from gpt2core.tasks import TASKS
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import digest, load_model, model_folder
from trainables.candidates.job import Job, shards
from trainables.candidates.progress import Report
from trainables.nodes import hide_foreign_gpus

#: Shard number, files by stage -> the rows of one of these files, and rows for the quarantine.
Maker = Callable[[int, Mapping[str, Shard]], tuple[Any, list[Record]]]

TIMED_CONTEXTS, TIMED_SHARDS = 8, 3  # contexts of a shard, and shards, that `job_seconds` makes
KEPT = {"candidates": "usable", "judged": ACCEPTED}  # stage -> what rows without a reason count as


class GeneratorActor:
    """Generates contexts and candidates. The first call loads the models, also after a restart."""

    def __init__(self, job: Job) -> None:
        self.job = job
        hide_foreign_gpus()
        if not torch.cuda.is_available():
            torch.set_num_threads(1)  # else the last digits would depend on the number of threads, and so of workers

    @functools.cached_property
    def prefixes(self) -> list[str]:
        """The beginnings of contexts, from the training texts of the source."""
        settings = self.job.context_settings
        source = TASKS[settings.source]
        corpus = source.corpus(RunConfig(task=source.name, data_dir=self.job.data_dir))
        return prefixes_of(corpus.splits["train"], settings)

    def identity(self) -> dict[str, Any]:
        """Return digests of what decides the texts; raise UserError if a model or the data cannot be read."""
        job, prefixes = self.job, json.dumps(self.prefixes).encode()
        digests = {name: _generator(name)[1] for name in {job.model, job.generator}}
        return {
            "model": digests[job.model],
            "generator": digests[job.generator],
            "prefixes": hashlib.sha256(prefixes).hexdigest(),
        }

    def run(self, number: int, files: dict[str, Shard]) -> Report:
        """Generate the contexts and candidates of a shard."""
        return _make_missing(number, files, {"contexts": self._contexts, "candidates": self._candidates})

    def _contexts(self, number: int, files: Mapping[str, Shard]) -> tuple[list[Record], list[Record]]:
        job, (teacher, _) = self.job, _generator(self.job.model)
        how = {"count": job.shard_size(number), "round": job.round, "number": number}
        return generate_contexts(teacher, self.prefixes, job.context_settings, **how)

    def _candidates(self, number: int, files: Mapping[str, Shard]) -> tuple[list[Record], list[Record]]:
        job, (generator, _) = self.job, _generator(self.job.generator)
        contexts, place = files["contexts"].read().to_pylist(), {"round": job.round, "number": number}
        return generate_candidates(generator, contexts, job.generation, rewrite=job.rewrite, **place)


class ScorerActor:
    """Scores pairs of candidates and filters them. It holds the critic."""

    def __init__(self, job: Job) -> None:
        self.job = job
        hide_foreign_gpus()
        torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = True  # bfloat16 would change about 1 decision in 1,000

    @functools.cached_property
    def critic(self) -> Critic:
        """The job's critic."""
        return CRITICS[self.job.critic].of(self.job.critic_settings)

    def identity(self) -> dict[str, Any]:
        """Return what decides the scores; raise UserError if the critic cannot be made."""
        critic, settings = self.critic, self.job.critic_settings
        others = {key: value for key, value in settings.items() if key != "critic_model"}  # which is in critic.identity
        return {"critic": {**critic.identity, **others}, "stand_in": critic.stand_in}

    def run(self, number: int, files: dict[str, Shard]) -> Report:
        """Score and filter the pairs of a shard; its candidates must exist."""
        return _make_missing(number, files, {"pairs": self._pairs, "judged": self._filtered})

    def _pairs(self, number: int, files: Mapping[str, Shard]) -> tuple[list[Record], list[Record]]:
        contexts, candidates = (files[stage].read().to_pylist() for stage in ("contexts", "candidates"))
        unscored = pairs_of(contexts, candidates, round=self.job.round, rewrite=self.job.rewrite)
        return score_pairs(unscored, self.critic)

    def _filtered(self, number: int, files: Mapping[str, Shard]) -> tuple[pa.Table, list[Record]]:
        return filter_pairs(files["pairs"].read(), self.job.thresholds), []

    def accept(self, filtered: Sequence[Shard]) -> dict[str, Any]:
        """Write the accepted pairs of all shards, see `write_accepted`."""
        return write_accepted(self.job.folder, self.job.round, filtered, self.job.thresholds)


def _make_missing(number: int, files: Mapping[str, Shard], makers: Mapping[str, Maker]) -> Report:
    """Make the missing files of some stages, in order; return the counts of all their rows."""
    made, rows, reasons, errors = [], {}, {}, Counter[str]()
    for stage, make in makers.items():
        shard = files[stage]
        if not shard.exists():
            content, bad = make(number, files)
            shard.write(content, STAGES[stage], bad)
            made.append(stage)
        table = read(shard.path)
        rows[stage] = len(table)
        if stage in KEPT:
            reasons[stage] = Counter(reason or KEPT[stage] for reason in table["reason"].to_pylist())
        if shard.quarantine.exists():
            errors.update(read(shard.quarantine)["error"].to_pylist())
    return Report(number, tuple(made), rows, reasons, errors)


@functools.lru_cache(maxsize=2)
def _generator(name: str) -> tuple[Generator, str]:
    """Return a generator, in 16 bits on GPUs, and the digest of its stored weights and its tokenizer."""
    model, tokenizer = load_model(name).requires_grad_(False), Tokenizer.load(model_folder(name))
    sha = hashlib.sha256(f"{digest(model)}\0{tokenizer.digest}".encode())
    return Generator(for_generation(model.to(device()), RunConfig(model=name)), tokenizer), sha.hexdigest()


def job_seconds(job: Job, patience: float) -> Range:
    """Return the seconds that one worker needs for a job, from about `patience` seconds of timing. Raises UserError.

    The actors make a few small shards in this process, without Ray, which are thrown away. Small shards take longer per context.
    """
    with tempfile.TemporaryDirectory() as out:
        small = replace(job, out=out, texts="", contexts=min(TIMED_CONTEXTS, job.contexts))
        generator, scorer = GeneratorActor(small), ScorerActor(small)
        identity = generator.identity() | scorer.identity()

        def make_shard(round: int) -> None:
            generator.job = scorer.job = replace(small, round=round)
            files = shards(generator.job, identity, 0)
            generator.run(0, files)
            scorer.run(0, files)

        make_shard(1)  # warms up
        rounds = range(2, 2 + TIMED_SHARDS)
        seconds = timed([functools.partial(make_shard, round) for round in rounds], patience)
    _generator.cache_clear()  # this process does not need the models any more
    return mean_range(seconds) * (job.contexts / small.contexts)
