"""Marks in plots, by which the script of a page knows the trials of points and lines, and the axes that filter them."""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote

# Ids of artists, which become data attributes. Their values are percent-encoded, since Matplotlib's quoting of ids varies.
POINTS, AXIS = "points:", "axis:"


def points_id(points: Iterable[tuple[str, str]]) -> str:
    """Return the group id of an artist, with the trial and a note for each of its points or lines, in order."""
    return f"{POINTS}{quote(json.dumps(list(points), separators=(',', ':')), safe='[],:')}"


def axis_id(name: str) -> str:
    """Return the group id of a vertical axis."""
    return AXIS + quote(name)


def marked(svg: str) -> str:
    """Return a plot with its marks as data attributes, and without its other group ids.

    These are the same in every plot, and a page may hold an id once; nothing refers to them.
    """
    svg = re.sub(rf'<g id="{POINTS}([^"]*)">', r'<g data-points="\1">', svg)
    svg = re.sub(rf'<g id="{AXIS}([^"]*)">', r'<g data-axis="\1">', svg)
    return re.sub(r'<g id="[^"]*">', "<g>", svg)
