"""The stages of a round, and the actors that run them: contexts and candidates by writers, pairs and judged by scorers.

A shard is a part of the contexts on its way through the stages. What decides a stage's file names it, so that all names are
known before any file is: an actor makes what is not there and answers with counts. Rows stay in the files.
"""

import functools
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from gpt2core.config import Thresholds
from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.critics import Critic
from gpt2core.distill.shards import CANDIDATES, CONTEXTS, JUDGED, PAIRS, Shard, address, code_version, read
from gpt2core.distill.writing import Writer
from gpt2core.storage import local

STAGES = {
    "contexts": CONTEXTS,
    "candidates": CANDIDATES,
    "pairs": PAIRS,
    "judged": JUDGED,
}  # in order, with what they write
SHARD = 50  # contexts of a shard: some seconds of work, so that little is lost with a process
SCORER_SHARE = 0.1  # of a CPU, for the scorer beside a writer
USABLE, ACCEPTED = "usable", "accepted"
FINE = {"candidates": USABLE, "judged": ACCEPTED}  # what rows without a reason are counted as

#: Keys of the generation that decide contexts; the others decide what is made of them.
CONTEXT_KEYS = {
    *("source", "prefix_words", "samples", "context_tokens", "context_temperature", "top_p", "max_characters", "seed")
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One round of Impossible Distillation, in plain values that any process understands.

    `model` writes the contexts and `generator` the candidates: in the first round they are the same. With `rewrite` the
    generator rewrites sentences where else it continues contexts. `out` and folders of models are absolute.
    """

    out: str
    contexts: int
    model: str
    generator: str
    generation: GenerationConfig
    thresholds: Thresholds
    rewrite: bool = False
    round: int = 1
    critic: str = "overlap"
    critic_model: str | None = None
    data_dir: str | None = None
    workers: int = 1  # writers at work at once
    gpus_per_worker: float = 0
    scorers: int = 1  # critics at work at once
    gpus_per_scorer: float = 0
    max_quarantine: float = 0.05  # share of the candidates that may be unusable before the job stops

    @property
    def folder(self) -> Path:
        """The folder of all results, on this machine."""
        return local(self.out)

    @property
    def count(self) -> int:
        """How many shards there are."""
        return -(-self.contexts // SHARD)

    @property
    def of_contexts(self) -> GenerationConfig:
        """What contexts are written by: all that does not decide them at its default, so that nothing else can."""
        return GenerationConfig(**{key: value for key, value in self.generation if key in CONTEXT_KEYS})

    @property
    def writer_resources(self) -> dict[str, float]:
        """What Ray reserves for a writer: GPUs, or most of a CPU."""
        gpus = self.gpus_per_worker
        return {"num_cpus": 0, "num_gpus": gpus} if gpus else {"num_cpus": 1 - SCORER_SHARE}

    @property
    def scorer_resources(self) -> dict[str, float]:
        """What Ray reserves for a scorer: GPUs, a CPU beside writers on GPUs, or what a writer leaves of its CPU.

        Never nothing: that would bring it to a cluster's head, which has no CPUs for such work.
        """
        if self.gpus_per_scorer:
            return {"num_cpus": 0, "num_gpus": self.gpus_per_scorer}
        return {"num_cpus": 1 if self.gpus_per_worker else SCORER_SHARE}

    def size(self, number: int) -> int:
        """Contexts of a shard: the last one has the rest."""
        return min(SHARD, self.contexts - number * SHARD)


@dataclass(frozen=True)
class Report:
    """What is in the files of one shard, as counts. `made` names the stages that were not there before."""

    number: int
    made: tuple[str, ...]
    rows: Mapping[str, int]  # by stage
    reasons: Mapping[
        str, Mapping[str, int]
    ]  # by stage: why rows are not used any further, and those that are as in FINE
    errors: Mapping[str, int]  # of quarantined rows


def shards(job: Job, identity: Mapping[str, Any], number: int) -> dict[str, Shard]:
    """The files of shard `number` by stage. `identity` is what the actors found: digests by role.

    The device and the versions of libraries are no part of a name: they change the last digits of probabilities, and a job may
    go on elsewhere.
    """
    deciding: dict[str, dict[str, Any]] = {
        "contexts": {
            "count": job.size(number),
            "generation": job.of_contexts.model_dump(),
            "writer": identity["model"],
            "prefixes": identity["prefixes"],
        },
        "candidates": {
            "generation": job.generation.model_dump(),
            "writer": identity["generator"],
            "rewrite": job.rewrite,
        },
        "pairs": {"critic": identity["critic"], "rewrite": job.rewrite},
        "judged": {"thresholds": job.thresholds.model_dump()},
    }
    made: dict[str, Shard] = {}
    above = ""
    for stage, values in deciding.items():
        where = {"input": above, "round": job.round, "number": number}
        above = address(stage, **_written_by(stage, job.critic), **where, **values)
        made[stage] = Shard(job.out, stage, job.round, number, above)
    return made


@functools.cache
def _written_by(stage: str, critic: str) -> dict[str, str]:
    """The code that decides what a stage writes, and the columns that it writes."""
    from gpt2core import attention, decoding, model, tokenizer
    from gpt2core.distill import duplicates, filters, scores, sentences, text, writing

    generating = (writing, sentences, decoding, attention, model, tokenizer)
    modules = {
        "contexts": generating,
        "candidates": generating,
        "pairs": (writing, scores, text, _module_of(critic)),
        "judged": (filters, duplicates, text),
    }
    return {"code": code_version(*modules[stage]), "columns": str(STAGES[stage])}


def _module_of(critic: str) -> ModuleType:
    from gpt2core.distill.critics import CRITICS
    from gpt2core.lookup import lookup

    return sys.modules[lookup(CRITICS, critic, "critic").__module__]


class WriterActor:
    """Writes contexts and candidates. What it needs is loaded by its first call, also after a restart."""

    def __init__(self, job: Job) -> None:
        import torch

        self.job = job
        if not torch.cuda.is_available():
            torch.set_num_threads(1)  # else the number of threads, and so of workers, would decide the last digits

    def identity(self) -> dict[str, Any]:
        """Digests of what decides its texts; raises UserError where a model or the data cannot be read."""
        job = self.job
        texts = json.dumps(_prefixes(job.of_contexts, job.data_dir)).encode()
        return {
            "model": _writer_digest(job.model),
            "generator": _writer_digest(job.generator),
            "prefixes": hashlib.sha256(texts).hexdigest(),
        }

    def run(self, number: int, files: dict[str, Shard]) -> Report:
        """Write the contexts and candidates of a shard where they are not there."""
        from gpt2core.distill.writing import write_candidates, write_contexts

        job, made = self.job, []
        contexts, candidates = files["contexts"], files["candidates"]
        if not contexts.whole():
            prefixes, writer = _prefixes(job.of_contexts, job.data_dir), _writer(job.model)
            where = {"count": job.size(number), "round": job.round, "number": number}
            rows, bad = write_contexts(writer, prefixes, job.of_contexts, **where)
            contexts.write(rows, CONTEXTS, bad)
            made.append("contexts")
        if not candidates.whole():
            rows, bad = write_candidates(
                _writer(job.generator),
                contexts.read().to_pylist(),
                job.generation,
                round=job.round,
                number=number,
                rewrite=job.rewrite,
            )
            candidates.write(rows, CANDIDATES, bad)
            made.append("candidates")
        return report(number, files, ("contexts", "candidates"), made)


class ScorerActor:
    """Scores pairs of candidates and judges them. It holds the critic."""

    def __init__(self, job: Job) -> None:
        import torch

        self.job = job
        torch.set_num_threads(1)

    def identity(self) -> dict[str, Any]:
        """What decides its scores; raises UserError where the critic cannot be made."""
        critic = _critic(self.job.critic, self.job.critic_model)
        return {"critic": dict(critic.identity), "stand_in": critic.stand_in}

    def run(self, number: int, files: dict[str, Shard]) -> Report:
        """Score and judge the pairs of a shard where that was not done; its candidates must be there."""
        from gpt2core.distill.filters import judge
        from gpt2core.distill.scores import score_pairs
        from gpt2core.distill.writing import pairs_of

        job, made = self.job, []
        pairs, judged = files["pairs"], files["judged"]
        if not pairs.whole():
            contexts, candidates = (files[stage].read().to_pylist() for stage in ("contexts", "candidates"))
            unscored = pairs_of(contexts, candidates, round=job.round, rewrite=job.rewrite)
            rows, bad = score_pairs(unscored, _critic(job.critic, job.critic_model))
            pairs.write(rows, PAIRS, bad)
            made.append("pairs")
        if not judged.whole():
            judged.write(judge(pairs.read(), job.thresholds), JUDGED, [])
            made.append("judged")
        return report(number, files, ("pairs", "judged"), made)

    def accept(self, judged: Sequence[Shard]) -> dict[str, Any]:
        """Write what is accepted of all shards, see `trainables.accepted`."""
        from trainables.accepted import write_accepted

        return write_accepted(self.job.folder, self.job.round, judged, self.job.thresholds)


def report(number: int, files: Mapping[str, Shard], stages: Sequence[str], made: Sequence[str]) -> Report:
    """Count what is in the files of some stages."""
    rows, reasons, errors = {}, {}, Counter[str]()
    for stage in stages:
        shard = files[stage]
        table = read(shard.path)
        rows[stage] = len(table)
        if stage in FINE:
            column = table["reason"]
            reasons[stage] = Counter(reason or FINE[stage] for reason in column.to_pylist())
        if shard.quarantine.exists():
            errors.update(read(shard.quarantine)["error"].to_pylist())
    return Report(number, tuple(made), rows, reasons, errors)


class Tables(Sequence[pa.Table]):
    """Tables in files, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: Any) -> Any:
        return read(self.paths[place], JUDGED)

    def __iter__(self) -> Iterator[pa.Table]:
        return (read(path, JUDGED) for path in self.paths)


@functools.lru_cache(maxsize=2)
def _writer(name: str) -> Writer:
    import torch

    from gpt2core.tokenizer import Tokenizer
    from gpt2core.weights import load_model, model_folder

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Writer(load_model(name).to(device).requires_grad_(False), Tokenizer.load(model_folder(name)))


@functools.lru_cache(maxsize=2)
def _writer_digest(name: str) -> str:
    from gpt2core.weights import digest

    writer = _writer(name)
    return hashlib.sha256(f"{digest(writer.model)}\0{writer.tokenizer.digest}".encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _prefixes(generation: GenerationConfig, data_dir: str | None) -> list[str]:
    from gpt2core.config import RunConfig
    from gpt2core.distill.writing import prefixes_of
    from gpt2core.lookup import lookup
    from gpt2core.tasks import TASKS

    source = lookup(TASKS, generation.source, "source")
    return prefixes_of(source.corpus(RunConfig(task=source.name, data_dir=data_dir)).splits["train"], generation)


def forget() -> None:
    """Drop the models, the critic and the texts that this process has loaded."""
    for loaded in (_writer, _prefixes, _critic):
        loaded.cache_clear()


@functools.lru_cache(maxsize=1)
def _critic(name: str, model: str | None) -> Critic:
    from gpt2core.distill.critics import CRITICS
    from gpt2core.lookup import lookup

    return lookup(CRITICS, name, "critic")(model)
