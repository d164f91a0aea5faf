"""Colors of plots by daylight and in the dark; blue and orange are distinct for color-blind readers (Okabe and Ito 2008)."""

import re

from markupsafe import Markup

INK, EDGE, GRID, GROUND = "#1c2430", "#5b6673", "#8f979f", "#ffffff"
BEST, REFERENCE, OTHER, BASELINE = "#0a6aa6", "#c24e00", "#66717d", "#a32020"
#: Color, marker and dash of each line.
LOOKS = [
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#00845f", "^", "-."),
    ("#b85c93", "D", ":"),
    ("#2a87ba", "v", "-"),
    ("#8a6d00", "P", "--"),
    (INK, "X", "-."),
    ("#a05a2c", "*", ":"),
]
#: Color on a white page -> color on a dark one.
DARK = {
    INK: "#e6eaf0",
    EDGE: "#9aa5b1",
    GRID: "#77818c",
    GROUND: "#14181f",
    BEST: "#62b5f0",
    REFERENCE: "#ff9b5c",
    OTHER: "#94a0ad",
    BASELINE: "#ff8f8f",
    "#0072b2": "#5ab4e8",
    "#d55e00": "#ffa066",
    "#00845f": "#4fd1a5",
    "#b85c93": "#e6a3c8",
    "#2a87ba": "#8fd0f5",
    "#8a6d00": "#d6b94a",
    "#a05a2c": "#d99a6c",
}


def themed(svg: str) -> Markup:
    """Return a plot for a page that defines `color_variables`, so that its colors follow the reader's light or dark mode."""
    return Markup(re.sub("|".join(DARK), lambda color: f"var({_variable(color[0])})", svg))


def color_variables(*, dark: bool) -> Markup:
    """Return the CSS variables of all colors of plots."""
    return Markup(" ".join(f"{_variable(light)}: {DARK[light] if dark else light};" for light in DARK))


def _variable(color: str) -> str:
    return f"--plot-{color[1:]}"
