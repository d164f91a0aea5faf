"""Generate paraphrases by Impossible Distillation on Ray: `python -m trainables.candidates`, or as a Ray job."""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gpt2core.cli import (
    Parser,
    absolute,
    absolute_model,
    at_least,
    command_text,
    interrupt_on_signals,
    run_or_explain,
    settings,
)
from gpt2core.component import Config
from gpt2core.config import Thresholds, known_keys, meaning
from gpt2core.distill.config import GenerationConfig
from gpt2core.errors import ConfigError, UserError, first_line

if TYPE_CHECKING:
    from rich.console import Console

    from trainables.candidates.job import Job

EPILOG = """\
Settings that have no flag are given with --set: of the generation and of the thresholds, and with --rounds those of the
student's training. Interrupted or killed, the same command goes on. Other thresholds generate nothing again.
The results are in --out: accepted/ and negatives/ (Parquet), course.tsv, manifest.json, README.md (the data card).
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags, validated as far as that needs no cluster; `resources` are arguments of `fit_to_cluster`."""

    job: "Job"
    resources: dict[str, Any]
    rounds: int
    student: dict[str, Any]
    tracking_uri: str | None


def parser() -> Parser:
    """Return the parser. It imports nothing heavy: `--help` answers at once."""
    p = Parser(
        prog="python -m trainables.candidates",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--contexts", type=int, default=200, help="how many contexts (default: 200)")
    p.add_argument("--candidates", type=int, help=_words("candidates", GenerationConfig))
    p.add_argument("--temperature", type=float, help=_words("temperature", GenerationConfig))
    p.add_argument("--source", help=f"{meaning('source', GenerationConfig)} (default: paraphrase, else pretraining)")
    p.add_argument("--data-dir", help=meaning("data_dir"))
    p.add_argument("--model", default="gpt2-nano", help=meaning("model"))
    p.add_argument(
        "--critic", default="overlap", help="critic that scores entailment: overlap, embedding, classifier or nli"
    )
    p.add_argument("--critic-model", help="the critic's model: a folder, or owner/name of the hub")
    p.add_argument("--tau", type=float, help=_words("tau", Thresholds))
    p.add_argument("--max-rouge", type=float, help=_words("max_rouge", Thresholds))
    p.add_argument("--filters", help=_words("filters", Thresholds))
    p.add_argument("--rounds", type=int, default=1, help="rounds of self-distillation (default: 1)")
    p.add_argument("--seed", type=int, help="seed of everything (default: 11711, the study's)")
    p.add_argument("--workers", type=int, help="generators at work at once (default: as many as GPUs, or CPUs)")
    p.add_argument("--gpus-per-worker", type=float, help="GPUs of a worker (default: 1 where there are GPUs, else 0)")
    p.add_argument(
        "--scorers", type=int, help="critics at work at once (default: as many as workers; beside GPUs, as CPUs)"
    )
    p.add_argument("--gpus-per-scorer", type=float, default=0.0, help="GPUs of a scorer (default: 0, it runs on a CPU)")
    p.add_argument(
        "--max-quarantine",
        type=float,
        default=0.05,
        help="unusable rows that may be, as a share of all candidates, before the job stops (default: 0.05)",
    )
    p.add_argument(
        "--out",
        help="folder that all nodes share, or s3://BUCKET/FOLDER (default: candidates in $GPT2_SEARCH_STORAGE or runs)",
    )
    p.add_argument(
        "--tracking-uri", help="MLflow server or sqlite:////path.db (default: $MLFLOW_TRACKING_URI; mlflow.db in runs)"
    )
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="fix a setting; may be repeated")
    return p


def _words(name: str, keys: type[Config]) -> str:
    """What a key means, and its default."""
    return f"{meaning(name, keys)} (default: {keys.model_fields[name].default})"


def parse(argv: Sequence[str] | None = None) -> Options:
    """Parse and validate the flags; raise ConfigError or UnknownNameError."""
    o = parser().parse(argv)
    at_least(o, 1, "contexts", "rounds", "workers", "scorers")
    at_least(o, 0, "gpus_per_worker", "gpus_per_scorer")
    if not 0 <= o.max_quarantine <= 1:
        raise ConfigError(f"The value of `--max-quarantine` is {o.max_quarantine:g}, but must be a share, 0 to 1")

    from cluster.connect import default_storage
    from gpt2core.component import lookup
    from gpt2core.distill.critics import CRITICS
    from gpt2core.storage import address
    from gpt2core.tasks import TASKS
    from trainables.candidates.job import Job

    flags = ("candidates", "temperature", "source", "seed", "tau", "max_rouge", "filters")
    given = {key: getattr(o, key) for key in flags if getattr(o, key) is not None}
    critic = CRITICS[o.critic]
    if o.critic_model and "critic_model" not in critic.keys.model_fields:
        raise ConfigError(
            f"The value of `--critic-model` is {o.critic_model!r}, but the critic `{o.critic}` takes no model"
        )
    if o.critic_model:
        given["critic_model"] = absolute_model(o.critic_model)
    generation, thresholds, of_critic, student = sorted_settings(
        o.set, given, critic.keys.model_fields, rounds=o.rounds
    )
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
        critic_settings={key: value for key, value in critic.keys.of(of_critic) if key in of_critic},
        data_dir=absolute(o.data_dir) if o.data_dir else None,
        max_quarantine=o.max_quarantine,
    )
    return Options(
        job=job,
        resources={key: getattr(o, key) for key in ("workers", "gpus_per_worker", "scorers", "gpus_per_scorer")},
        rounds=o.rounds,
        student=student,
        tracking_uri=o.tracking_uri,
    )


def sorted_settings(
    pairs: Sequence[str], given: dict[str, Any], of_critic: Collection[str], *, rounds: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The values of flags and of `--set` as those of generation, thresholds, critic and, where there are `rounds`, student.

    Raises ConfigError.
    """
    student = set(known_keys()) if rounds > 1 else set()
    kinds = [set(GenerationConfig.model_fields), set(Thresholds.model_fields), set(of_critic), student]
    parts: tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {}, {})
    for key, value in {**given, **settings(pairs, set.union(*kinds))}.items():
        parts[next(place for place, kind in enumerate(kinds) if key in kind)][key] = value
    return parts


def execute(options: Options, console: "Console") -> int:
    """Run or resume the job; return the exit status. Raises UserError, KeyboardInterrupt."""
    import ray

    from cluster.connect import connect, default_storage
    from cluster.environment import settle
    from trainables.candidates.folder import locked, manifest
    from trainables.candidates.mlflow_run import CandidatesRun
    from trainables.candidates.pipeline import fit_to_cluster, translate_ray_errors
    from trainables.candidates.results import write_results
    from trainables.candidates.rounds import run_rounds
    from trainables.candidates.screen import Screen, show
    from trainables.heartbeat import RayEndedError, leave
    from trainables.tracking import mlflow_address

    def warn(text: str) -> None:
        console.print(f"warning: {text}", markup=False, soft_wrap=True)

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
                connect(say=warn)
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
            rounds = manifest(folder)["rounds"]
            card = write_results(folder, rounds)
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
    """Write the results of the finished rounds after a later one failed; return the rounds and the card."""
    from trainables.candidates.folder import manifest
    from trainables.candidates.results import write_results

    try:
        rounds = manifest(folder)["rounds"]
        card = write_results(folder, rounds) if rounds else ""
    except (OSError, UserError) as error:
        warn(f"what is finished could not be written down: {first_line(error)}")
        return [], ""
    if rounds:
        warn(f"the results of round {', '.join(str(entry['round']) for entry in rounds)} are written all the same")
    return rounds, card


def parameters(job: "Job", options: Options) -> dict[str, Any]:
    """All settings, for MLflow, without the counts of workers, which change no result."""
    keys = ("contexts", "model", "critic", "data_dir", "max_quarantine")
    values = {key: getattr(job, key) for key in keys} | {"critic_model": None, **job.critic_settings}
    values |= {"rounds": options.rounds}
    values |= {f"student_{key}": value for key, value in options.student.items()}
    return {**values, **job.generation.model_dump(), **job.thresholds.model_dump()}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run from the command line and exit: 0 done, 2 bad input or a job that had to stop, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)

    def command() -> int:
        options = parse(words)

        from gpt2core.console import console

        return execute(options, console(200))

    run_or_explain(command, f"python -m trainables.candidates {command_text(words)}")


if __name__ == "__main__":
    main()
