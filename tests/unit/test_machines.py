"""What a trial gets of several machines."""

from pathlib import Path

import pytest

from gpt2core.errors import ConfigError
from searches.lora_rank import SEARCH
from searches.options import parse
from searches.running.resources import trial_spec
from trainables.nodes import Machine

HEAD = Machine(0)


@pytest.mark.parametrize(("machines", "flags", "grows", "expected"), [
    # A trial's CPUs are all on one machine.
    ([HEAD, Machine(2), Machine(2)], "--max-concurrent 1", True, (1, 2, 0)),
    ([HEAD, Machine(2), Machine(2)], "", True, (4, 1, 0)),
    ([Machine(8), Machine(2)], "--max-concurrent 3", True, (3, 2, 0)),
    # Each GPU has the CPUs that are beside it.
    ([HEAD, Machine(8, 2), Machine(8, 2)], "--pack off", True, (4, 4, 1)),
    ([Machine(32), Machine(8, 4)], "--pack off", True, (4, 2, 1)),
    ([HEAD, Machine(8, 4)], "--pack off --workers-per-trial 2", True, (2, 2, 1)),
    # A group may spread over machines.
    ([HEAD, Machine(4, 1), Machine(4, 1)], "--workers-per-trial 2", True, (1, 4, 1)),
    # A cluster that grows is planned for as it will be; a machine alone has what it has.
    ([HEAD, Machine(4, 1)], "--pack off --max-concurrent 8", True, (8, 4, 1)),
    ([HEAD], "--pack off --max-concurrent 8 --gpus-per-worker 1", True, (8, 1, 1)),
    ([Machine(4)], "--max-concurrent 8", False, (4, 1, 0)),
])  # fmt: skip
def test_trials_at_once_and_what_each_worker_gets(
    machines: list[Machine], flags: str, grows: bool, expected: tuple[int, int, float], tmp_path: Path
) -> None:
    spec = trial_spec(parse(SEARCH, flags.split()), tmp_path, machines, grows=grows)
    assert (spec.concurrent, spec.cpus_per_worker, spec.gpus_per_worker) == expected


@pytest.mark.parametrize(("machines", "flags"), [
    ([HEAD], ""),
    ([HEAD], "--max-concurrent 8"),
    ([Machine(4, 1)], "--gpus-per-worker 2"),
    ([Machine(1)], "--workers-per-trial 2"),
])  # fmt: skip
def test_what_no_machine_has_room_for_is_an_error(machines: list[Machine], flags: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"A trial needs .* but the cluster has"):
        trial_spec(parse(SEARCH, flags.split()), tmp_path, machines, grows=True)
