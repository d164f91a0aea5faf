"""The text of a program's output as a terminal shows it."""

import re

#: Colours, movements of the cursor, and titles of windows (ECMA-48).
ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")


def shown_text(line: bytes) -> str:
    """Return the text of a line without escape sequences; of a progress bar, its last state."""
    return ESCAPE.sub("", line[overwritten(line) :].decode(errors="replace")).strip()


def overwritten(line: bytes) -> int:
    r"""Return how many bytes of a line a later part replaces: all before its last \r, except one at its end."""
    return line.rstrip(b"\r").rfind(b"\r") + 1
