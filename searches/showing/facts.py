"""What a report tells beside the trials: the space, texts that the finalists wrote, the machine, and the commands."""

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gpt2core.cli import command_text
from gpt2core.machine import cpus
from searches.formatting import count
from searches.options import Options, without
from searches.question import Choice, Domain, LogUniform, Plan
from searches.running.ledger import State
from searches.summary import Pairs, Role, Space, Summary

#: Parts of a trial's time, and what is in them.
PARTS = {
    "start": "until its process has its imports",
    "data": "model, tokens, what a frozen part makes of them",
    "train": "optimizer steps",
    "evaluate": "scores, without what follows",
    "generate": "texts that are scored",
    "checkpoint": "weights and optimizer on the disk",
    "report": "reports on their way, and turns that others have",
}

SAMPLES, LONGEST = 4, 1500  # texts of a trial that a summary keeps, and characters of each


def with_facts(summary: Summary, options: Options, state: State) -> Summary:
    """A summary with what the report alone shows."""
    plan = options.plan
    compared = [row.id for row in (summary.best, summary.reference) if row]
    names = dict.fromkeys(name for name in (summary.answer.chosen, *compared) if name)
    return summary.model_copy(
        update={
            "task": plan.task,
            "smoke": "--smoke" in options.argv,
            "space": {key: _space(domain, _role(plan, key)) for key, domain in plan.space.items()},
            "time": time_by_part(state),
            "samples": {name: _samples(plan, state, name) for name in names},
            "pairs": {name: _pairs(made) for name, made in state.pairs.items()},
            "environment": state.environment,
            "commands": commands(options),
        }
    )


def commands(options: Options) -> dict[str, str]:
    """The commands that repeat a search, go on with it, and hand over its model."""
    script, argv = f"python searches/{options.plan.search.name}.py", options.argv
    anew = [*without(argv, "--name", "--resume"), "--name", f"{options.name}-again"]
    storage = ["--storage", options.storage] if options.storage else []
    return {
        "repeat it": f"{script} {command_text(anew)}",
        "go on with it": f"{script} {command_text(without(argv, '--resume'))}".strip(),
        "promote the chosen trial": f"python -m searches promote {command_text([options.name, *storage])}",
    }


def machine() -> dict[str, str]:
    """The interpreter and the machine of this process."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    processor = named[1] if named else platform.processor() or platform.machine()
    return {
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "processor": f"{processor}, {count(cpus(), 'CPU')}",
    }


def cluster(resources: Mapping[str, float]) -> dict[str, str]:
    """What Ray had to give: nodes, CPUs, and GPUs by kind."""
    nodes = [key for key in resources if key.startswith("node:") and not key.startswith("node:__")]
    kinds = [key.removeprefix("accelerator_type:") for key in resources if key.startswith("accelerator_type:")]
    gpus = f"{resources.get('GPU', 0):g} GPUs" + (f" ({', '.join(kinds)})" if kinds else "")
    return {"cluster": f"{count(len(nodes), 'node')}, {count(int(resources.get('CPU', 0)), 'CPU')}, {gpus}"}


def time_by_part(state: State) -> dict[str, float]:
    """Seconds of all trials together by part, from when each was proposed to its end."""
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


def _pairs(made: Mapping[str, Any]) -> Pairs:
    """What a set of generated pairs came to, who judged it, and its digest."""
    return Pairs(
        **{key: made[key]["made"] for key in ("contexts", "candidates", "pairs")},
        accepted=made["accepted"],
        critic=made["critic"]["critic"],
        model=made["critic"]["model"],
        stand_in=made["stand_in"],
        digest=made["digest"],
    )


def _space(domain: Domain, role: Role) -> Space:
    if isinstance(domain, Choice):
        return Space(text=str(domain), kind="choice", values=list(domain.values), role=role)
    kind: Literal["uniform", "log-uniform"] = "log-uniform" if isinstance(domain, LogUniform) else "uniform"
    return Space(text=str(domain), kind=kind, low=domain.low, high=domain.high, role=role)


def _role(plan: Plan, key: str) -> Role:
    return "scientific" if key in plan.search.scientific else "nuisance"


def _samples(plan: Plan, state: State, name: str) -> list[dict[str, str]]:
    best = state.trials[name].best(plan.objective, plan.direction)
    shown = best.samples[:SAMPLES] if best else []
    return [{key: _cut(str(value)) for key, value in sample.items()} for sample in shown]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
