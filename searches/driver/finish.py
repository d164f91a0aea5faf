"""Last step of a search: its summary however it ends; its report and the winner's model folder where it ended well."""

from pathlib import Path

from safetensors import SafetensorError

from gpt2core.config import RunConfig
from gpt2core.errors import StorageError, UserError, first_line
from gpt2core.export import export
from gpt2core.files import write_json
from gpt2core.storage import address, send
from searches.driver.connect import SearchRun
from searches.options import trial_folder
from searches.running.ledger import COMPLETED, STOPPED, LedgerError
from searches.showing.report import write
from searches.showing.screen import show
from searches.showing.summary import summary_of
from searches.summary import Summary


def finalise(run: SearchRun, status: str) -> Summary:
    """Write the summary of a search that ends, well or not, and close its run in MLflow and its ledger; return the summary.

    Raises UserError where that of a search that ended well could not be written.
    """
    ledger, path = run.ledger, run.options.results_folder / "summary.json"
    problem: UserError | None = None
    ledger.listeners.clear()
    try:
        ledger.record({"event": "left"})
    except LedgerError as error:
        problem = error
    summary = summary_of(run.options, ledger.state, path.parent)
    try:
        write_json(path, summary.model_dump(mode="json"))
        send(path)
    except StorageError as error:
        problem = error
    except OSError as error:
        problem = UserError(f"{path}: cannot be written ({error.strerror}); the same command goes on")
    if run.tracker.ready:
        run.tracker.finish(summary, status)
    ledger.close()
    if problem is not None and status == "FINISHED":
        raise problem
    return summary


def finish(run: SearchRun, summary: Summary) -> int:
    """Write the report, export the winner, then print both; return the exit status."""
    folder, console = run.options.results_folder, run.console
    report, files, written = _report(summary, folder)
    model, exported = _model(summary, folder)
    if files:
        run.tracker.attach({path.name: path.read_text(encoding="utf-8") for path in files}, summary, files[0])
    mlflow = f"MLflow: {run.tracker.page()}"
    show(summary, console)
    for line in (*report, *model, mlflow):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0 if written and exported else 1


def _report(summary: Summary, folder: Path) -> tuple[list[str], list[Path], bool]:
    """Lines to print, the files of the report, and whether they were written."""
    results = folder / "summary.json"
    try:
        page, *others = files = write(folder, summary)
    except (OSError, UserError) as error:
        return [_unwritten("The report", error), f"Results: {address(results)}"], [], False
    return [f"Report: {address(page)}", f"Results: {', '.join(map(address, [results, *others]))}"], files, True


def _model(summary: Summary, folder: Path) -> tuple[list[str], bool]:
    """Lines to print, and whether there is a winner and its model folder was written."""
    done = any(row.status in (COMPLETED, STOPPED) for row in summary.trials)
    if not done or summary.best is None:
        reasons = sorted({row.reason for row in summary.trials if row.reason})
        return [f"No trial succeeded: {'; '.join(reasons) or 'none was started'}"], False
    name = summary.answer.chosen or summary.best.id
    chosen = next(row for row in summary.trials if row.id == name)
    out = folder / "best"
    try:
        weights = trial_folder(folder, name)
        export(RunConfig.of(chosen.config), weights, out)
        send(out)
    except (OSError, UserError, SafetensorError) as error:
        return [_unwritten(f"The model folder of trial {name}", error)], False
    return [f"Model folder of trial {name}: {address(out)}"], True


def _unwritten(what: str, error: Exception) -> str:
    """That a result is missing, why, and how to have it."""
    why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else first_line(error)
    return f"{what} could not be written ({why}). All else is kept; when that is mended, the same command writes it"
