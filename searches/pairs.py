"""Generate the pairs that the trials of a search learn from, before the first trial.

Each generation temperature has its own texts, which all critics score. Each critic has its own scores, and from round 2 on its
own candidates, since its student writes them. Thresholds apply to stored scores, so none of them needs pairs of its own.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt2core.config import RunConfig, Thresholds
from gpt2core.console import print_line
from gpt2core.distill.config import DEFAULT_CRITIC, GenerationConfig
from gpt2core.distill.critics import CRITICS
from gpt2core.distill.dataset import load_pairs, pairs_folder, subfolders
from gpt2core.errors import ConfigError
from gpt2core.estimates import Range, exactly
from gpt2core.storage import address
from searches.conditions import tried
from searches.domains import Choice
from searches.options import Options
from searches.plan import Plan
from searches.result_files import CANDIDATES
from searches.running.ledger import Ledger
from trainables.candidates.actors import job_seconds
from trainables.candidates.job import Job
from trainables.candidates.pipeline import fit_within
from trainables.candidates.rounds import run_each_round
from trainables.trial import TrialSpec

#: Key of thresholds -> the end of its range that accepts fewest pairs; for `negatives`, that needs most.
STRICTEST = {"tau": max, "max_rouge": min, "min_length_ratio": max, "max_length_ratio": min, "negatives": max}

RECORDED = ("generation", "contexts", "candidates", "pairs", "accepted", "negatives", "critic", "stand_in", "digest")


@dataclass(frozen=True, kw_only=True)
class PairJob:
    """A set of pairs to generate: its name, the job of its first round, and its rounds with the settings of their students."""

    name: str
    job: Job
    rounds: int
    student: dict[str, Any]


def make_pairs(options: Options, ledger: Ledger, spec: TrialSpec, console: Console) -> None:
    """Generate the pairs that trials learn from, unless given by `--set pairs=FOLDER`. Raises UserError.

    Pairs are accepted by the default thresholds; trials with other thresholds filter the stored scores again.
    """
    workers = spec.concurrent * spec.workers
    for part in jobs(options.plan, options.results_folder):
        job = fit_within(part.job, workers=workers, gpus_per_worker=spec.gpus_per_worker)
        for made in run_each_round(job, part.rounds, part.student):
            name = part.name if made["round"] == 1 else f"{part.name}-round-{made['round']}"
            accepted = f"{made['accepted']} of {made['pairs']['made']} pairs are accepted by the default thresholds"
            stand_in = f"; {made['stand_in']}" if made["stand_in"] else ""
            note = "trials with other thresholds filter the stored scores again"
            line = f"Pairs, {name}: {made['contexts']['made']} contexts, {accepted}{stand_in}; {note}"
            print_line(console, line)
            ledger.record({"event": "candidates", "name": name, "made": {key: made[key] for key in RECORDED}})
    check_counts(options.plan)


def check_counts(plan: Plan) -> None:
    """Raise DataError if some set has fewer than `pairs_examples` pairs at the strictest thresholds of the search.

    So all trials learn from the same number of pairs, whatever their thresholds. Scores are stored: nothing is generated.
    """
    reference = plan.config(plan.search.reference).but(added_pairs="generated")
    if not plan.search.learns_from_pairs or reference.pairs_examples == "all":
        return
    ends = {key: choose(tried(domain)) for key, choose in STRICTEST.items() if (domain := plan.space.get(key))}
    names = ("pairs_temperature", "pairs_critic", "pairs_round", "tau_rule", "filters")
    for values in itertools.product(*(values_of(plan, name) for name in names)):
        load_pairs(reference.but(**ends, **dict(zip(names, values, strict=True))))


def pairs_seconds(plan: Plan, spec: TrialSpec, results: Path, *, patience: float) -> Range:
    """Estimate the seconds to generate all pairs of a search by timing a few; 0 if it generates none. Raises UserError.

    It is the time of each set alone, without the students of later rounds; sets that share texts take less.
    """
    parts = list(jobs(plan, results))
    seconds = sum((job_seconds(part.job, patience / len(parts)) * part.rounds for part in parts), exactly(0.0))
    return seconds * (1 / (spec.concurrent * spec.workers))


def jobs(plan: Plan, results: Path) -> Iterator[PairJob]:
    """Yield the sets of pairs to generate. Raises UserError for an invalid setting of the profile."""
    folder = results / CANDIDATES
    if not plan.search.learns_from_pairs or plan.fixed["pairs"] != address(folder):
        return
    settings: dict[str, Any] = {"contexts": 200, **plan.profile.candidates}
    contexts, reference = settings.pop("contexts"), plan.config(plan.search.reference)
    critics, rounds = values_of(plan, "pairs_critic"), values_of(plan, "pairs_round")
    keys_of = {name: CRITICS[name or DEFAULT_CRITIC].keys.model_fields.keys() for name in critics}
    of_critics = {key: settings.pop(key) for key in set().union(*keys_of.values()) & settings.keys()}
    for temperature, critic in itertools.product(temperatures(plan), critics):
        names = subfolders(temperature, critic)
        job = Job(
            out=address(folder.joinpath(*names)),
            texts=address(folder / names[0]),
            contexts=contexts,
            model=reference.model,
            generator=reference.model,
            generation=GenerationConfig.of(
                {"source": plan.task, "seed": plan.seed, "temperature": temperature, **settings}
            ),
            thresholds=Thresholds(),
            critic=critic or DEFAULT_CRITIC,
            critic_settings={key: value for key, value in of_critics.items() if key in keys_of[critic]},
            data_dir=plan.fixed.get("data_dir"),
        )
        yield PairJob(name="-".join(names), job=job, rounds=max(r or 1 for r in rounds), student=_student(reference))


def _student(reference: RunConfig) -> dict[str, Any]:
    """Return the settings of students: those of the first stage."""
    return {
        "lr": reference.pretrain_lr,
        "batch_size": reference.pretrain_batch_size,
        "epochs": reference.pretrain_epochs,
        "train_examples": reference.pretrain_examples,
        "kl_weight": reference.kl_weight,
        "dropout": reference.dropout,
    }


def pair_sets(plan: Plan) -> list[Path]:
    """Return the folders of all generated pairs that trials may learn from, sorted."""
    configs = [plan.config(point) for point in plan.first_points]
    if plan.search.learns_from_pairs:
        reference = plan.config(plan.search.reference)
        names = ("pairs_temperature", "pairs_critic")
        for values in itertools.product(*(values_of(plan, name) for name in names)):
            configs.append(reference.but(added_pairs="generated", **dict(zip(names, values, strict=True))))
    return sorted({pairs_folder(run) for run in configs if run.reads_pairs and run.added_pairs == "generated"})


def temperatures(plan: Plan) -> list[float]:
    """Return the generation temperatures of the trials; raise ConfigError if the search leaves a range of them."""
    values = values_of(plan, "pairs_temperature")
    if None in values:
        raise ConfigError("The key `pairs_temperature` must be a Choice or fixed: each value needs its own pairs")
    return [float(value) for value in values]


def values_of(plan: Plan, key: str) -> list[Any]:
    """Return the values that trials have of a key that decides generation; raise ConfigError if the search leaves a range."""
    domain = plan.space.get(key)
    if domain is None:
        return [getattr(plan.config(plan.search.reference), key)]
    if not isinstance(domain, Choice):
        raise ConfigError(f"The key `{key}` must be a Choice or fixed: each value needs its own pairs")
    return list(domain.values)
