"""Run a search of a file, work with an existing search, or simulate searches: `gpt2-search COMMAND`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import NoReturn

from gpt2core.cli import Parser, add_import, command_text, run_or_explain
from gpt2core.console import status
from gpt2core.errors import ConfigError
from gpt2core.parts import import_modules
from searches import power
from searches.question import file_command
from searches.search_text import SUFFIXES

#: Each command's help, and its function: it takes the parsed flags, returns the exit status, and is imported when it runs.
COMMANDS = {
    "compare": ("compare the chosen trials of two searches on the same texts", "showing.compare:compare"),
    "control": ("stop or clone a trial of a running search; pause or resume the search", "running.control:control"),
    "export-optuna": ("write an Optuna journal for optuna-dashboard", "showing.optuna_export:export_optuna"),
    "list": ("list the searches of a storage with their answers", "showing.listing:list_searches"),
    "parts": (
        "list all components, built in or of your own, with the keys that they declare",
        "showing.parts:print_parts",
    ),
    "power": ("simulate searches: false winners, power, coverage and the number of seeds needed", "power:power"),
    "promote": ("write the winner as a model folder and register it in MLflow", "promoting.promote:promote"),
    "report": ("write the report of a search, also if it is running or was interrupted", "showing.summary:report"),
    "run": ("run a search: a script by its name, such as lora_rank, or what a file states", "runner:run_named"),
    "show": (
        "show a search, also a running one: question, settings, trials, answer, and what to run next",
        "showing.show:show",
    ),
    "schema": ("print the JSON Schema of a search file", "search_schema:print_schema"),
}


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(prog="gpt2-search", description=__doc__)
    for name, (words, _) in COMMANDS.items():
        p = top.add_command(name, help=words, forwards=name == "run")
        if name == "power":
            power.flags(p)
        elif name == "parts":
            _json_flag(p)
        elif name == "run":
            _run_flags(p)
        elif name == "list":
            _storage_flag(p)
            _json_flag(p)
        elif name != "schema":
            _flags_of_search(p, name)
        if name not in ("run", "list"):
            add_import(p)
    return top


def _run_flags(p: Parser) -> None:
    p.add_argument("search", metavar="SEARCH", help="name of a script, such as lora_rank, or a TOML or YAML file")
    flags = p.add_argument("flags", nargs=argparse.REMAINDER, help="flags of a search; SEARCH --help lists them")
    flags.required = False  # in the error for a missing file


def _check_order(words: Sequence[str]) -> None:
    """Raise ConfigError if flags of `run` stand before its file: only the search's parser knows which of them have values."""
    if words[:1] != ["run"] or not words[1:] or not words[1].startswith("--") or words[1] == "--help":
        return
    file = next((word for word in words[2:] if word.endswith(SUFFIXES)), "FILE")
    flags = command_text([word for word in words[1:] if word != file])
    raise ConfigError(f"The file must stand before the flags: {file_command(file)} {flags}")


def _flags_of_search(p: Parser, command: str) -> None:
    p.add_argument("name", metavar="NAME", help="name of the search, a folder in STORAGE/searches")
    if command == "compare":
        p.add_argument("other", metavar="OTHER", help="name of the other search")
        words = "draw the curves of both searches: best score by trials and by time, scores and loss by epoch (.svg, .png, .pdf)"
        p.add_argument("--plot", metavar="FILE", help=words)
    if command in ("compare", "report", "show"):
        _json_flag(p)
    if command == "report":
        words = "serve the report on this machine and follow the search until Ctrl-C"
        p.add_argument("--watch", action="store_true", help=words)
    if command == "show":
        p.add_argument("--wide", action="store_true", help="show all columns of tables, also on a narrow terminal")
    _storage_flag(p)
    if command == "control":
        _control_flags(p)
    elif command == "export-optuna":
        p.add_argument("--out", required=True, metavar="FILE", help="journal file to write")
    elif command == "promote":
        _promote_flags(p)


def _storage_flag(p: Parser) -> None:
    p.add_argument("--storage", help="the --storage of the search (default: $GPT2_SEARCH_STORAGE, or ./runs)")


def _json_flag(p: Parser) -> None:
    p.add_argument("--json", action="store_true", help="print JSON, errors too")


def _control_flags(p: Parser) -> None:
    actions = ("stop", "clone", "pause", "resume")
    p.add_argument("action", choices=actions, metavar="ACTION", help="stop, clone, pause or resume")
    p.add_argument("trial", nargs="?", metavar="TRIAL", help="number of the trial to stop or clone")
    words = "a value that the clone changes; may be repeated"
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=words)


def _promote_flags(p: Parser) -> None:
    p.add_argument(
        "--trial", help="a trial's number (default: the winner, else the best mean on fresh seeds, else the best score)"
    )
    p.add_argument("--out", help="folder to write (default: STORAGE/searches/NAME/promoted)")
    p.add_argument(
        "--format",
        default="auto",
        choices=("auto", "huggingface", "adapter"),
        help="huggingface: a whole model for transformers; adapter: LoRA weights for peft; auto: adapter if the base model is "
        "on the Hugging Face hub, else huggingface (default: auto)",
    )
    p.add_argument("--registered-name", help="name in MLflow's model registry (default: gpt2-TASK-NAME)")
    p.add_argument("--tracking-uri", help="the --tracking-uri of the search (default: mlflow.db in the storage)")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with 0 (done), 1 (partly done, as printed), 2 (bad input) or 130 (interrupted)."""

    words = sys.argv[1:] if argv is None else argv

    def command() -> int:
        _check_order(words)
        options = parser().parse(words)
        import_modules(vars(options).get("imports", []))
        with status("Loading PyTorch", as_json="--json" in words):
            run: Callable[..., int] = resolve_name(f"searches.{COMMANDS[options.command][1]}")
        return run(options)

    run_or_explain(command, f"gpt2-search {command_text(words)}", as_json="--json" in words)


if __name__ == "__main__":
    main()
