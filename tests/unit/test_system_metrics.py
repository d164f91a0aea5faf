"""Samples of the machine by MLflow's collectors: what cannot be measured here is left out."""

import queue

import psutil
import pytest

from searches.running import system_metrics
from searches.running.system_metrics import Sample, SystemMetrics, collectors, sample
from tests.waiting import PATIENCE


def test_a_sample_has_mlflows_names_and_no_gpu_where_there_is_none() -> None:
    values = sample(collectors())
    assert 0 < values["system/system_memory_usage_megabytes"] < psutil.virtual_memory().total / 1e6
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert {"system/disk_usage_percentage", "system/network_receive_megabytes"} <= values.keys()


def test_a_collector_that_fails_costs_only_its_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no such counter")

    monkeypatch.setattr(psutil, "disk_usage", lambda _: fail())
    values = sample(collectors())
    assert "system/disk_usage_percentage" not in values
    assert "system/cpu_utilization_percentage" in values


def test_samples_come_until_it_is_stopped_and_then_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "EVERY", 0.01)
    samples: queue.Queue[Sample] = queue.Queue()
    system = SystemMetrics(samples.put)
    for _ in range(2):
        assert samples.get(timeout=PATIENCE)
    monkeypatch.setattr(system_metrics, "EVERY", PATIENCE)
    system.stop()
    assert not system.thread.is_alive()
    assert samples.get_nowait()
