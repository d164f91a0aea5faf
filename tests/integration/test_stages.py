"""A first stage that trials share, trained before them on real Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from gpt2core.pretrain_stage import first_stage, trained_first
from searches import stages
from tests.killing import lora_run
from trainables.trial import TrialSpec


def test_the_first_stage_is_cached_before_the_trials(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lora_run(tmp_path).but(pretrain="sst", pretrain_epochs=1)
    stage = first_stage(run)
    assert stage is not None
    monkeypatch.setattr(stages, "shared_stages", lambda plan, nodes: [stage])
    anything: Any = SimpleNamespace(state=SimpleNamespace(trials={}))
    spec = TrialSpec(name="", run=run, folder="", gpus_per_worker=1)
    with Console().capture() as said:
        stages.make_stages(anything, anything, spec, Console())
    assert "could not be trained" not in said.get()
    monkeypatch.setattr("gpt2core.training.train_epoch", None)  # training again would fail
    assert trained_first(stage).origin
