"""Run a search from its script to its results; every script calls `main`."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from cluster.environment import settle
from gpt2core.cli import command_text, interrupt_on_signals, print_json, run_or_explain
from gpt2core.console import console as plain_console
from gpt2core.console import print_line, status
from gpt2core.errors import ConfigError, HubError
from gpt2core.machine import cpus
from searches.formatting import count
from searches.options import Options, parse_for_user
from searches.planning.plan_table import show_prediction
from searches.programs.checking import check_program
from searches.question import Search, scripts, search_of
from searches.result_files import LEDGER
from searches.search_file import read
from searches.showing.screen import show_plan

OTHER_SCRIPTS = ("command", "study")  # which ask no question of their own


def main(search: Search, argv: list[str] | None = None) -> NoReturn:
    """Run a search from the command line and exit.

    Status: 0 done, 1 no trial succeeded or a result could not be written, 2 bad input, 130 interrupted.
    """
    if argv is None:
        search, argv = replace(search, file=sys.argv[0]), sys.argv[1:]
    resume = f"{search.command} {command_text(argv)}"
    run_or_explain(lambda: run(_loaded(lambda: search, argv)), resume, as_json="--json" in argv)


def run_named(options: argparse.Namespace) -> int:
    """Run a search script of this project by its name, or the search that a file states; return the exit status."""
    if options.search in OTHER_SCRIPTS:
        status: int = import_module(f"searches.{options.search}").main(options.flags)
        return status
    if options.search in scripts():
        script = str(Path(__file__).with_name(f"{options.search}.py"))
        return run(_loaded(lambda: replace(search_of(options.search), file=script), options.flags))
    return run(_loaded(lambda: read(options.search), options.flags))


def _loaded(load: Callable[[], Search], argv: list[str]) -> Options:
    with status("Loading PyTorch", as_json="--json" in argv):
        return parse_for_user(load, argv)


def run(options: Options, *, keep_ray: bool = False) -> int:
    """Run or plan a search; return the exit status. `keep_ray` keeps Ray for the next search of this process."""
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        for line in settle():
            print_line(console(), f"warning: {line}", "yellow")
        status = 0 if options.plan_only else run_search(options, keep_ray=keep_ray)
    if options.plan_only:
        print_plan(options)
    elif options.json:
        print_results(options)
    return status


def print_results(options: Options) -> None:
    """Print the results of a search as JSON."""
    from searches.running.ledger import read_state
    from searches.showing.as_json import results_json
    from searches.showing.summary import summarise

    state = read_state(options.results_folder / LEDGER)
    summary = summarise(options, state, options.results_folder)
    print_json(results_json(options, state, summary, time.time()))


def print_plan(options: Options) -> None:
    """Print what would run and what it would take on this machine; start nothing."""
    from searches.pairs import jobs  # PyTorch takes seconds to import
    from searches.planning.checking import check
    from searches.planning.measure import forecast_locally
    from searches.running.resume import earlier_state
    from searches.showing.as_json import plan_json

    folder, program, data = options.results_folder, options.plan.program, None
    if program is not None:
        check_program(program)
    else:
        with (
            suppress(HubError),
            status("Reading model and data", as_json=options.json),
        ):  # they may exist, but be unreachable now
            data = check(options.plan, without_pairs=any(jobs(options.plan, folder))).describe()
    earlier = earlier_state(folder, options.plan, options.resume)
    room = resources(options)
    with status("Timing a few steps", as_json=options.json):
        forecast = forecast_locally(options, folder)
    if options.json:
        print_json(plan_json(options, room, forecast, earlier, data))
        return
    show_plan(options.plan, room, str(folder), console(), earlier, data)
    show_prediction(forecast, console())


def run_search(options: Options, *, keep_ray: bool = False) -> int:
    """Start or resume a search: connect, tune, finish. Raises UserError, KeyboardInterrupt."""
    terminal = console(wide=options.wide)
    print_line(terminal, f"{options.name}: {options.plan.search.question}", "bold")
    with terminal.status("Loading Ray"):
        import ray  # with the modules below it takes seconds to import

        from searches.driver.connect import connect, open_search
        from searches.driver.finish import finalise, finish
        from searches.driver.notify import message, notify

    run, status = open_search(options, terminal), "FAILED"
    interrupt_on_signals()
    try:
        spec = connect(run)
        from searches.driver.tune import tune

        tune(run, spec)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        summary = finalise(run, status)
        if status != "FINISHED":
            notify(options.notify, message(options, summary, status), run.screen.warn)
        if status == "FAILED" and not keep_ray:  # before the error is printed, so that it is the last line
            ray.shutdown()
    code = finish(run, summary)
    notify(options.notify, message(options, summary, status), run.screen.warn)
    if not keep_ray:
        ray.shutdown()
    return code


def console(*, wide: bool = False) -> Console:
    """Return the terminal, or a console of 200 columns if the output is not a terminal; `wide` tables hide no column."""
    return plain_console(200, wide=wide)


def resources(options: Options) -> str:
    """Describe how many trials would run at once, without starting anything."""
    from gpt2core.speed import gpu_count  # PyTorch takes seconds to import
    from searches.running.resources import local_spec

    workers = f", {options.workers_per_trial} workers each" if options.workers_per_trial > 1 else ""
    if cluster := os.environ.get("RAY_ADDRESS"):
        at_once = count(options.max_concurrent, "trial") if options.max_concurrent else "as many trials as fit"
        return f"Runs {at_once} at a time on the cluster at {cluster}{workers}."
    machine = f"{count(cpus(), 'CPU')}, {count(gpu_count(), 'GPU') if gpu_count() else 'no GPU'}"
    try:
        spec = local_spec(options, options.results_folder)
    except ConfigError:
        return f"This machine ({machine}) has no room for a trial{workers}."
    return f"Runs {count(spec.concurrent, 'trial')} at a time{workers} on this machine ({machine})."
