"""The decoding settings of `decoding=best_of:K`: the run's own one, and K - 1 others, the same ones for every run.

The others are points 1 to K - 1 of the Halton sequence (Halton 1960) without scrambling, so a smaller K has the first ones of a
larger K. Each key of RANGES has its own dimension, whatever the decoder reads.
"""

import math
from collections.abc import Sequence

from gpt2core.config import DecodingConfig, RunConfig
from gpt2core.decoding import DECODERS

DECODING = "decoding"  # the table of an evaluation that says how many texts are scored with each setting
#: Key -> least and greatest value; the domains of `searches/decoding.py`. A whole number is drawn from a logarithmic scale.
RANGES: dict[str, tuple[float, float]] = {"temperature": (0.5, 1.5), "top_p": (0.5, 1.0), "top_k": (10, 200)}


def decoding_settings(config: RunConfig) -> list[DecodingConfig]:
    """Return the K settings of a run; number 0 is its own, and the only one if `decoding` is fixed."""
    own = config.decoding_config
    if config.decoding_settings == 1:
        return [own]
    from scipy.stats.qmc import Halton  # SciPy takes half a second to import

    points = Halton(len(RANGES), scramble=False).random(config.decoding_settings)[1:]
    return [own, *(own.but(**_values(varied(config), point)) for point in points.tolist())]


def varied(config: RunConfig) -> list[str]:
    """Return the keys in which a run's settings differ."""
    return [key for key in RANGES if key in DECODERS[config.decoder].keys.model_fields]


def setting_text(config: RunConfig, setting: DecodingConfig) -> str:
    """Return the values of a setting in which it differs from the others, such as `temperature 0.75, top_p 0.83`."""
    return ", ".join(f"{key} {getattr(setting, key):g}" for key in varied(config))


def choice_text(config: RunConfig, times: Sequence[float]) -> str:
    """Return how many texts are scored with each setting, given K numbers: `temperature 0.75, top_p 0.83 for 10 of 12`."""
    settings, whole = decoding_settings(config), sum(times)
    chosen = sorted((-number, place) for place, number in enumerate(times) if number)
    return "; ".join(
        f"{setting_text(config, settings[place])} for {-number:g} of {whole:g}" for number, place in chosen
    )


def _values(keys: list[str], point: list[float]) -> dict[str, float]:
    """Return the values of some keys at a point of the unit cube."""
    values: dict[str, float] = {}
    for (key, (low, high)), place in zip(RANGES.items(), point, strict=True):
        if isinstance(low, int):
            values[key] = round(low * math.exp(place * math.log(high / low)))
        else:
            values[key] = round(low + place * (high - low), 2)
    return {key: values[key] for key in keys}
