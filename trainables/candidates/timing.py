"""Estimates how long a job takes, by generating, scoring and filtering a few small shards that are thrown away."""

import tempfile
from dataclasses import replace
from functools import partial

from gpt2core.estimates import Range
from gpt2core.speed import mean_range, timed
from trainables.candidates.actors import GeneratorActor, ScorerActor, forget
from trainables.candidates.job import Job, shards

CONTEXTS, SHARDS = 8, 3  # contexts in a timed shard, and the number of timed shards


def job_seconds(job: Job, patience: float) -> Range:
    """Return the seconds that one worker needs for a job, from about `patience` seconds of timing. Raises UserError.

    The actors' work runs in this process, without Ray. Small shards take longer per context.
    """
    with tempfile.TemporaryDirectory() as out:
        small = replace(job, out=out, contexts=min(CONTEXTS, job.contexts))
        identity = GeneratorActor(small).identity() | ScorerActor(small).identity()

        def shard(round: int) -> None:
            timed_job = replace(small, round=round)
            files = shards(timed_job, identity, 0)
            GeneratorActor(timed_job).run(0, files)
            ScorerActor(timed_job).run(0, files)

        shard(1)  # warms up
        seconds = timed([partial(shard, round) for round in range(2, 2 + SHARDS)], patience)
    forget()  # this process does not need the models any more
    return mean_range(seconds) * (job.contexts / small.contexts)
