"""Run a search: check everything, connect, tune, confirm, sum up. Everything that it learns goes through the ledger."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.console import Console
from safetensors import SafetensorError

from cluster.connect import check_shared, connect
from gpt2core.cli import command_text, interrupt_on_signals
from gpt2core.config import PLACES, RunConfig
from gpt2core.distill.critics.folder import model_digest
from gpt2core.distill.dataset import sets_digest
from gpt2core.errors import StorageError, UserError, first_line, without_password
from gpt2core.export import export
from gpt2core.files import write_json
from gpt2core.model_config import unused_decoding
from gpt2core.storage import address, is_copy, send
from gpt2core.tasks import TaskData
from gpt2core.tasks.gold import check_gold
from gpt2core.weights import model_folder
from searches.deciding.answering import fix_design
from searches.deciding.comparing import judges_of
from searches.deciding.final import final_test
from searches.deciding.strategy import Strategy
from searches.options import Options, trial_folder, without
from searches.pairs import jobs, make_pairs, pair_sets
from searches.planning.baselines import baselines
from searches.planning.checking import check, first_digests
from searches.planning.measure import note_plan
from searches.question import Plan
from searches.running.budget_stop import BudgetStopper
from searches.running.control import MAILBOX, Control, Mailbox
from searches.running.failures import Faults, explained
from searches.running.gpu_sharing import Sharing, trials_of_a_gpu
from searches.running.ledger import COMPLETED, STOPPED, Ledger, LedgerError
from searches.running.offsite import refresh
from searches.running.searcher import StrategyScheduler, StrategySearcher
from searches.running.shares import share
from searches.running.tracking import Tracker
from searches.showing.facts import cluster, machine
from searches.showing.report import write
from searches.showing.screen import Screen, show
from searches.showing.summary import model_line, summary_of
from trainables.executors import Executor, trainable
from trainables.heartbeat import leaving_when_ray_ends
from trainables.machines import grows, machines
from trainables.packs import Packs
from trainables.tracking import database_of, mlflow_address, why
from trainables.trial import RESTARTS, TrialSpec
from trainables.warm import task_data

PAUSES = (0.5, 2.0)  # seconds between tries to open MLflow


def execute(options: Options, console: Console, *, keep_ray: bool = False) -> int:
    """Run or resume the search that `options` describe; return the exit status. Raises UserError, KeyboardInterrupt.

    With `keep_ray`, Ray is left to the next search of this process; it ends with the process.
    """
    plan, storage = options.plan, options.storage_folder
    folder = options.results_folder
    to_make = list(jobs(plan, folder))  # pairs that cannot be made cost no trial either
    data = check(plan, without_pairs=bool(to_make))
    if options.scores_test:
        check_gold(data.corpus, "test", plan.task)
    ledger = open_ledger(folder, plan, options.resume, say=lambda text: console.print(text, markup=False))
    argv = without(options.argv, "--tracking-uri")  # which may hold a password
    uri = mlflow_address(options.tracking_uri, storage)
    tell_copies_apart(plan, ledger, folder, uri, lambda text: console.print(text, markup=False, soft_wrap=True))
    ledger.record({"event": "started", "argv": argv, "folder": str(folder), "environment": machine()})
    interrupt_on_signals()
    screen = Screen(plan, console, options.budget, ledger.state)
    tracker = Tracker(plan, ledger, uri, screen.warn)
    status = "FAILED"

    def end() -> dict[str, Any]:
        return wind_up(options, ledger, tracker, status)

    try:
        console.print(f"{options.name}: {plan.search.question}", style="bold", markup=False)
        console.print(f"Model: {model_line(plan)}", markup=False, highlight=False)
        if unused := unused_decoding(model_folder(plan.config(plan.search.reference).model)):
            console.print(f"note: {unused}", markup=False, highlight=False, soft_wrap=True)
        with ThreadPoolExecutor(1) as beside:  # a new database takes seconds, and Ray waits for its processes
            tracked = beside.submit(start_tracking, tracker, options)
            spec = connect_and_share(options, folder, screen.warn)
            tracked.result()
        ledger.listeners += [screen, tracker]
        describe_data(plan, ledger, data)
        fix_design(plan, ledger)
        console.print(f"Data: {ledger.state.data['data']}", markup=False, highlight=False, soft_wrap=True)
        ledger.record({"event": "cluster", "cluster": cluster(ray.cluster_resources())})
        interrupt_on_signals()
        with leaving_when_ray_ends(end) as heart:
            note_plan(options, ledger, spec, console)
            spec = sharing_gpus(options, folder, spec, ledger)
            make_pairs(options, ledger, spec, console)
            note_pairs(plan, ledger)
            spec = replace(spec, data=plain_digest(plan))
            with screen:
                run_tune(options, ledger, spec, trainable(spec), folder, screen.say, Faults(heart, tracker.warn))
            if options.scores_test:
                final_test(plan, ledger, spec, address(folder / "trials"))
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        summary = end()
        if status == "FAILED" and not keep_ray:  # else it ends later, and so that the last line says what went wrong
            ray.shutdown()
    results_are, code = conclude(summary, folder, tracker)  # before anything is shown
    show(summary, console)
    for line in results_are:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not keep_ray:
        ray.shutdown()
    return code


def wind_up(options: Options, ledger: Ledger, tracker: Tracker, status: str) -> dict[str, Any]:
    """Write down how a search stands that ends, well or not; return its summary.

    Raises UserError where a search that ended well could not be written down.
    """
    folder = options.results_folder
    problem: UserError | None = None
    ledger.listeners.clear()
    try:
        ledger.record({"event": "left"})
    except LedgerError as error:
        problem = error
    summary = summary_of(options, ledger.state, folder)
    try:
        write_json(folder / "summary.json", summary)
        send(folder / "summary.json")
    except StorageError as error:
        problem = error
    except OSError as error:
        problem = UserError(
            f"{folder / 'summary.json'}: cannot be written ({error.strerror}); the same command goes on"
        )
    if tracker.ready:
        tracker.finish(summary, status)
    ledger.close()
    if problem is not None and status == "FINISHED":
        raise problem
    return summary


def open_ledger(folder: Path, plan: Plan, resume: str, say: Callable[[str], None]) -> Ledger:
    """Open the ledger by the rule of `--resume`; raise UserError where the rule or the earlier search forbids it."""
    refresh(folder)
    exists = (folder / "ledger.jsonl").exists()
    if resume == "must" and not exists:
        raise UserError(f"{address(folder)}: there is no search to go on with, but --resume is must")
    if resume == "never" and exists:
        raise UserError(f"{address(folder)}: there is a search already, and --resume is never; choose another --name")
    ledger = Ledger(folder / "ledger.jsonl", say=say)
    if ledger.state.digest is None:
        ledger.begin(plan.digest, plan.search.name, plan.seed)
    elif ledger.state.digest != plan.digest:
        ledger.close()
        raise UserError(
            f"{address(folder)}: the search there has another space or other settings; choose another --name, or the flags it had"
        )
    for trial in ledger.state.trials.values():  # its data may have been moved
        trial.run |= {key: plan.fixed[key] for key in PLACES if key in plan.fixed}
    return ledger


def tell_copies_apart(plan: Plan, ledger: Ledger, folder: Path, uri: str, say: Callable[[str], None]) -> None:
    """Give a copy of a search runs of its own where the search that it was copied from has the same MLflow."""
    state, here = ledger.state, folder / "ledger.jsonl"
    former = Path(state.folder) / here.name
    own = database_of(uri)
    if is_copy(folder) or not state.folder or (own and own.is_relative_to(folder.parent.parent)):
        return
    if former.exists() and not former.samefile(here):
        say(f"This is a copy of the search in {former.parent}: in MLflow it has runs of its own")
        ledger.begin(state.digest, state.script, plan.seed)


def start_tracking(tracker: Tracker, options: Options) -> None:
    """Open MLflow; raise UserError where its address does not answer at the start."""
    plan = options.plan
    params = {
        **{f"profile_{k}": v for k, v in vars(plan.profile).items()},
        "seed": plan.seed,
        "space_digest": plan.digest,
    }
    params |= {f"space_{key}": domain for key, domain in plan.space.items()} | {"command": command_text(options.argv)}
    tags = {"search": options.name, "question": plan.search.question, "code_version": version("gpt2-search")}
    for pause in (*PAUSES, None):
        try:
            tracker.start(options.name, params, tags)
            return
        except UserError:
            raise
        except Exception as error:  # of MLflow, of its database, of the network: it may only just have been started
            if pause is None:
                where = without_password(tracker.uri)
                raise UserError(
                    f"MLflow at {where} did not answer: {why(error, tracker.uri)}; see --tracking-uri"
                ) from None
            time.sleep(pause)


def describe_data(plan: Plan, ledger: Ledger, data: TaskData) -> None:
    """Record the digests of data and model, and the trivial baselines, once; raise UserError where data or model has changed."""
    noted = ledger.state.data
    model = model_digest(model_folder(plan.config(plan.search.reference).model))
    firsts = {f"first_{task}": digest for task, digest in first_digests(plan).items()}
    description = {"data": data.describe(), "digest": data.corpus.digest, "model": model, **firsts}
    if not noted:
        ledger.record(
            {
                "event": "data",
                "data": description,
                "baselines": baselines(plan, data),
                "judges": asdict(judges_of(plan.comparing, data, plan.profile.folds)),
            }
        )
        return
    compare(noted, description, "digest", "data")
    compare(noted, description, "model", "model")
    for key in firsts:
        compare(noted, description, key, f"data of the first stage `{key.removeprefix('first_')}`")


def plain_digest(plan: Plan) -> str:
    """The digest of the data that trials have which do not learn from generated pairs; empty where all do."""
    config = plan.config(plan.search.reference).but(pairs_examples=0)
    return "" if config.task == "rewriting" else task_data(config).corpus.digest


def compare(noted: Mapping[str, str], found: Mapping[str, str], key: str, what: str) -> None:
    """Raise UserError where something is no longer what the ledger has noted of it."""
    if noted.get(key, found[key]) != found[key]:
        raise UserError(
            f"The {what} has changed since this search began: its digest is {found[key][:12]}, and was "
            f"{noted[key][:12]}; choose another --name"
        )


def note_pairs(plan: Plan, ledger: Ledger) -> None:
    """Note the digest of all generated pairs that trials learn from, once; raise UserError where they have changed since."""
    folders = pair_sets(plan)
    if not folders:
        return
    noted, found = ledger.state.data, {"pairs": sets_digest(folders)}
    compare(noted, found, "pairs", "set of generated pairs")
    if "pairs" not in noted:
        state = ledger.state
        ledger.record(
            {"event": "data", "data": noted | found, "baselines": state.baselines, "judges": state.judges or None}
        )


def connect_and_share(options: Options, folder: Path, say: Callable[[str], None]) -> TrialSpec:
    """Connect to Ray and return what every trial gets; raise ConfigError where the cluster cannot give it."""
    wants_group = options.workers_per_trial > 1 or bool(options.gpus_per_worker)
    connect(dashboard=wants_group, say=say)
    check_shared(folder)
    return share_of_cluster(options, folder)


def share_of_cluster(options: Options, folder: Path) -> TrialSpec:
    """What every trial gets of the cluster; raise ConfigError as `share`."""
    return share(options, folder, machines(), grows=grows())


def sharing_gpus(options: Options, folder: Path, spec: TrialSpec, ledger: Ledger) -> TrialSpec:
    """Let trials share a GPU where, by the plan, its memory has room for several and nobody said how many there are to be."""
    several = trials_of_a_gpu(ledger.state.plan)
    if not spec.grouped or spec.workers > 1 or options.gpus_per_worker is not None or several == 1:
        return spec
    return share_of_cluster(replace(options, gpus_per_worker=1 / several), folder)


def run_tune(
    options: Options,
    ledger: Ledger,
    spec: TrialSpec,
    executor: Executor,
    folder: Path,
    say: Callable[[str], None],
    faults: Faults,
) -> None:
    """Let Tune run the trials that the searcher proposes."""
    plan = options.plan
    function, resources = executor
    scratch = folder / "tune"
    shutil.rmtree(scratch, ignore_errors=True)
    budget = BudgetStopper(options.budget, plan, ledger)
    budget.begin(spec)
    strategy = Strategy(plan, ledger, budget.searching)
    strategy.begin()
    if spec.concurrent > ledger.state.lag + 1:
        say(
            f"{spec.concurrent} trials fit at once, but a trial waits for all but the last {ledger.state.lag} before it, so at "
            f"most {ledger.state.lag + 1} run; a search of another --name with --ahead {spec.concurrent} uses all"
        )
    packs = Packs(spec, options.name) if spec.pack > 1 else None
    sharing = Sharing(spec, ledger) if spec.grouped and 0 < spec.gpus_per_worker < 1 else None
    # Where machines come, what they have room for is proposed; a group waits in a process, so no more of them than fit.
    open_end = grows() and not options.max_concurrent and not spec.grouped and spec.pack == 1
    at_once = ledger.state.lag if open_end else spec.concurrent
    mailbox = Mailbox(folder / MAILBOX, say)
    searcher = StrategySearcher(strategy, spec, address(folder / "trials"), budget, packs, sharing)
    scheduler = StrategyScheduler(searcher)
    tuner = tune.Tuner(
        tune.with_resources(function, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=not spec.grouped,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=address(folder),
            verbose=0,
            stop=budget,
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            callbacks=[Control(mailbox, scheduler, say), faults],
        ),
    )
    for name in ("ray.tune.execution.experiment_state", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their snapshot is never read
    mailbox.open()
    try:
        with explained(ledger):
            tuner.fit()
    finally:
        mailbox.close()
        if packs is not None:
            packs.close()
    budget.close()


def _trial_name(trial: Any) -> str:
    return str(trial.config["spec"]["name"])


def conclude(summary: dict[str, Any], folder: Path, tracker: Tracker) -> tuple[list[str], int]:
    """Write the report and export the winner; return what to say of it, a line each, and the exit status."""
    report, files, whole = _report(summary, folder)
    model, exported = _model(summary, folder)
    if files:
        tracker.attach({path.name: path.read_text(encoding="utf-8") for path in files}, summary, files[0])
    return [*report, *model, f"MLflow: {tracker.page()}"], 0 if whole and exported else 1


def _report(summary: dict[str, Any], folder: Path) -> tuple[list[str], list[Path], bool]:
    results = folder / "summary.json"
    try:
        page, *others = files = write(folder, summary)
    except (OSError, UserError) as error:
        return [_unwritten("The report", error), f"Results: {address(results)}"], [], False
    return [f"Report: {address(page)}", f"Results: {', '.join(map(address, [results, *others]))}"], files, True


def _model(summary: dict[str, Any], folder: Path) -> tuple[list[str], bool]:
    done = any(row["status"] in (COMPLETED, STOPPED) for row in summary["trials"])
    if not done or summary["best"] is None:
        reasons = sorted({row["reason"] for row in summary["trials"] if row["reason"]})
        return [f"No trial succeeded: {'; '.join(reasons) or 'none was started'}"], False
    name = summary["answer"]["chosen"]
    chosen = next(row for row in summary["trials"] if row["id"] == name)
    out = folder / "best"
    try:
        weights = trial_folder(folder, name)
        export(RunConfig.of(chosen["config"]), weights, out)
        send(out)
    except (OSError, UserError, SafetensorError) as error:
        return [_unwritten(f"The model folder of trial {name}", error)], False
    return [f"Model folder of trial {name}: {address(out)}"], True


def _unwritten(what: str, error: Exception) -> str:
    """That a result is missing, why, and how to have it."""
    why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else first_line(error)
    return f"{what} could not be written ({why}). All else is kept; when that is mended, the same command writes it"
