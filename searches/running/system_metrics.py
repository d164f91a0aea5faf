"""Samples of this machine's CPU, memory, disk, network and GPUs by MLflow's own collectors, under its names."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

EVERY = 10.0  # seconds between two samples, as in MLflow
COLLECTORS = (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor, ROCMMonitor)

Sample = dict[str, float]


class SystemMetrics:
    """A thread that gives `put` a sample every EVERY seconds, and a last one when it stops.

    MLflow's own thread would send the samples itself, and end for good when the server does not answer once.
    """

    def __init__(self, put: Callable[[Sample], None]) -> None:
        self.put, self.collectors = put, collectors()
        sample(self.collectors)  # the CPU's load is measured since the sample before
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._work, name="system metrics", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the thread after the last sample."""
        self.stopped.set()
        self.thread.join()

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self.stopped.wait(EVERY)
            self.put(sample(self.collectors))


def collectors() -> list[BaseMetricsMonitor]:
    """Return the collectors that work here: those of GPUs need a GPU and its Python package."""
    working = []
    for kind in COLLECTORS:
        with suppress(Exception):  # MLflow raises errors of many kinds
            working.append(kind())
    return working


def sample(collectors: Iterable[BaseMetricsMonitor]) -> Sample:
    """Return the present values by MLflow's names, such as `system/cpu_utilization_percentage`, without those that fail."""
    values: Sample = {}
    for collector in collectors:
        with suppress(Exception):
            collector.collect_metrics()
            values |= {f"system/{name}": float(value) for name, value in collector.aggregate_metrics().items()}
        collector.clear_metrics()
    return values
