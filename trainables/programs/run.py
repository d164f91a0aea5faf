"""A user's program and its runs: the command with its placeholders, and where the metric is."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from pydantic import Field

from gpt2core.component import Config
from gpt2core.metrics.direction import Direction

PLACEHOLDER = re.compile(r"\{(\w+)\}")
#: Looks like a placeholder, but is none.
NO_PLACEHOLDER = re.compile(r"\{(?!\w+\})\w[\w.:!%-]*\}")
#: Placeholders that are no keys of a search -> what they stand for.
GIVEN = {
    "seed": "the seed of the run, a fresh one for each replicate",
    "out": "the run's own folder",
    "checkpoint": "the file or folder of the checkpoint from which a run resumes",
}
Value = str | int | float | bool | None


class Program(Config):
    """A program, how it is called, and how its metric is read."""

    command: str = Field(description="its words, with {key} in place of values")
    metric: str = Field(description="name of the metric")
    direction: Direction = Field(description="whether the metric is maximised or minimised")
    pattern: str | None = Field(None, description="regular expression of the lines with the metric; none: NAME=VALUE")
    metrics_file: str | None = Field(None, description="JSON file that the program writes; none: its output")
    resume_flag: str | None = Field(None, description="words that resume from {checkpoint}; none: it cannot resume")
    checkpoint: str = Field("checkpoint*", description="pattern of the checkpoint's name, in the run's folder")
    links: tuple[str, ...] = Field((), description="files and folders to link into the run's folder")
    folder: str = Field(description="absolute folder in which relative paths of the command start")

    @property
    def name(self) -> str:
        """The name of the program's script, or of the program."""
        names = [PurePath(word).name for word in shlex.split(self.command)]
        return next((name for name in names if re.fullmatch(r"[\w-]+\.[a-zA-Z]\w*", name)), names[0])


class ProgramRun(Program):
    """One run of a program: `values` by key of the search, and the number of epochs after which it reports."""

    values: Mapping[str, Value] = {}
    epochs: int = Field(1, ge=1)
    seed: int

    def argv(self, out: Path, checkpoint: Path | None = None) -> list[str]:
        """Return the words of the command; with a `checkpoint`, they resume from it. `out` is the run's folder."""
        values = {**self.values, "seed": self.seed, "out": out, "checkpoint": checkpoint}
        words = self._filled(self.command, values)
        return words + self._filled(self.resume_flag, values) if checkpoint and self.resume_flag else words

    def _filled(self, template: str, values: Mapping[str, Any]) -> list[str]:
        """Return words with values in place of placeholders, and absolute names of files.

        A word that is only a placeholder is left out if its value is none.
        """
        words = []
        for word in shlex.split(template):
            key = PLACEHOLDER.fullmatch(word)
            if key is None or values[key[1]] is not None:
                filled = PLACEHOLDER.sub(lambda match: str(values[match[1]]), word)
                words.append(str(file) if (file := Path(self.folder, filled)).is_file() else filled)
        return words


def placeholders(template: str) -> list[str]:
    """Return the names of the placeholders in a command."""
    return list(dict.fromkeys(PLACEHOLDER.findall(template)))
