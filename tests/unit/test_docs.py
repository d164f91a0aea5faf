"""The commands that README and documentation show exist, with these flags and values."""

import gzip
import re
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import trainables.candidates.__main__ as candidates
from gpt2core import __main__ as core
from gpt2core.cli import Parser
from searches import __main__ as searches
from searches import flags, options, replay, study
from searches.entry_point import MODULES
from searches.programs import flags as program_flags
from searches.search_text import SUFFIXES
from tests.documentation import PAGES, commands, parts
from tests.runs import ROOT

#: Programs of others, and of the reader, which no test runs from here.
OTHERS = {
    "aws", "caddy", "cat", "cd", "check-jsonschema", "chmod", "curl", "do", "docker", "done", "echo", "envsubst",
    "export", "for", "gcloud", "git", "gsutil", "head=$", "helm", "install", "kubectl", "mkdir", "mlflow", "openssl",
    "optuna-dashboard", "pip", "ray", "sbatch", "scancel", "scontrol", "scp", "sed", "source", "squeue", "srun",
    "ssh", "sudo", "tail", "tar", "tr", "umask", "uv", "xargs",
}  # fmt: skip
ALL = [pytest.param(command, id=f"{page.relative_to(ROOT)}: {command}") for page in PAGES for command in commands(page)]


def check_search(name: str, words: list[str]) -> None:
    """Parse the flags of a search, and its values unless they name files that are not here."""
    if name == "command":
        program_flags.parse_program(words, "searches/command.py")
    elif name == "study":
        flags.parser("study", study.QUESTION, ["quick", "study"]).add_argument("--tables")
    else:
        search = import_module(f"searches.{name}").SEARCH
        parser = flags.parser(search.name, search.question, list(search.profiles))
        parser.parse(words)
        if not {"--train", "--data-dir", "--warm-start", "--import"} & set(words):
            options.parse(search, words)


def check_module(name: str, words: list[str]) -> None:
    parsers: dict[str, Callable[[], Parser]] = {
        "searches": searches.parser, "gpt2core": core.parser, "trainables.candidates": candidates.parser,
        "searches.replay": replay.parser,
    }  # fmt: skip
    if name in parsers:
        parsers[name]().parse(words)
    else:
        import_module(name)


def check_command(name: str, words: list[str]) -> None:
    """Parse a command of the installed `gpt2-search`; the flags of `run` are those of its search."""
    if name == "run" and words and not words[0].endswith(SUFFIXES):
        check_search(words[0], words[1:])
    elif name in MODULES:
        check_module(MODULES[name][0].removesuffix(".__main__"), words)
    else:
        check_module("searches" if name in searches.COMMANDS else "gpt2core", [name, *words])


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    values = dict(word.split("=", 1) for word in words if "=" in word)
    for target in (word for word in words if "=" not in word):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
        if target == "search":
            check_search("lora_rank", shlex.split(values.get("ARGS", "")))
    if "NAME" in values:
        assert (ROOT / "tests" / "benchmarks" / f"{values['NAME']}.py").is_file()


def check(words: list[str]) -> None:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    match [word.removeprefix(".venv/bin/") for word in words]:
        case ["make", *rest]:
            check_make(rest)
        case ["gpt2-search", name, *rest]:
            check_command(name, rest)
        case ["python" | "python3", "-m", module, *rest]:
            check_module(module, rest)
        case ["python" | "python3", script, *rest] if script.startswith("searches/"):
            check_search(Path(script).stem, rest)
        case ["ray", "job", "submit", *rest] if "--" in rest:
            check(rest[rest.index("--") + 1 :])
        case [program, *_]:
            assert program in OTHERS, f"{program} is neither ours nor known"


@pytest.mark.parametrize("command", ALL)
def test_a_command_of_the_documentation_can_be_typed(command: str) -> None:
    for words in parts(command):
        check(words)


def test_the_gallery_has_its_pictures_and_reports_and_names_no_folder_of_a_machine() -> None:
    docs = ROOT / "docs"
    text = (docs / "gallery.md").read_text(encoding="utf-8")
    pictures, reports = re.findall(r"\]\((images/\S+)\)", text), re.findall(r'href="(\S+)"', text)
    assert len(pictures) == len(reports) == text.count("\n## ")
    assert all((docs / path).stat().st_size < 80_000 for path in pictures)
    pages = {path.relative_to(docs): gzip.decompress(path.read_bytes()).decode() for path in docs.rglob("*.html.gz")}
    linked = {f"{path.parent}/{link}" for path, page in pages.items() for link in re.findall(r'href="([^"#:]+)"', page)}
    assert {str(path).removesuffix(".gz") for path in pages} == {*reports, *linked}
    assert not [path for path, page in pages.items() if re.search(r"/(tmp|home|root|Users)/", page)]
