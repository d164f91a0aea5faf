"""What a process holds, from trial to trial."""

import sys

import numpy as np
import pytest

from gpt2core.machine import process_memory_gb, release_memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the peak of a process anew")
def test_what_a_trial_held_is_not_counted_for_the_next() -> None:
    release_memory()
    before = process_memory_gb()
    held = np.ones(50_000_000)  # 0.4 GB
    assert process_memory_gb() > before + 0.3
    del held
    assert process_memory_gb() > before + 0.3, "it is the most that was held, not what is held now"
    release_memory()
    assert process_memory_gb() < before + 0.1
