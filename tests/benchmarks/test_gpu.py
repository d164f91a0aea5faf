"""The GPU benchmark runs, at a tiny size, on machines without a GPU."""

import pytest

from tests.benchmarks.gpu import main


@pytest.mark.slow
def test_every_measurement_runs_on_a_tiny_model(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--tiny"])
    printed = capsys.readouterr().out
    for measured in (
        "step, full",
        "step, LoRA",
        "4 LoRA steps in a pack",
        "a token of 12 prompts",
        "LogSparse of 64 tokens",
    ):
        assert measured in printed
