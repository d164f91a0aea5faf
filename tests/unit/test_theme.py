"""Colors of plots: each is seen on its ground, by daylight and in the dark, and a page's plot has no other."""

import re

import pytest

from searches.showing import report
from searches.showing.theme import DARK, GRID, GROUND, themed
from tests.summaries import summary, typed


def luminance(color: str) -> float:
    """The relative luminance of WCAG 2."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("color", [color for color in DARK if color not in (GROUND, GRID)])
def test_a_color_has_the_contrast_of_wcag_for_graphics(color: str) -> None:
    assert contrast(color, GROUND) >= 3
    assert contrast(DARK[color], DARK[GROUND]) >= 3


def test_every_color_of_a_plot_follows_the_mode_of_the_reader() -> None:
    found = typed(summary(12, costs=["trainable_parameters"], pareto=["0000", "0007"]))
    pictures = [*report.pictures_of(found).values(), *report.curve_pictures(found), *report.front_pictures(found)]
    for picture in pictures:
        assert picture
        assert not re.findall("#[0-9a-f]{6}", themed(picture.svg))
