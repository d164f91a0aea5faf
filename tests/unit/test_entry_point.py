"""The installed command: one name for the commands of all modules."""

import pytest

from gpt2core.__main__ import parser as core
from searches import __main__ as searches
from searches.entry_point import MODULES, main
from tests.runs import status


def test_no_two_modules_have_a_command_of_the_same_name() -> None:
    names = [*searches.COMMANDS, *core().commands, *MODULES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--help"], "write the winner as a model folder"),
        (["describe", "--model", "gpt2-nano"], "Total parameters: 2,664,576"),
        (["run", "command", "--help"], "Search the settings of any training program"),
        (["candidates", "--help"], "--contexts"),
        (["schema"], "$defs"),
    ],
)
def test_a_command_reaches_its_module(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(lambda: main(words)) == 0
    assert text in capsys.readouterr().out


def test_an_unknown_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(lambda: main(["lst"])) == 2
    assert capsys.readouterr().err == "error: Unknown command `lst`: did you mean `list`?\n"
