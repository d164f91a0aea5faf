"""The script of a report's page: its text, the digest by which the page allows it, and the facts that it shows."""

import base64
import hashlib
from functools import cache
from pathlib import Path

from markupsafe import Markup

from gpt2core.naming import words
from searches.formatting import point_text
from searches.showing.report_tables import score_column
from searches.showing.texts import role
from searches.summary import Summary


@cache
def script(name: str) -> Markup:
    """Return the text of a script of this folder."""
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))


@cache
def script_digest(name: str) -> str:
    """Return the digest of a script, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script(name).encode()).digest()).decode()}"


def trial_facts(summary: Summary) -> dict[str, list[str]]:
    """Return the lines of the tooltip of each trial, the first its title."""
    column = score_column(summary)
    return {
        row.id: [
            role(row.id, summary),
            point_text(row.point),
            f"{words(summary.objective)}: {column.show(row)}",
            f"best epoch {row.best_epoch or 0} of {row.epochs}; {row.status}",
        ]
        for row in summary.searched
    }
