"""Compare samplers and schedulers with random search without stops, on recorded curves: python -m tests.benchmarks.replay.

The curves in curves/ are of gpt2-nano on parts of the study's data, all with --scheduler none --sampler random --replicates 0
--set epochs=9:

- searches/learning_rate.py --trials 50 --set task=poems --set train_examples=40 --set dev_examples=32
- searches/lora_rank.py --trials 60 --set train_examples=64 --set decode_seeds=2 (42 trials ran to their end)
- searches/sentiment.py --trials 44 --set task=sst --set train_examples=800 (42 trials: two diverged)
"""

import sys
from pathlib import Path

from searches import replay

CURVES = sorted((Path(__file__).parent / "curves").glob("*.json"))


def main(argv: list[str]) -> int:
    """Replay the records; flags are those of `gpt2-search replay`."""
    return replay.run([*map(str, CURVES), *(argv or ["--samplers", "random,qmc,tpe"])])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
