"""Generate paraphrases by Impossible Distillation on Ray: `gpt2-search candidates`, or as a Ray job."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gpt2core.cli import (
    Parser,
    absolute,
    absolute_model,
    add_import,
    at_least,
    command_text,
    interrupt_on_signals,
    run_or_explain,
    settings,
)
from gpt2core.component import Config, lookup
from gpt2core.config import Thresholds, known_keys, meaning
from gpt2core.distill.config import DEFAULT_CRITIC, GenerationConfig
from gpt2core.errors import ConfigError, UserError, first_line
from gpt2core.parts import import_modules

if TYPE_CHECKING:
    from rich.console import Console

    from trainables.candidates.job import Job

PER_WORKER = "GPUs of each generator (default: 1 if there are GPUs, or 0.5 if the critic loads a model, else 0)"
PER_SCORER = "GPUs of each critic (default: those of a generator if the critic loads a model, else 0: it runs on a CPU)"
EPILOG = """\
--set gives settings that have no flag: of the generation, thresholds and
critic, and with --rounds of the student's training. The same command resumes a
job that was interrupted or killed. Other thresholds only filter again; nothing
is generated again. --out then has accepted/ and negatives/ (Parquet),
course.tsv, manifest.json, and README.md (the data card).
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The validated flags."""

    job: "Job"
    resources: dict[str, Any]  # arguments of `fit_to_cluster`
    rounds: int
    student: dict[str, Any]  # values of the student's RunConfig
    tracking_uri: str | None
    imports: list[str]


def parser() -> Parser:
    """Return the parser. It imports nothing heavy, so that `--help` answers at once."""

    def described(name: str, keys: type[Config]) -> str:
        return f"{meaning(name, keys)} (default: {keys.model_fields[name].default})"

    p = Parser(
        prog="gpt2-search candidates",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = p.add_argument
    add("--contexts", type=int, default=200, help="number of contexts (default: 200)")
    add("--candidates", type=int, help=described("candidates", GenerationConfig))
    add("--temperature", type=float, help=described("temperature", GenerationConfig))
    add(
        "--source",
        help=f"{meaning('source', GenerationConfig)} (default: paraphrase with --data-dir, else pretraining)",
    )
    add("--data-dir", help=meaning("data_dir"))
    add("--model", default="gpt2-nano", help=meaning("model"))
    add("--critic", default=DEFAULT_CRITIC, help="critic that scores entailment: overlap, embedding, classifier or nli")
    add("--critic-model", help="model of the critic: a folder, or owner/name of the hub")
    add("--tau", type=float, help=described("tau", Thresholds))
    add("--max-rouge", type=float, help=described("max_rouge", Thresholds))
    add("--filters", help=described("filters", Thresholds))
    add("--rounds", type=int, default=1, help="rounds of self-distillation (default: 1)")
    add("--seed", type=int, help="seed of everything (default: 11711, the study's)")
    add(
        "--workers",
        type=int,
        help="generators that run at once (default: one for each GPU, or each CPU if there is none)",
    )
    add("--gpus-per-worker", type=float, help=PER_WORKER)
    add(
        "--scorers",
        type=int,
        help="critics that run at once (default: as many as generators, or one for each CPU beside generators on GPUs)",
    )
    add("--gpus-per-scorer", type=float, help=PER_SCORER)
    unusable = "share of unusable rows, relative to all candidates, at which the job stops (default: 0.05)"
    add("--max-quarantine", type=float, default=0.05, help=unusable)
    out = "folder that all nodes share, or s3://BUCKET/FOLDER (default: candidates in $GPT2_SEARCH_STORAGE or runs)"
    add("--out", help=out)
    uri = "MLflow server or sqlite:////path.db (default: $MLFLOW_TRACKING_URI, else mlflow.db in runs)"
    add("--tracking-uri", help=uri)
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="give a setting a value; may be repeated")
    add_import(p)
    return p


def parse(argv: Sequence[str] | None = None) -> Options:
    """Parse and validate the flags; raise ConfigError or UnknownNameError."""
    o = parser().parse(argv)
    import_modules(o.imports)
    at_least(o, 1, "contexts", "rounds", "workers", "scorers")
    at_least(o, 0, "gpus_per_worker", "gpus_per_scorer")
    if not 0 <= o.max_quarantine <= 1:
        raise ConfigError(f"The value of `--max-quarantine` is {o.max_quarantine:g}, but must be a share, 0 to 1")

    from cluster.connect import default_storage
    from gpt2core.distill.critics import CRITICS
    from gpt2core.storage import address
    from gpt2core.tasks import TASKS
    from trainables.candidates.job import Job

    flags = ("candidates", "temperature", "source", "seed", "tau", "max_rouge", "filters")
    values = {key: getattr(o, key) for key in flags if getattr(o, key) is not None}
    critic = CRITICS[o.critic]
    if o.critic_model:
        if "critic_model" not in critic.keys.model_fields:
            raise ConfigError(f"The value of `--critic-model` is {o.critic_model!r}, but `{o.critic}` takes no model")
        values["critic_model"] = absolute_model(o.critic_model)
    student_keys = known_keys() if o.rounds > 1 else ()
    owners = [GenerationConfig.model_fields, Thresholds.model_fields, critic.keys.model_fields, student_keys]
    values |= settings(o.set, {key for keys in owners for key in keys})
    parts: list[dict[str, Any]] = [{} for _ in owners]
    for key, value in values.items():
        parts[next(number for number, keys in enumerate(owners) if key in keys)][key] = value
    generation, thresholds, critic_settings, student = parts
    generation.setdefault("source", "paraphrase" if o.data_dir else "pretraining")
    lookup(TASKS, str(generation["source"]), "source")
    model = absolute_model(o.model)
    job = Job(
        out=absolute(o.out) if o.out else address(default_storage() / "candidates"),
        contexts=o.contexts,
        model=model,
        generator=model,
        generation=GenerationConfig.of(generation),
        thresholds=Thresholds.of(thresholds),
        critic=o.critic,
        critic_settings={key: value for key, value in critic.keys.of(critic_settings) if key in critic_settings},
        data_dir=absolute(o.data_dir) if o.data_dir else None,
        max_quarantine=o.max_quarantine,
    )
    resources = {key: getattr(o, key) for key in ("workers", "gpus_per_worker", "scorers", "gpus_per_scorer")}
    return Options(
        job=job, resources=resources, rounds=o.rounds, student=student, tracking_uri=o.tracking_uri, imports=o.imports
    )


def execute(options: Options, console: "Console") -> int:
    """Run or resume the job; return the exit status. Raises UserError, KeyboardInterrupt."""
    import ray

    from cluster.connect import connect, default_storage
    from cluster.environment import settle
    from gpt2core.console import print_line
    from trainables.candidates.folder import locked, write_results
    from trainables.candidates.mlflow_run import CandidatesRun
    from trainables.candidates.pipeline import fit_to_cluster, translate_ray_errors
    from trainables.candidates.rounds import run_rounds
    from trainables.candidates.screen import Screen, show
    from trainables.heartbeat import RayEndedError, leave
    from trainables.tracking import mlflow_address

    def warn(text: str) -> None:
        print_line(console, f"warning: {text}", "yellow")

    for line in settle():
        warn(line)
    folder = options.job.folder
    uri = mlflow_address(options.tracking_uri, default_storage())
    with locked(folder):
        tracker = CandidatesRun(uri, warn)
        status, card = "FAILED", ""
        rounds: list[dict[str, Any]] = []
        try:
            with translate_ray_errors():
                connect(imports=options.imports, say=warn)
                interrupt_on_signals()
                job = fit_to_cluster(options.job, **options.resources)
                tracker.start(folder, parameters(job, options))
                try:
                    with Screen(job, console) as screen:
                        run_rounds(job, options.rounds, options.student, [screen, tracker], screen.say)
                except RayEndedError:
                    raise
                except UserError:
                    rounds, card = write_finished(folder, warn)
                    raise
            rounds, card = write_results(folder)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except RayEndedError as error:
            leave(error, lambda: tracker.finish(status, rounds, card))
        finally:
            tracker.finish(status, rounds, card)
            ray.shutdown()
    show(rounds, folder, console)
    return 0


def write_finished(folder: Path, warn: Callable[[str], None]) -> tuple[list[dict[str, Any]], str]:
    """Write the results of the finished rounds after a later round failed; return the rounds and the card."""
    from trainables.candidates.folder import write_results

    try:
        rounds, card = write_results(folder)
    except (OSError, UserError) as error:
        warn(f"the results of finished rounds could not be written: {first_line(error)}")
        return [], ""
    if rounds:
        warn(f"the results of round {', '.join(str(entry['round']) for entry in rounds)} are written nevertheless")
    return rounds, card


def parameters(job: "Job", options: Options) -> dict[str, Any]:
    """Return all settings for MLflow, without worker counts, which change no result."""
    keys = ("contexts", "model", "critic", "data_dir", "max_quarantine")
    values = {key: getattr(job, key) for key in keys} | {"critic_model": None, **job.critic_settings}
    values |= {"rounds": options.rounds}
    values |= {f"student_{key}": value for key, value in options.student.items()}
    return {**values, **job.generation.model_dump(), **job.thresholds.model_dump()}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run from the command line and exit: 0 done, 2 bad input or a job that stopped, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)

    def command() -> int:
        options = parse(words)

        from gpt2core.console import console

        return execute(options, console(200))

    run_or_explain(command, f"gpt2-search candidates {command_text(words)}")


if __name__ == "__main__":
    main()
