"""How long a job takes, from a few small shards that are really generated, scored, filtered and thrown away."""

import tempfile
from dataclasses import replace
from functools import partial

from gpt2core.estimates import Range
from gpt2core.speed import mean_range, timed
from trainables.candidates.actors import GeneratorActor, ScorerActor, forget
from trainables.candidates.job import Job, shards

CONTEXTS, SHARDS = 8, 3  # contexts of a timed shard, and how many are timed


def job_seconds(job: Job, patience: float) -> Range:
    """Seconds of one worker for a job, from about `patience` seconds of timing. Raises UserError.

    The work of the actors is timed in this process, without Ray; small shards take longer.
    """
    with tempfile.TemporaryDirectory() as out:
        small = replace(job, out=out, contexts=min(CONTEXTS, job.contexts))
        identity = GeneratorActor(small).identity() | ScorerActor(small).identity()

        def shard(round: int) -> None:
            one = replace(small, round=round)
            files = shards(one, identity, 0)
            GeneratorActor(one).run(0, files)
            ScorerActor(one).run(0, files)

        shard(1)  # warms up
        seconds = timed([partial(shard, round) for round in range(2, 2 + SHARDS)], patience)
    forget()  # the workers hold the models; this process need not
    return mean_range(seconds) * (job.contexts / small.contexts)
