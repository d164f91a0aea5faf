"""What a round of candidate generation is asked to do, and the names of all its shards."""

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from gpt2core.component import decides
from gpt2core.config import Thresholds
from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.shards import STAGES, Shard, cache_key, code_version
from gpt2core.storage import local

SHARD = 50  # contexts of a shard: some seconds of work, so that little is lost with a process
SCORER_SHARE = 0.1  # of a CPU, for the scorer beside a generator


@dataclass(frozen=True, kw_only=True)
class Job:
    """One round of Impossible Distillation, in plain values that any process understands.

    `model` generates the contexts and `generator` the candidates: in the first round they are the same. With `rewrite` the
    generator rewrites contexts in place of continuing them. `out` and folders of models are absolute.
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
    critic_settings: Mapping[str, Any] = field(default_factory=dict)  # values of the critic's keys
    data_dir: str | None = None
    workers: int = 1  # generators at work at once
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
        """The configuration of the contexts: all that does not decide them is at its default, so that nothing else can."""
        fields = GenerationConfig.model_fields
        return GenerationConfig(**{key: value for key, value in self.generation if "contexts" in decides(fields[key])})

    @property
    def generator_resources(self) -> dict[str, float]:
        """What Ray reserves for a generator: GPUs, or most of a CPU."""
        gpus = self.gpus_per_worker
        return {"num_cpus": 0, "num_gpus": gpus} if gpus else {"num_cpus": 1 - SCORER_SHARE}

    @property
    def scorer_resources(self) -> dict[str, float]:
        """What Ray reserves for a scorer: GPUs, a CPU beside generators on GPUs, or what a generator leaves of its CPU.

        Never nothing: that would bring it to a cluster's head, which has no CPUs for such work.
        """
        if self.gpus_per_scorer:
            return {"num_cpus": 0, "num_gpus": self.gpus_per_scorer}
        return {"num_cpus": 1 if self.gpus_per_worker else SCORER_SHARE}

    def size(self, number: int) -> int:
        """Contexts of a shard: the last one has the rest."""
        return min(SHARD, self.contexts - number * SHARD)


def shards(job: Job, identity: Mapping[str, Any], number: int) -> dict[str, Shard]:
    """The files of shard `number` by stage. `identity` holds the digests that the actors have computed, by role.

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
    files: dict[str, Shard] = {}
    above = ""
    for stage, values in deciding.items():
        where = {"input": above, "round": job.round, "number": number}
        above = cache_key(stage, **_made_by(stage, job.critic), **where, **values)
        files[stage] = Shard(job.out, stage, job.round, number, above)
    return files


@functools.cache
def _made_by(stage: str, critic: str) -> dict[str, str]:
    """The code that decides what a stage writes, and the columns that it writes."""
    from gpt2core import attention, decoding, model, tokenizer
    from gpt2core.distill import dedup, filters, generator, scores, sentences, text

    generating = (generator, sentences, decoding, attention, model, tokenizer)
    modules = {
        "contexts": generating,
        "candidates": generating,
        "pairs": (generator, scores, text, _module_of(critic)),
        "judged": (filters, dedup, text),
    }
    return {"code": code_version(*modules[stage]), "columns": str(STAGES[stage])}


def _module_of(critic: str) -> ModuleType:
    from gpt2core.distill.critics import CRITICS

    return sys.modules[CRITICS[critic].make.__module__]
