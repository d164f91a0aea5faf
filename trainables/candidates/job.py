"""The settings of a round of candidate generation, and the names of all its shards."""

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2core.component import decides
from gpt2core.config import Thresholds
from gpt2core.distill.config import DEFAULT_CRITIC, GenerationConfig
from gpt2core.distill.shards import STAGES, Shard, cache_key, code_version
from gpt2core.storage import local

SHARD = 50  # contexts in a shard: a few seconds of work, so that little is lost with a process
SCORER_SHARE = 0.1  # of a CPU, for the scorer next to a generator


@dataclass(frozen=True, kw_only=True)
class Job:
    """One round of Impossible Distillation, in plain values that any process can read.

    `model` generates the contexts and `generator` the candidates; in the first round they are the same. With `rewrite`, the
    generator rewrites contexts instead of continuing them. `out` and model folders are absolute.
    """

    out: str
    contexts: int
    model: str
    generator: str
    generation: GenerationConfig
    thresholds: Thresholds
    texts: str = ""  # folder of contexts and candidates, which jobs with other critics share; empty: `out`
    rewrite: bool = False
    round: int = 1
    critic: str = DEFAULT_CRITIC
    critic_settings: Mapping[str, Any] = field(default_factory=dict)  # values of the critic's keys
    data_dir: str | None = None
    workers: int = 1  # generators that run at once
    gpus_per_worker: float = 0
    scorers: int = 1  # critics that run at once
    gpus_per_scorer: float = 0
    max_quarantine: float = 0.05  # unusable rows, as a share of the candidates, at which the job stops

    @property
    def folder(self) -> Path:
        """The folder of all results on this machine."""
        return local(self.out)

    @property
    def shard_count(self) -> int:
        """The number of shards."""
        return -(-self.contexts // SHARD)

    def shard_size(self, number: int) -> int:
        """Return the number of contexts in a shard; the last shard has the rest."""
        return min(SHARD, self.contexts - number * SHARD)

    @property
    def context_settings(self) -> GenerationConfig:
        """The generation settings with those that do not decide contexts at their defaults, so that they cannot matter."""
        fields = GenerationConfig.model_fields
        return GenerationConfig(**{key: value for key, value in self.generation if "contexts" in decides(fields[key])})

    @property
    def generator_resources(self) -> dict[str, float]:
        """What Ray reserves for a generator: GPUs, or most of a CPU."""
        gpus = self.gpus_per_worker
        return {"num_cpus": 0, "num_gpus": gpus} if gpus else {"num_cpus": 1 - SCORER_SHARE}

    @property
    def scorer_resources(self) -> dict[str, float]:
        """What Ray reserves for a scorer: GPUs, a CPU if generators use GPUs, or the rest of a generator's CPU.

        Never nothing, or Ray could place scorers on a cluster's head, which has no CPUs for them.
        """
        if self.gpus_per_scorer:
            return {"num_cpus": 0, "num_gpus": self.gpus_per_scorer}
        return {"num_cpus": 1 if self.gpus_per_worker else SCORER_SHARE}


def shards(job: Job, identity: Mapping[str, Any], number: int) -> dict[str, Shard]:
    """Return the files of shard `number` by stage. `identity` holds the actors' digests by role.

    Devices, and so the precision, and library versions are not part of a name: they change only digits of probabilities, and a
    job may resume on another machine.
    """
    generation = job.generation.model_dump()
    inputs: dict[str, dict[str, Any]] = {
        "contexts": {
            "count": job.shard_size(number),
            "generation": job.context_settings.model_dump(),
            "writer": identity["model"],
            "prefixes": identity["prefixes"],
        },
        "candidates": {"generation": generation, "writer": identity["generator"], "rewrite": job.rewrite},
        "pairs": {"critic": identity["critic"], "rewrite": job.rewrite},
        "judged": {"thresholds": job.thresholds.model_dump()},
    }
    files: dict[str, Shard] = {}
    key = ""
    for stage, values in inputs.items():
        place = {"input": key, "round": job.round, "number": number}
        key = cache_key(stage, **_code(stage, job.critic), **place, **values)
        folder = job.texts or job.out if stage in ("contexts", "candidates") else job.out
        files[stage] = Shard(folder, stage, job.round, number, key)
    return files


@functools.cache
def _code(stage: str, critic: str) -> dict[str, str]:
    """Return the version of the code that decides what a stage writes, and the columns that it writes."""
    from gpt2core import attention, decoding, model, tokenizer
    from gpt2core.distill import dedup, filters, generator, scores, sentences, text
    from gpt2core.distill.critics import CRITICS

    generating = (generator, sentences, decoding, attention, model, tokenizer)
    modules = {
        "contexts": generating,
        "candidates": generating,
        "pairs": (generator, scores, text, sys.modules[CRITICS[critic].make.__module__]),
        "judged": (filters, dedup, text),
    }
    return {"code": code_version(*modules[stage]), "columns": str(STAGES[stage])}
