"""Output that never ends a command: what cannot be written is dropped.

A reader that has gone (`| head -1`) is no error. A full disk or a closed terminal is reported if there is still somewhere to
report it. Characters that the output's encoding lacks are replaced by similar ones, letters by their code.
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
    """A text stream that drops what cannot be written. It shares the bytes of another stream and does not close them."""

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
    """Make this process's stdout and stderr steady; a closed one is replaced, so that no file takes its number."""
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
    """A steady stream in place of one that may be closed; a stream that holds text, not bytes, cannot fail."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8", errors="replace")  # while the process lives
    return Steady(stream, name) if hasattr(stream, "buffer") else stream


def _fill_standard_files() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
