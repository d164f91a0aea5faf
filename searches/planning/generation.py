"""How long the generated pairs of a search take, from a few that are really written, judged and thrown away."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from gpt2core.ranges import Range, exactly
from gpt2core.speed import mean_range, timed
from searches.pairs import jobs
from searches.question import Plan
from trainables.stages_on_ray import Job, ScorerActor, WriterActor, forget, shards
from trainables.trial import TrialSpec

CONTEXTS, SHARDS = 8, 3  # contexts of a timed shard, and how many are timed


def pairs_seconds(plan: Plan, spec: TrialSpec, results: Path, *, patience: float) -> Range:
    """Seconds until all pairs that a search generates are there; 0 where it generates none. Raises UserError."""
    wanted = list(jobs(plan, results))
    seconds = sum((_seconds(job, patience / len(wanted)) for _, job in wanted), exactly(0.0))
    forget()  # the workers hold the models; this process need not
    return seconds * (1 / (spec.concurrent * spec.workers))


def _seconds(job: Job, patience: float) -> Range:
    """Seconds of one worker for a job. The actors' own work is timed, here, without Ray; small shards take longer."""
    with tempfile.TemporaryDirectory() as out:
        small = replace(job, out=out, contexts=min(CONTEXTS, job.contexts))
        identity = WriterActor(small).identity() | ScorerActor(small).identity()

        def shard(round: int) -> None:
            one = replace(small, round=round)
            files = shards(one, identity, 0)
            WriterActor(one).run(0, files)
            ScorerActor(one).run(0, files)

        shard(1)  # warms up
        seconds = timed([partial(shard, round) for round in range(2, 2 + SHARDS)], patience)
    return mean_range(seconds) * (job.contexts / small.contexts)
