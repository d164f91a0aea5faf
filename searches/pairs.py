"""Generate the pairs that the trials of a search learn from: one set per generation temperature, before the first trial."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from gpt2core.config import Thresholds
from gpt2core.console import print_line
from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.critics import CRITICS
from gpt2core.distill.dataset import pairs_folder, temperature_name
from gpt2core.errors import ConfigError
from gpt2core.estimates import Range, exactly
from gpt2core.storage import address
from searches.domains import Choice
from searches.options import Options
from searches.plan import Plan
from searches.result_files import CANDIDATES
from searches.running.ledger import Ledger
from trainables.candidates.actors import job_seconds
from trainables.candidates.job import Job
from trainables.candidates.pipeline import run_within
from trainables.trial import TrialSpec


def make_pairs(options: Options, ledger: Ledger, spec: TrialSpec, console: Console) -> None:
    """Generate the pairs that trials learn from, unless given by `--set pairs=FOLDER`. Raises UserError.

    Pairs are accepted by the default thresholds; trials with other thresholds filter the stored scores again.
    """
    for name, job in jobs(options.plan, options.results_folder):
        made = run_within(job, workers=spec.concurrent * spec.workers, gpus_per_worker=spec.gpus_per_worker)
        accepted = f"{made['accepted']} of {made['pairs']['made']} pairs are accepted by the default thresholds"
        stand_in = f"; {made['stand_in']}" if made["stand_in"] else ""
        note = "trials with other thresholds filter the stored scores again"
        line = f"Pairs, {name}: {made['contexts']['made']} contexts, {accepted}{stand_in}; {note}"
        print_line(console, line)
        ledger.record({"event": "candidates", "name": name, "made": {key: made[key] for key in RECORDED}})


RECORDED = ("generation", "contexts", "candidates", "pairs", "accepted", "negatives", "critic", "stand_in", "digest")


def pairs_seconds(plan: Plan, spec: TrialSpec, results: Path, *, patience: float) -> Range:
    """Estimate the seconds to generate all pairs of a search by timing a few; 0 if it generates none. Raises UserError."""
    to_make = [job for _, job in jobs(plan, results)]
    seconds = sum((job_seconds(job, patience / len(to_make)) for job in to_make), exactly(0.0))
    return seconds * (1 / (spec.concurrent * spec.workers))


def jobs(plan: Plan, results: Path) -> Iterator[tuple[str, Job]]:
    """Yield the name and job of each set of pairs to generate. Raises ConfigError for an invalid setting of the profile."""
    folder = results / CANDIDATES
    if not plan.search.learns_from_pairs or plan.fixed["pairs"] != address(folder):
        return
    settings: dict[str, Any] = {"contexts": 200, "critic": "overlap", **plan.profile.candidates}
    contexts, critic = settings.pop("contexts"), settings.pop("critic")
    critic_settings = {key: settings.pop(key) for key in CRITICS[critic].keys.model_fields if key in settings}
    model = plan.config(plan.search.reference).model
    for temperature in temperatures(plan):
        name = temperature_name(temperature)
        generation = {"source": plan.task, "seed": plan.seed, "temperature": temperature, **settings}
        job = Job(
            out=address(folder / name),
            contexts=contexts,
            model=model,
            generator=model,
            generation=GenerationConfig.of(generation),
            thresholds=Thresholds(),
            critic=critic,
            critic_settings=critic_settings,
            data_dir=plan.fixed.get("data_dir"),
        )
        yield name, job


def pair_sets(plan: Plan) -> list[Path]:
    """Return the folders of all pairs that trials may learn from, sorted."""
    configs = [plan.config(point) for point in plan.first_points]
    if plan.search.learns_from_pairs:
        domain, reference = plan.space.get("pairs_temperature"), plan.config(plan.search.reference)
        values = domain.values if isinstance(domain, Choice) else [reference.pairs_temperature]
        configs += [reference.but(pairs_temperature=value, pairs_examples="all") for value in values]
    return sorted({pairs_folder(config) for config in configs if config.reads_pairs})


def temperatures(plan: Plan) -> list[float]:
    """Return the generation temperatures of the trials; raise ConfigError if the search leaves a range of them."""
    domain = plan.space.get("pairs_temperature")
    if isinstance(domain, Choice):
        return [float(value) for value in domain.values]
    fixed = plan.config(plan.search.reference).pairs_temperature
    if domain is not None or fixed is None:
        raise ConfigError("The key `pairs_temperature` must be a Choice or fixed: each value needs its own pairs")
    return [fixed]
