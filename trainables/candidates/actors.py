"""The actors of a round: generators make contexts and candidates, scorers score pairs, filter them and accept.

All names of shards are known before any file is: an actor makes what is not there and answers with counts. Rows stay in the
files.
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.critics import Critic
from gpt2core.distill.generator import Generator
from gpt2core.distill.shards import ACCEPTED, CANDIDATES, CONTEXTS, FILTERED, PAIRS, Shard, read
from trainables.candidates.job import Job
from trainables.candidates.progress import Report

KEPT = {"candidates": "usable", "judged": ACCEPTED}  # what rows without a reason are counted as, by stage


class GeneratorActor:
    """Generates contexts and candidates. What it needs is loaded by its first call, also after a restart."""

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
            "model": _generator_digest(job.model),
            "generator": _generator_digest(job.generator),
            "prefixes": hashlib.sha256(texts).hexdigest(),
        }

    def run(self, number: int, files: dict[str, Shard]) -> Report:
        """Generate the contexts and candidates of a shard where they are not there."""
        from gpt2core.distill.generator import generate_candidates, generate_contexts

        job, made = self.job, []
        contexts, candidates = files["contexts"], files["candidates"]
        if not contexts.exists():
            prefixes, teacher = _prefixes(job.of_contexts, job.data_dir), _generator(job.model)
            where = {"count": job.size(number), "round": job.round, "number": number}
            rows, bad = generate_contexts(teacher, prefixes, job.of_contexts, **where)
            contexts.write(rows, CONTEXTS, bad)
            made.append("contexts")
        if not candidates.exists():
            rows, bad = generate_candidates(
                _generator(job.generator),
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
    """Scores pairs of candidates and filters them. It holds the critic."""

    def __init__(self, job: Job) -> None:
        import torch

        self.job = job
        torch.set_num_threads(1)

    def identity(self) -> dict[str, Any]:
        """What decides its scores; raises UserError where the critic cannot be made."""
        critic = self._critic()
        own = {key: value for key, value in self.job.critic_settings.items() if key != "critic_model"}  # which it names
        return {"critic": {**critic.identity, **own}, "stand_in": critic.stand_in}

    def run(self, number: int, files: dict[str, Shard]) -> Report:
        """Score and filter the pairs of a shard where that was not done; its candidates must be there."""
        from gpt2core.distill.filters import filter_pairs
        from gpt2core.distill.generator import pairs_of
        from gpt2core.distill.scores import score_pairs

        job, made = self.job, []
        pairs, filtered = files["pairs"], files["judged"]
        if not pairs.exists():
            contexts, candidates = (files[stage].read().to_pylist() for stage in ("contexts", "candidates"))
            unscored = pairs_of(contexts, candidates, round=job.round, rewrite=job.rewrite)
            rows, bad = score_pairs(unscored, self._critic())
            pairs.write(rows, PAIRS, bad)
            made.append("pairs")
        if not filtered.exists():
            filtered.write(filter_pairs(pairs.read(), job.thresholds), FILTERED, [])
            made.append("judged")
        return report(number, files, ("pairs", "judged"), made)

    def _critic(self) -> Critic:
        return _critic(self.job.critic, tuple(sorted(self.job.critic_settings.items())))

    def accept(self, filtered: Sequence[Shard]) -> dict[str, Any]:
        """Write what is accepted of all shards, see `write_accepted`."""
        from gpt2core.distill.acceptance import write_accepted

        return write_accepted(self.job.folder, self.job.round, filtered, self.job.thresholds)


def report(number: int, files: Mapping[str, Shard], stages: Sequence[str], made: Sequence[str]) -> Report:
    """Count what is in the files of some stages."""
    rows, reasons, errors = {}, {}, Counter[str]()
    for stage in stages:
        shard = files[stage]
        table = read(shard.path)
        rows[stage] = len(table)
        if stage in KEPT:
            reasons[stage] = Counter(reason or KEPT[stage] for reason in table["reason"].to_pylist())
        if shard.quarantine.exists():
            errors.update(read(shard.quarantine)["error"].to_pylist())
    return Report(number, tuple(made), rows, reasons, errors)


@functools.lru_cache(maxsize=2)
def _generator(name: str) -> Generator:
    import torch

    from gpt2core.tokenizer import Tokenizer
    from gpt2core.weights import load_model, model_folder

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Generator(load_model(name).to(device).requires_grad_(False), Tokenizer.load(model_folder(name)))


@functools.lru_cache(maxsize=2)
def _generator_digest(name: str) -> str:
    from gpt2core.weights import digest

    generator = _generator(name)
    return hashlib.sha256(f"{digest(generator.model)}\0{generator.tokenizer.digest}".encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _prefixes(generation: GenerationConfig, data_dir: str | None) -> list[str]:
    from gpt2core.config import RunConfig
    from gpt2core.distill.generator import prefixes_of
    from gpt2core.tasks import TASKS

    source = TASKS[generation.source]
    return prefixes_of(source.corpus(RunConfig(task=source.name, data_dir=data_dir)).splits["train"], generation)


@functools.lru_cache(maxsize=1)
def _critic(name: str, settings: tuple[tuple[str, Any], ...]) -> Critic:
    from gpt2core.distill.critics import CRITICS

    return CRITICS[name].of(dict(settings))


def forget() -> None:
    """Drop the models, the critic and the texts that this process has loaded."""
    for loaded in (_generator, _prefixes, _critic):
        loaded.cache_clear()
