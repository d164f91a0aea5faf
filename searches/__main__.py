"""What can be done with a search that is there, by its name: `python -m searches COMMAND NAME`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from gpt2core.cli import Parser, command_text, run_or_explain
from searches import power


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: what it says of itself, its flags, and its function, which imports what is heavy and returns the status."""

    help: str
    flags: Callable[[Parser], None]
    run: Callable[[argparse.Namespace], int]


def _search(p: Parser) -> None:
    """What every command is told: the search."""
    p.add_argument("name", metavar="NAME", help="name of the search, a folder in STORAGE/searches")
    p.add_argument("--storage", help="where the search keeps its results, as it was told (default: ./runs)")


def _promote_flags(p: Parser) -> None:
    _search(p)
    p.add_argument(
        "--trial", help="a trial's number (default: the winner, else the best mean on fresh seeds, else the best score)"
    )
    p.add_argument("--out", help="folder to write (default: STORAGE/searches/NAME/promoted)")
    p.add_argument(
        "--format",
        default="auto",
        choices=("auto", "huggingface", "adapter"),
        help="a whole model for transformers, or LoRA alone for peft; auto: LoRA alone where the model that it belongs to "
        "can be had from the Hugging Face hub, else the whole model (default: auto)",
    )
    p.add_argument("--registered-name", help="name in MLflow's registry (default: gpt2-TASK-NAME)")
    p.add_argument(
        "--tracking-uri", help="MLflow's address, as the search was told (default: mlflow.db in the storage)"
    )


def _promote(options: argparse.Namespace) -> int:
    from searches.promoting.promote import promote

    return promote(options)


def _control_flags(p: Parser) -> None:
    _search(p)
    p.add_argument(
        "action", choices=("stop", "clone", "pause", "resume"), metavar="ACTION", help="stop, clone, pause or resume"
    )
    p.add_argument("trial", nargs="?", metavar="TRIAL", help="stop, clone: a trial's number")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="clone: change a value; may be repeated"
    )


def _control(options: argparse.Namespace) -> int:
    from searches.running.control import control

    return control(options)


def _export_flags(p: Parser) -> None:
    _search(p)
    p.add_argument("--out", required=True, metavar="FILE", help="journal file to write")


def _export(options: argparse.Namespace) -> int:
    from searches.showing.optuna_export import export_optuna

    return export_optuna(options)


def _report(options: argparse.Namespace) -> int:
    from searches.showing.summary import report

    return report(options)


COMMANDS = {
    "control": Command(
        help="stop or clone a trial of a search that runs, pause or resume the search",
        flags=_control_flags,
        run=_control,
    ),
    "export-optuna": Command(
        help="write a search as an Optuna journal, which optuna-dashboard opens", flags=_export_flags, run=_export
    ),
    "power": Command(
        help="simulate searches: what so many seeds can tell, and how often they err",
        flags=power.flags,
        run=power.power,
    ),
    "promote": Command(
        help="write the winner as a model folder with its card and register it in MLflow",
        flags=_promote_flags,
        run=_promote,
    ),
    "report": Command(
        help="write the report of a search as it stands: one that runs, or was interrupted, too",
        flags=_search,
        run=_report,
    ),
}


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(prog="python -m searches", description=__doc__)
    for name, command in COMMANDS.items():
        command.flags(top.add_command(name, help=command.help, description=command.help))
    return top


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 done in part as it says, 2 bad input, 130 interrupted."""

    def command() -> int:
        options = parser().parse(argv)
        return COMMANDS[options.command].run(options)

    run_or_explain(command, f"python -m searches {command_text(sys.argv[1:] if argv is None else argv)}")


if __name__ == "__main__":
    main()
