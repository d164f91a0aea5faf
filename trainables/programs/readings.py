"""Read the values of a metric from a program's output, or from a JSON file that it writes."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gpt2core.errors import ConfigError, DataError, shown
from trainables.programs.run import Program
from trainables.programs.terminal import overwritten, shown_text

#: Digits in groups of thousands that are no decimal fraction: with two groups or a decimal point.
GROUPED = r"[1-9]\d{0,2}(?:(?:,\d{3})+\.\d+|(?:,\d{3}){2,})"
NUMBER = rf"[-+]?(?:(?:{GROUPED}|\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?:\s?%)?|nan|inf(?:inity)?)"
#: After these characters a number goes on, so it is another one, as in 0,899 or 1/3 or 0.5.3.
GOES_ON = r"\w|[-.,:'\u00a0\u202f]\d|\s?/\s?\d|\s?%"
NOT_A_NUMBER = r"[-+\u2212]?[.,]?\d\S*"
BAR = r"\s*\d+%\|"  # a progress bar whose title is the name of the metric
EPOCH = re.compile(r"\bepoch\W*(\d+)", re.IGNORECASE)
GAP = r"[\s_/-]"  # between the words of a metric's name
LONGEST = 10_000  # characters of a line that are searched


class Reading(NamedTuple):
    """A value of the metric, the number of its epoch as the program counts, and the end of its line in the log, in bytes."""

    epoch: int
    value: float
    end: int = 0


class Readings(Protocol):
    """Where a program's metric is read."""

    def read(self, *, ended: bool) -> list[Reading]:
        """Return all values until now; `ended`: the program has ended. Raises DataError for an invalid value."""
        ...


class OutputReadings:
    """The values in the lines that a program appends to a log, from the byte `start` on.

    A line that names no epoch is about the next one; an earlier process reported `before` epochs. Of a progress bar, which
    overwrites its line, the last state counts: the earlier ones show the same value again.
    """

    def __init__(self, log: Path, pattern: re.Pattern[str], start: int, before: int = 0) -> None:
        self.log, self.pattern, self.start, self.before = log, pattern, start, before
        self.rest = b""  # an incomplete last line
        self.readings: list[Reading] = []

    def read(self, *, ended: bool) -> list[Reading]:
        with self.log.open("rb") as file:
            file.seek(self.start + len(self.rest))
            new = file.read()
        *lines, self.rest = (self.rest + new).split(b"\n")
        if ended:
            lines.append(self.rest)
        for line in lines:
            self.start += len(line) + 1
            self._search(shown_text(line)[:LONGEST])
        passed = overwritten(self.rest)
        self.start, self.rest = self.start + passed, self.rest[passed:]
        return self.readings

    def _search(self, line: str) -> None:
        match, *others = [*self.pattern.finditer(line), None]
        if any(others):
            raise DataError(
                f"{line[:200]}: has the metric more than once; give a longer name, such as dev_acc, or --pattern"
            )
        if match is None:
            return
        groups = match.groupdict()
        if groups.get("wrong"):
            raise DataError(
                f"The value of the metric is not a number: {shown(groups['wrong'])} in the line {shown(line)}; print numbers "
                "such as 0.5, or say by --pattern what to read"
            )
        named = groups.get("epoch") or next(iter(EPOCH.findall(line)), self.before + len(self.readings) + 1)
        self.readings.append(Reading(_whole(named, line), _number(groups["value"], line), self.start))


class FileReadings:
    """The values in a JSON file: an object, or one per line or in a list, with the metric and perhaps the `epoch`."""

    def __init__(self, path: Path, metric: str) -> None:
        self.path, self.metric = path, metric

    def read(self, *, ended: bool) -> list[Reading]:
        try:
            objects = _objects(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except ValueError:  # also of UnicodeDecodeError
            if not ended:  # it is being written
                return []
            raise DataError(f"{self.path}: is not JSON: an object, a list of objects, or an object per line") from None
        scored = [one for one in objects if self.metric in one]
        return [
            Reading(_epoch(one, place), _number(one[self.metric], self.path))
            for place, one in enumerate(scored, start=1)
        ]


def readings(program: Program, log: Path, out: Path, start: int, before: int) -> Readings:
    """Return where a run of the program is read; `out` is its folder, for `start` and `before` see `OutputReadings`."""
    if program.metrics_file is not None:
        return FileReadings(out / program.metrics_file, program.metric)
    return OutputReadings(log, line_pattern(program.metric, program.pattern), start, before)


def line_pattern(metric: str, pattern: str | None) -> re.Pattern[str]:
    """Return the regular expression of lines with a metric; by default, `dev_acc` matches `dev acc :: 0.5` too.

    Raises ConfigError if a `pattern` is invalid or lacks the group `value`.
    """
    if pattern is None:
        name = GAP.join(map(re.escape, re.split(f"{GAP}+", metric)))
        value = rf"(?:(?P<value>(?>{NUMBER})(?!{GOES_ON}))|(?P<wrong>{NOT_A_NUMBER}))"
        return re.compile(rf"(?<!\w){name}['\"]?\s*(?:=|::?)(?!{BAR})\s*{value}", re.IGNORECASE)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"The value of `--pattern` is {pattern!r}, but must be a regular expression ({error})"
        ) from None
    if "value" not in compiled.groupindex:
        raise ConfigError(f"The value of `--pattern` is {pattern!r}, but must have the group (?P<value>...)")
    return compiled


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON text, or of its complete lines; raise ValueError if it is neither."""
    try:
        content = json.loads(text)
    except ValueError:
        content = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n") and line.strip()]
        if not content:
            raise
    objects = content if isinstance(content, list) else [content]
    if not all(isinstance(one, dict) for one in objects):
        raise ValueError("not an object")
    return objects


def _epoch(values: dict[str, Any], place: int) -> int:
    epoch = values.get("epoch")
    return epoch if isinstance(epoch, int) else place


def _whole(epoch: Any, line: str) -> int:
    try:
        return int(epoch)
    except ValueError:
        raise DataError(f"{line[:200]}: the epoch is {shown(epoch)}, but must be a whole number") from None


def _number(value: Any, place: object) -> float:
    """Return a value as a number: 0.5 for 50%, 1234.5 for 1,234.5. Raises DataError."""
    try:
        if isinstance(value, bool):
            raise ValueError
        if not isinstance(value, str):
            return float(value)
        text = value.removesuffix("%")
        grouped = re.fullmatch(rf"[-+]?{GROUPED}(?:e[-+]?\d+)?\s?", text, re.IGNORECASE)
        number = float(text.replace(",", "") if grouped else text)
        return number if text == value else number / 100
    except (TypeError, ValueError):
        raise DataError(f"{str(place)[:200]}: the metric is {shown(value)}, but must be a number") from None
