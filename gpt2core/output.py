"""Output that never ends what a command does: what nobody can be shown is left out.

A reader that has gone (`| head -1`) is no fault. A full disk, or a terminal that went away, is said where there is still somebody
to say it to. A sign that the output's encoding lacks is written in signs that it has, a letter by its number.
"""

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

#: What stands for a sign in an encoding without it, where it does not come apart into others.
INSTEAD = {
    "\N{PLUS-MINUS SIGN}": "+/-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
}


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = ""
    for sign in error.object[error.start : error.end]:
        if unicodedata.category(sign).startswith(("L", "M")):  # another letter would be another name
            plain += ascii(sign)[1:-1]
        else:
            plain += INSTEAD.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"
    return plain, error.end


codecs.register_error("plain", _in_plain_signs)


class Steady(io.TextIOWrapper):
    """A stream of text that is written to as long as that works. It shares the bytes of another one, and leaves them to it."""

    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__(stream.buffer, stream.encoding, "plain", write_through=True)
        self.what, self.lost = name, False

    def write(self, text: str) -> int:
        """Write what can be written; return as if all was."""
        if not self.lost:
            try:
                super().write(text)
                super().flush()
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Nothing to do: each text is flushed."""

    def _lose(self, error: OSError) -> None:
        self.lost = True
        with suppress(OSError, ValueError):  # what is still in its buffers goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        if not isinstance(error, BrokenPipeError) and self.what == "output":
            print(f"warning: the output cannot be written ({error.strerror}); the work goes on", file=sys.stderr)


@contextmanager
def steady_output() -> Iterator[None]:
    """Let the output and the errors of this process be steady; a closed one is none, and no other file takes its number."""
    _fill_standard_files()
    former = sys.stdout, sys.stderr
    streams = [_steady(stream, name) for stream, name in zip(former, ("output", "errors"), strict=True)]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = former
        for stream in streams:
            if isinstance(stream, Steady):
                stream.detach()


def _steady(stream: TextIO | None, name: str) -> TextIO:
    """A steady stream in the place of one that may be closed; one that holds text, and no bytes, cannot fail."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8", errors="replace")  # while the process lives
    return Steady(stream, name) if hasattr(stream, "buffer") else stream


def _fill_standard_files() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
