"""Searches from Python, in a script or a notebook: run, resume, control and compare them, and load their results."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from gpt2core.checkpoints.layout import BEST
from gpt2core.cli import keeping_signal_handlers
from gpt2core.errors import UserError, shown
from gpt2core.storage import fetch
from searches.options import Options, parse_for_user
from searches.places import search_folder
from searches.programs.models import check_has_model
from searches.question import IN_PYTHON, Search
from searches.result_files import MAILBOX, PROMOTED, REPORT, SUMMARY
from searches.summary import Summary, TrialRow, Verdict

if TYPE_CHECKING:  # a second to import
    import pandas as pd

    from searches.running.control import Action
    from searches.showing.compare import Comparison


Place = str | Path


@dataclass(frozen=True)
class Result:
    """The results of a search; a notebook shows its answer and the compared settings."""

    folder: Path
    summary: Summary

    @property
    def answer(self) -> Verdict:
        """The answer with the numbers behind it; `answer.text` is the answer in words."""
        return self.summary.answer

    @cached_property
    def trials(self) -> "pd.DataFrame":
        """All trials and their replicates: searched values, score, and the metrics of the best epoch."""
        import pandas as pd

        return pd.DataFrame([_row(trial) for trial in self.summary.trials]).set_index("trial")

    @property
    def best(self) -> Path:
        """The model folder of the winner, or without one of the trial with the best mean on fresh seeds.

        Raises UserError if it was not written, or with the command of that trial if the search is of a program.
        """
        chosen = self.summary.answer.chosen or self.summary.best_id
        for trial in self.summary.trials:
            if trial.id == chosen:
                check_has_model(trial.config, self.folder, trial.id)
        return self._written(BEST)

    @property
    def report(self) -> Path:
        """The report as a page; raise UserError if it was not written."""
        return self._written(REPORT)

    def promote(
        self,
        *,
        trial: str | None = None,
        out: str | None = None,
        format: Literal["auto", "huggingface", "adapter"] = "auto",
        registered_name: str | None = None,
        tracking_uri: str | None = None,
    ) -> Path:
        """Write a model folder with its card and register it, as `gpt2-search promote` does; return the folder."""
        from searches.promoting.promote import promote

        place = {"storage": str(self.folder.parent.parent), "name": self.folder.name, "trial": trial, "out": out}
        promote(Namespace(**place, format=format, registered_name=registered_name, tracking_uri=tracking_uri))
        return Path(out) if out else self.folder / PROMOTED

    def __repr__(self) -> str:
        return f"<Result of {self.folder.name}: {self.answer.text}>"

    def __str__(self) -> str:
        return self.answer.text

    def _repr_html_(self) -> str:
        """Show the answer and the compared settings in a notebook."""
        from markupsafe import Markup

        from searches.showing.report_tables import settings_table
        from searches.showing.tables import as_html

        words = Markup("<p><strong>{}</strong> {} {}</p>").format(
            self.answer.claim, self.answer.rest, self.answer.scope
        )
        return words + (as_html(settings_table(self.summary)) if self.answer.rows else Markup(""))

    def _written(self, name: str) -> Path:
        path = self.folder / name
        fetch(path)
        if not path.exists():
            raise UserError(f"{path}: was not written; run the search again to its end")
        return path


def run(search: Search, /, *, imports: Sequence[str] = (), **flags: Any) -> Result:
    """Run a search, or resume it, and return its results. Ray goes on running if it was running before.

    Flags are those of the command line: `run(SEARCH, model="gpt2", trials=30, until="decided", set={"epochs": 2})`. `imports` are
    modules that register own parts, the values of --import. Raises UserError, with the message of the command line, and
    KeyboardInterrupt.
    """
    if not isinstance(search, Search):
        raise UserError(f"The search is {shown(search)}, but must be a Search; `resume` goes on with one by its name")
    argv = flags_of({"import": imports, **flags})
    options = parse_for_user(lambda: replace(search, file=IN_PYTHON), argv)
    return _run(options)


def resume(name: str, storage: Place | None = None, *, imports: Sequence[str] = (), **flags: Any) -> Result:
    """Go on with a search from its ledger, wherever it was started, and return its results; one that has ended stays as it is.

    Its own flags apply; further ones may raise its budget, trials or seeds: `resume("decay-quick", trials=60)`. Raises UserError
    and KeyboardInterrupt.
    """
    from gpt2core.parts import import_modules
    from searches.showing.summary import reopened

    import_modules(imports)
    more = flags_of({"import": imports, **flags, "resume": "must"})
    return _run(reopened(Namespace(name=_name(name), storage=_text(storage)), more)[2])


def control(
    name: str,
    action: "Action",
    trial: str | None = None,
    *,
    set: Mapping[str, Any] | None = None,
    storage: Place | None = None,
) -> str:
    """Stop or clone a trial of a search that runs in another process, or pause or resume it; return what it answers.

    `set` are the values that a clone changes. Raises UserError if the search does not run or refuses.
    """
    from searches.running.control import Action, Mailbox, ask

    if action not in get_args(Action):
        raise UserError(f"The action is {shown(action)}, but must be one of {', '.join(get_args(Action))}")
    mailbox = Mailbox(search_folder(_text(storage), _name(name)) / MAILBOX)
    return ask(mailbox, {"command": action, "trial": trial, "set": dict(set or {})})


def compare(name: str, other: str, storage: Place | None = None) -> "Comparison":
    """Compare the chosen trials of two searches, by their runs on fresh seeds and the same texts. Raises UserError."""
    from searches.showing.compare import compared

    return compared(_name(name), _name(other), _text(storage))


def _run(options: Options) -> Result:
    import ray

    from searches.runner import run as run_options

    for flag, is_given in {"plan": options.plan_only, "json": options.json}.items():
        if is_given:
            raise UserError(
                f"`{flag}` only prints, so it is a flag of the command line; leave it out to run the search"
            )
    with keeping_signal_handlers():
        run_options(options, keep_ray=ray.is_initialized())
    return _result(options.results_folder)


def load(name: str, storage: Place | None = None) -> Result:
    """Return the results of a search that has ended; raise UserError if there are none."""
    return _result(search_folder(_text(storage), _name(name)))


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """Return values as flags: True is a flag alone, None and False are left out, and mappings and lists repeat their flag."""
    flags: list[str] = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            flags += [word for key, one in value.items() for word in (flag, f"{key}={'none' if one is None else one}")]
        elif isinstance(value, list | tuple):
            flags += [word for one in value for word in (flag, str(one))]
        elif value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags += [flag, str(value)]
    return flags


def _name(name: str) -> str:
    """Return the name of a search; raise UserError for a value of another type, such as a Result."""
    if not isinstance(name, str):
        raise UserError(f"The name of a search is {shown(name)}, but must be text; a Result has it as `folder.name`")
    return name


def _text(place: Place | None) -> str | None:
    return None if place is None else str(place)


def _result(folder: Path) -> Result:
    fetch(folder / SUMMARY)
    try:
        return Result(folder, Summary.read(folder / SUMMARY))
    except FileNotFoundError:
        raise UserError(f"{folder}: the search has no results yet; run it to its end") from None


def _row(trial: TrialRow) -> dict[str, Any]:
    about = {
        "trial": trial.id,
        "status": trial.status,
        "origin": trial.origin,
        "of": trial.of,
        "best_epoch": trial.best_epoch,
    }
    return {**about, **trial.point, "score": trial.score, **trial.metrics}
