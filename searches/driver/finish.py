"""Last step of a search: its summary however it ended; report and model folder of the winner if it ended well."""

from pathlib import Path

from safetensors import SafetensorError

from gpt2core.checkpoints.layout import BEST
from gpt2core.console import print_exact
from gpt2core.errors import StorageError, UserError, first_line
from gpt2core.files import write_json
from gpt2core.model_folder import export
from gpt2core.storage import address, send
from searches.driver.connect import SearchRun
from searches.places import trial_folder
from searches.result_files import SUMMARY
from searches.running.ledger import COMPLETED, STOPPED, LedgerError
from searches.showing.report import write
from searches.showing.screen import show
from searches.showing.summary import summarise
from searches.summary import Summary
from trainables.programs.run import ProgramRun
from trainables.runs import run_of


def finalise(run: SearchRun, status: str) -> Summary:
    """Write the summary, end the MLflow run and close the ledger, however the search ended; return the summary.

    Raises UserError if a search that ended well cannot be recorded.
    """
    ledger, path = run.ledger, run.options.results_folder / SUMMARY
    problem: UserError | None = None
    ledger.listeners.clear()
    try:
        ledger.record({"event": "left", "status": status.lower()})
    except LedgerError as error:
        problem = error
    summary = summarise(run.options, ledger.state, path.parent)
    try:
        write_json(path, summary.model_dump(mode="json"))
        send(path)
    except StorageError as error:
        problem = error
    except OSError as error:
        problem = UserError(f"{path}: cannot be written ({error.strerror}); fix this, then run the same command again")
    if run.tracker.ready:
        run.tracker.finish(summary, status)
    ledger.close()
    if problem is not None and status == "FINISHED":
        raise problem
    return summary


def finish(run: SearchRun, summary: Summary) -> int:
    """Write report and model folder, then print the results; return the exit status."""
    folder = run.options.results_folder
    report, files = _write_report(summary, folder)
    model, exported = _write_model(summary, folder)
    if files:
        run.tracker.attach({path.name: path.read_text(encoding="utf-8") for path in files}, summary, files[0])
    show(summary, run.console)
    for line in (*report, *model, *run.tracker.page()):
        print_exact(run.console, line)
    return 0 if files and exported else 1


def _write_report(summary: Summary, folder: Path) -> tuple[list[str], list[Path]]:
    """Write the report; return lines to print and its files, none if it cannot be written."""
    results = f"Results: {address(folder)}"
    try:
        files = write(folder, summary)
    except (OSError, UserError) as error:
        return [_not_written("The report", error), results], []
    return [f"Report: {address(files[0])}", results], files


def _write_model(summary: Summary, folder: Path) -> tuple[list[str], bool]:
    """Write the model folder of the chosen trial; return lines to print and whether this worked."""
    done = any(row.status in (COMPLETED, STOPPED) for row in summary.trials)
    if not done or summary.best is None:
        reasons = sorted({row.reason for row in summary.trials if row.reason})
        return [f"No trial succeeded: {'; '.join(reasons) or 'none was started'}"], False
    name = summary.answer.chosen or summary.best.id
    run = run_of(next(row.config for row in summary.trials if row.id == name))
    if isinstance(run, ProgramRun):
        return [f"Folder of trial {name}: {address(folder / 'trials' / name)}"], True
    out = folder / BEST
    try:
        export(run, trial_folder(folder, name), out)
        send(out)
    except (OSError, UserError, SafetensorError) as error:
        return [_not_written(f"The model folder of trial {name}", error)], False
    return [f"Model folder of trial {name}: {address(out)}"], True


def _not_written(result: str, error: Exception) -> str:
    why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else first_line(error)
    return (
        f"{result} could not be written ({why}). All other results are kept; fix this, then run the same command again"
    )
