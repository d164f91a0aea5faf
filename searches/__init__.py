"""Search scripts, one per question, and the system that plans, runs, tracks and reports them; also a library for own searches."""

from searches.api import Result, compare, control, load, resume, run
from searches.domains import Choice, IntUniform, LogInt, LogUniform, Uniform
from searches.question import Case, Profile, Search

__all__ = [
    "Case",
    "Choice",
    "IntUniform",
    "LogInt",
    "LogUniform",
    "Profile",
    "Result",
    "Search",
    "Uniform",
    "compare",
    "control",
    "load",
    "resume",
    "run",
]
