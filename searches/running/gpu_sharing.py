"""Trials that share a GPU: the part of each, from its predicted and then its measured memory."""

from dataclasses import replace

from searches.options import Options
from searches.running.ledger import Ledger
from searches.running.quantities import Forecast
from searches.running.resources import cluster_spec
from trainables.trial import TrialSpec

CONTEXT = 0.6  # gigabytes of GPU memory that a process holds beside its tensors
USABLE = 0.9  # of a GPU's memory; the rest is lost to fragmentation
AT_MOST = 4  # trials per GPU, because they take turns in computing


def trials_per_gpu(forecast: Forecast) -> int:
    """Return how many trials fit on a GPU by the forecast of memory; 1 without one."""
    most = forecast.most("memory_gb")
    if most is None or not forecast.gpu_gb:
        return 1
    return max(1, min(AT_MOST, int(USABLE * forecast.gpu_gb / (most + CONTEXT))))


def with_shared_gpus(options: Options, spec: TrialSpec, ledger: Ledger) -> TrialSpec:
    """Give each trial a part of a GPU if several fit by the forecast, unless --gpus-per-worker is set."""
    several = trials_per_gpu(ledger.state.forecast)
    if not spec.grouped or spec.workers > 1 or options.gpus_per_worker is not None or several == 1:
        return spec
    return cluster_spec(replace(options, gpus_per_worker=1 / several), options.results_folder)


class GpuSharing:
    """Assigns parts of GPUs to trials. If a part is too small, later trials get twice as much, up to a whole GPU."""

    def __init__(self, spec: TrialSpec, ledger: Ledger) -> None:
        self.ledger = ledger
        self.room = spec.concurrent * spec.gpus_per_worker
        self.part = max(spec.gpus_per_worker, ledger.state.gpu_part)
        self.parts: dict[str, float] = {}  # of each running trial

    def has_room(self) -> bool:
        """Whether another trial may start."""
        return not self.parts or sum(self.parts.values()) + self.part <= self.room + 1e-9

    def place(self, spec: TrialSpec) -> TrialSpec:
        """Assign a part to a trial."""
        self.parts[spec.name] = self.part
        return replace(spec, gpus_per_worker=self.part)

    def leave(self, name: str, *, ran_out: bool) -> bool:
        """Free a trial's part; return whether to run the trial again with more, because its memory `ran_out`."""
        part = self.parts.pop(name)
        retry = ran_out and part < 1
        if retry:
            self._enlarge(name, part, "its part of a GPU had too little memory")
        return retry

    def check_memory(self, name: str, peak_gb: float) -> None:
        """Enlarge later parts if a trial's peak memory exceeds its part."""
        gpu_gb = self.ledger.state.forecast.gpu_gb
        part = self.parts[name]
        if gpu_gb and part < 1 and peak_gb + CONTEXT > part * gpu_gb:
            self._enlarge(name, part, f"it used {peak_gb:.1f} GB of a GPU")

    def _enlarge(self, name: str, part: float, reason: str) -> None:
        if self.part <= part:
            self.part = min(1.0, 2 * part)
            self.ledger.record({"event": "gpu_part", "part": self.part, "trial": name, "reason": reason})
