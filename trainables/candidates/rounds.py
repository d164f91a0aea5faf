"""Rounds of self-distillation: a student learns from the accepted pairs and generates the candidates of the next round."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from gpt2core.config import RunConfig
from gpt2core.distill.acceptance import EXACT, NEAR
from gpt2core.distill.shards import ACCEPTED
from gpt2core.errors import UserError
from gpt2core.identity import identity
from gpt2core.model_folder import export
from gpt2core.storage import address, local, send
from trainables.candidates.folder import locked
from trainables.candidates.job import Job
from trainables.candidates.pipeline import run, translate_ray_errors
from trainables.candidates.progress import Listener
from trainables.trial import RESTARTS, TrialSpec, payloads

#: Settings of a student's run; the learning rate, batch size and epochs are the study's (Table 1, approach 1).
STUDENT = {"task": "rewriting", "lr": 1.5e-5, "batch_size": 8, "epochs": 4}

#: The reasons of good pairs: accepted, or duplicates of accepted pairs.
GOOD = (ACCEPTED, "duplicate", EXACT, NEAR)


@dataclass(frozen=True, kw_only=True)
class Student:
    """A trained student: its model folder, and the dev loss of its best epoch, in nats per token."""

    folder: str
    dev_loss: float


def run_rounds(
    job: Job, rounds: int, settings: Mapping[str, Any], listeners: Sequence[Listener], say: Callable[[str], None]
) -> None:
    """Run up to `rounds` rounds of a job, fewer if another round would not help; raise UserError.

    In round 1 the teacher continues contexts. In each later round, the student of the previous round rewrites fresh contexts of
    the teacher. `settings` are values of the student's RunConfig. The rounds end early if the yield (the share of good pairs)
    or the student's dev loss is no better than in the previous round. `say` prints a line about each.
    """
    entry, student = run(job, listeners), None
    for number in range(2, rounds + 1):
        previous, student = student, train_student(replace(job, round=number - 1), entry, settings)
        share = good_share(entry)
        say(f"round {number - 1}: yield {100 * share:.2f}%, dev loss of the student {student.dev_loss:.4f}")
        if previous is not None and student.dev_loss >= previous.dev_loss:
            say(f"stopped before round {number}: the student is no better than the previous one")
            return
        entry = run(_rewriting(job, number, student), listeners)
        if good_share(entry) <= share and number < rounds:
            say(f"stopped after round {number}: its yield, {100 * good_share(entry):.2f}%, is no better than before")
            return


def run_each_round(job: Job, rounds: int, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run exactly `rounds` rounds, see `run_rounds`, whether or not they help; return their entries of the manifest."""
    with locked(job.folder), translate_ray_errors():
        entries = [run(job)]
        for number in range(2, rounds + 1):
            student = train_student(replace(job, round=number - 1), entries[-1], settings)
            entries.append(run(_rewriting(job, number, student)))
    return entries


def _rewriting(job: Job, number: int, student: Student) -> Job:
    """Return the job of round `number`, whose candidates the student of the previous round writes."""
    return replace(job, round=number, generator=student.folder, rewrite=True)


def good_share(entry: Mapping[str, Any]) -> float:
    """Return the yield of a round from its entry in the manifest: the share of good pairs."""
    counts: dict[str, int] = entry["pairs"]["reasons"]
    return sum(counts.get(reason, 0) for reason in GOOD) / max(1, sum(counts.values()))


def train_student(job: Job, entry: Mapping[str, Any], settings: Mapping[str, Any]) -> Student:
    """Train the student of a round from the teacher's weights on the round's accepted pairs, as a Ray task; export its model.

    A trained student is not trained again. Raises UserError if training fails, and ConfigError for an unknown setting.
    """
    values = {"model": job.model, "pairs": job.out, "pairs_round": job.round, "seed": job.generation.seed}
    config = RunConfig.of({**STUDENT, **values, **job.thresholds.model_dump(), **settings})
    deciding = json.dumps([identity(config) | {"pairs": None}, entry["digest"]], sort_keys=True)
    folder = job.folder / "students" / f"r{job.round}-{hashlib.sha256(deciding.encode()).hexdigest()[:16]}"
    name, gpus = f"student-{job.round}", job.gpus_per_worker
    spec = TrialSpec(name=name, run=config, folder=address(folder), gpus_per_worker=gpus)
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RESTARTS)(_train)
    result = ray.get(task.remote(spec.to_dict()))
    if isinstance(result, str):
        raise UserError(f"The student of round {job.round} could not be trained: {result}")
    return Student(folder=address(folder / "model"), dev_loss=result)


def _train(spec: dict[str, Any]) -> float | str:
    """Train the student or resume; return the best dev loss, or the reason of a failure."""
    trial = TrialSpec.from_dict(spec)
    reports = list(payloads(trial))
    failure = next((report["failure"]["reason"] for report in reports if "failure" in report), None)
    if failure is not None:
        return str(failure)
    folder = local(trial.folder)
    export(trial.config, folder, folder / "model")
    send(folder / "model")
    return min(float(report["objective"]) for report in reports)
