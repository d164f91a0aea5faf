"""The contract of samplers, for each of SAMPLERS."""

from typing import ClassVar

from searches.deciding.samplers import SAMPLERS
from searches.testing import SamplerContract


class TestSamplers(SamplerContract):
    cases: ClassVar = {name: {"sampler": name} for name in SAMPLERS} | {
        "nsga2, two objectives": {"sampler": "nsga2", "minimize": ("parameters",)},
        "tpe, 4 random points": {"sampler": "tpe", "startup_trials": 4},
    }
