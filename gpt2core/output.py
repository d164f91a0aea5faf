"""Output that never ends a command: text that cannot be written is dropped.

A reader that has gone (`| head -1`) is not an error. A full disk or a closed terminal is reported if possible. Characters that
the encoding lacks are replaced by similar ones, and letters by their code.
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

#: Replacements of plus-minus, en dash, em dash, multiplication sign, <=, >= and quotation marks, which NFKD leaves unchanged.
SIMILAR = {"\u00b1": "+/-", "\u2013": "-", "\u2014": "-", "\u00d7": "x", "\u2264": "<=", "\u2265": ">="}
SIMILAR |= {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}


def _replace_by_similar(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = ""
    for sign in error.object[error.start : error.end]:
        if unicodedata.category(sign).startswith(("L", "M")):  # a similar letter could make another name
            plain += ascii(sign)[1:-1]
        else:
            plain += SIMILAR.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"
    return plain, error.end


codecs.register_error("plain", _replace_by_similar)


class SteadyStream(io.TextIOWrapper):
    """A text stream that drops text that cannot be written. It shares the buffer of another stream without closing it."""

    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__(stream.buffer, stream.encoding, "plain", write_through=True)
        self.kind, self.lost = name, False

    def write(self, text: str) -> int:
        """Write text, or drop it after an error; return its length in any case."""
        if not self.lost:
            try:
                super().write(text)
                super().flush()
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Do nothing, since `write` flushes."""

    def isatty(self) -> bool:
        """Return whether this is a terminal; False once it is detached, since libraries that kept it ask at exit."""
        try:
            return super().isatty()
        except ValueError:
            return False

    def _lose(self, error: OSError) -> None:
        self.lost = True
        with suppress(OSError, ValueError):  # so that flushing the remaining buffer raises nothing
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.fileno())
            os.close(devnull)
        if not isinstance(error, BrokenPipeError) and self.kind == "output":
            print(f"warning: the output cannot be written ({error.strerror}); the command continues", file=sys.stderr)


@contextmanager
def steady_output() -> Iterator[None]:
    """Make stdout and stderr of this process steady. Closed ones are replaced, so that no file gets their descriptor."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    former = sys.stdout, sys.stderr
    streams = [_steady(stream, name) for stream, name in zip(former, ("output", "errors"), strict=True)]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = former
        for stream in streams:
            if isinstance(stream, SteadyStream):
                stream.detach()


def _steady(stream: TextIO | None, name: str) -> TextIO:
    """Return a steady stream for one that may be closed; a stream without bytes cannot fail and is returned unchanged."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8", errors="replace")  # open until exit
    return SteadyStream(stream, name) if hasattr(stream, "buffer") else stream
