"""Facts of a summary other than its trials: search space, time, sample texts, machine and commands."""

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gpt2core.cli import command_text, import_flags
from gpt2core.component import own_parts
from gpt2core.machine import cpus
from gpt2core.metrics.chrf import corpus_chrf
from searches.domains import Choice, Domain
from searches.flags import without
from searches.formatting import count
from searches.options import Options
from searches.plan import Plan
from searches.running.ledger import State
from searches.showing.texts import PLACE, SCORE
from searches.summary import Pairs, Role, Space

#: Parts of a trial's time -> meaning.
PARTS = {
    "start": "starting the process and its imports",
    "data": "loading model and tokens, and computing the activations of frozen blocks",
    "train": "optimizer steps",
    "evaluate": "computing scores, without generating texts",
    "generate": "generating the texts to score",
    "checkpoint": "writing weights and optimizer state",
    "report": "sending reports and waiting for other trials",
}

OWN_PARTS = "own parts"
SAMPLES, LONGEST = 4, 1500  # sample texts of a trial in a summary, and characters of each


def commands(options: Options) -> dict[str, str]:
    """Return the commands that repeat and resume a search and, if it chooses one model, the one that promotes it."""
    script, argv = options.plan.search.command, options.argv
    anew = [*without(argv, "--name", "--resume"), "--name", f"{options.name}-again"]
    storage = ["--storage", options.storage] if options.storage else []
    of_search = [options.name, *storage, *import_flags(options.imports)]
    by_script = {
        "repeat it": f"{script} {command_text(anew)}",
        "go on with it": f"{script} {command_text(without(argv, '--resume'))}".strip(),
    }
    promote = f"gpt2-search promote {command_text(of_search)}"
    return {
        **(by_script if script else {}),
        **({"promote the chosen trial": promote} if options.plan.chooses_one_model else {}),
    }


def machine() -> dict[str, str]:
    """Return Python version, platform and processor of this machine, and the own parts of this program."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    processor = named[1] if named else platform.processor() or platform.machine()
    own = "; ".join(f"{part} ({origin})" for part, origin in own_parts().items())
    return {
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "processor": f"{processor}, {count(cpus(), 'CPU')}",
        **({OWN_PARTS: own} if own else {}),
    }


def cluster(resources: Mapping[str, float]) -> dict[str, str]:
    """Return the nodes, CPUs and GPUs of a Ray cluster, in one line."""
    nodes = [key for key in resources if key.startswith("node:") and not key.startswith("node:__")]
    kinds = [key.removeprefix("accelerator_type:") for key in resources if key.startswith("accelerator_type:")]
    gpus = f"{resources.get('GPU', 0):g} GPUs" + (f" ({', '.join(kinds)})" if kinds else "")
    return {"cluster": f"{count(len(nodes), 'node')}, {count(int(resources.get('CPU', 0)), 'CPU')}, {gpus}"}


def time_by_part(state: State) -> dict[str, float]:
    """Return the seconds of all trials from proposal to end, by part."""
    parts = dict.fromkeys(PARTS, 0.0)
    for trial in state.trials.values():
        reports = [report for _, report in sorted(trial.reports.items()) if report.began]
        if reports and trial.proposed is not None:
            parts["start"] += max(0.0, (reports[0].began or 0.0) - trial.proposed)
        for report in reports:
            for part, seconds in report.seconds.items():
                parts[part] = parts.get(part, 0.0) + seconds
    parts["report"] = max(0.0, sum(state.clock.trials.values()) - sum(parts.values()))
    return parts


def pairs_of(made: Mapping[str, Any]) -> Pairs:
    """Return the sizes of a set of generated pairs, its critic and its digest."""
    return Pairs(
        **{key: made[key]["made"] for key in ("contexts", "candidates", "pairs")},
        accepted=made["accepted"],
        critic=made["critic"]["critic"],
        model=made["critic"]["model"],
        stand_in=made["stand_in"],
        digest=made["digest"],
    )


def space_of(plan: Plan) -> dict[str, Space]:
    """Return the values and the role of each searched key."""
    scientific = plan.search.scientific
    return {
        key: _space(plan.domain_text(key), domain, "scientific" if key in scientific else "nuisance")
        for key, domain in plan.space.items()
    }


def _space(text: str, domain: Domain, role: Role) -> Space:
    if isinstance(domain, Choice):
        return Space(text=text, kind="choice", values=list(domain.values), role=role)
    kind: Literal["uniform", "log-uniform"] = "log-uniform" if domain.is_log else "uniform"
    return Space(text=text, kind=kind, low=domain.low, high=domain.high, role=role)


def samples_of(plan: Plan, state: State, names: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Return sample texts of trials by name, from their best epochs, shortened.

    Of generated texts these are the best, the median and the worst of the first trial, by the chrF of the text alone.
    """
    reports = {name: state.trials[name].best(plan.objective, plan.direction) for name in names}
    samples = {
        name: {str(sample["id"]): _scored(sample) for sample in report.samples}
        for name, report in reports.items()
        if report and report.samples
    }
    places = _places(next(iter(samples.values()), {}))
    return {
        name: [by_id[key] | place for key, place in places.items() if key in by_id] for name, by_id in samples.items()
    }


def _scored(sample: Mapping[str, Any]) -> dict[str, str]:
    """Return a sample as texts, with the score of a generated one."""
    texts = {key: str(value) for key, value in sample.items()}
    if "generated" in texts and "gold" in texts:
        texts[SCORE] = f"{corpus_chrf([texts['generated']], [texts['gold']]):.2f}"
    return {key: _cut(text) for key, text in texts.items()}


def _places(samples: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Return the ids of the samples to show, with the places of their scores; without scores, ids spread over all samples."""
    ranked = sorted(samples, key=lambda key: -float(samples[key].get(SCORE, 0.0)))
    last = len(ranked) - 1
    if not all(SCORE in sample for sample in samples.values()):
        return {ranked[place]: {} for place in sorted({last * step // (SAMPLES - 1) for step in range(SAMPLES)})}
    places = {ranked[last]: "worst", ranked[len(ranked) // 2]: "median", ranked[0]: "best"} if ranked else {}
    return {key: {PLACE: place} for key, place in reversed(places.items())}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
