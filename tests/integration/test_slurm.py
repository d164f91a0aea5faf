"""The Slurm script with stand-ins for Slurm's programs, which run everything on this machine; Ray is real."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, program

PROGRAMS = {
    "scontrol": 'echo "$2 $3" >> "$CALLS"; printf "one\\ntwo\\n"',
    "srun": 'echo "srun $*" >> "$CALLS"; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "hostname": "echo 127.0.0.1",
}
#: What stands for a search: it waits for both nodes, and says what they have.
SEARCH = """
import time
import ray
from cluster.connect import connect
connect()
while len(ray.nodes()) < 2:
    time.sleep(0.2)
print("nodes", len(ray.nodes()), "CPUs", ray.cluster_resources()["CPU"], flush=True)
raise SystemExit(3)
"""


def slurm(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script as Slurm would, in a job of two nodes with two CPUs each."""
    programs = folder / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "[one-two]", "SLURM_CPUS_PER_TASK": "2"}
    home = {"HOME": str(folder), "CALLS": str(folder / "calls"), "PYTHONPATH": str(ROOT)}
    return program([str(ROOT / "cluster" / "slurm.sh"), *words], cwd=folder, PATH=path, **job, **home)


@pytest.mark.slow
def test_a_search_gets_all_nodes_of_its_job_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = slurm(tmp_path, "python", "-c", SEARCH)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "nodes 2 CPUs 4.0" in done.stdout
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "hostnames [one-two]"
    steps = [call for call in calls if "ray start" in call]
    assert ["--nodelist=one" in steps[0], "--exclude=one" in steps[1]] == [True, True]
    assert not list((tmp_path / ".gpt2-search").glob("slurm-*")), "the token is removed"


def test_without_a_command_or_a_job_it_says_how_it_is_used(tmp_path: Path) -> None:
    done = slurm(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: sbatch [OPTIONS] cluster/slurm.sh")
