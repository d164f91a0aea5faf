"""Trials that share a GPU: how large a part each gets, by the memory that was predicted of it, and then by what is seen."""

from dataclasses import replace

from searches.options import Options
from searches.running.ledger import Ledger
from searches.running.quantities import Forecast
from searches.running.resources import share_of_cluster
from trainables.trial import TrialSpec

CONTEXT = 0.6  # gigabytes that a process holds of a GPU beside its tensors
USABLE = 0.9  # of a GPU's memory: the rest is lost between tensors
AT_MOST = 4  # trials of a GPU, for they take turns in computing


def trials_of_a_gpu(forecast: Forecast) -> int:
    """How many trials have room on a GPU, by the forecast of its memory and of theirs; 1 where that says nothing."""
    most = forecast.most("memory_gb")
    if most is None or not forecast.gpu_gb:
        return 1
    return max(1, min(AT_MOST, int(USABLE * forecast.gpu_gb / (most + CONTEXT))))


def sharing_gpus(options: Options, spec: TrialSpec, ledger: Ledger) -> TrialSpec:
    """Let trials share a GPU where, by the plan, its memory has room for several and nobody said how many there are to be."""
    several = trials_of_a_gpu(ledger.state.forecast)
    if not spec.grouped or spec.workers > 1 or options.gpus_per_worker is not None or several == 1:
        return spec
    return share_of_cluster(replace(options, gpus_per_worker=1 / several), options.results_folder)


class Sharing:
    """The GPUs of a search whose trials have parts of them. A part that was too small is doubled, up to a whole GPU."""

    def __init__(self, spec: TrialSpec, ledger: Ledger) -> None:
        self.ledger = ledger
        self.room = spec.concurrent * spec.gpus_per_worker
        self.part = max(spec.gpus_per_worker, ledger.state.gpu_part)
        self.parts: dict[str, float] = {}  # of each trial that runs

    def has_room(self) -> bool:
        """Whether another trial may start."""
        return not self.parts or sum(self.parts.values()) + self.part <= self.room + 1e-9

    def place(self, spec: TrialSpec) -> TrialSpec:
        """Give a trial its part."""
        self.parts[spec.name] = self.part
        return replace(spec, gpus_per_worker=self.part)

    def leave(self, name: str, *, ran_out: bool) -> bool:
        """Take a trial's part back; return whether it is to be tried again with more, for its memory `ran_out`."""
        part = self.parts.pop(name)
        again = ran_out and part < 1
        if again:
            self._widen(name, part, "its part of a GPU had not enough memory")
        return again

    def saw(self, name: str, held_gb: float) -> None:
        """Note what a trial's tensors held at most; where that is more than its part, those after it get more."""
        gpu_gb = self.ledger.state.forecast.gpu_gb
        part = self.parts[name]
        if gpu_gb and part < 1 and held_gb + CONTEXT > part * gpu_gb:
            self._widen(name, part, f"it held {held_gb:.1f} GB of a GPU")

    def _widen(self, name: str, part: float, reason: str) -> None:
        if self.part <= part:
            self.part = min(1.0, 2 * part)
            self.ledger.record({"event": "gpu_part", "part": self.part, "trial": name, "reason": reason})
