"""Shared by tests of candidate generation: a toy model that writes sentences, questions, commands and folders."""

import sys
from pathlib import Path

import numpy as np
import torch

from gpt2core.config import Thresholds
from gpt2core.distill.config import GenerationConfig
from gpt2core.testing import toys
from gpt2core.tokenizer import train_bpe
from gpt2core.weights import save_model
from tests import course
from trainables.candidates.job import Job

GENERATION = GenerationConfig(
    source="paraphrase", context_tokens=40, candidates=5, candidate_tokens=20, temperature=1.0, no_repeat_ngram=0
)
THRESHOLDS = Thresholds(tau=0.5, max_rouge=0.9)


def sentence(random: np.random.Generator) -> str:
    return " ".join(random.choice(toys.WORDS, size=random.integers(4, 8))).capitalize() + "."


def writer(folder: Path) -> Path:
    """A toy model trained to write such sentences, as a Hugging Face folder; the same each time."""
    random = np.random.default_rng(0)
    texts = [" ".join(sentence(random) for _ in range(4)) for _ in range(400)]
    tokenizer = train_bpe(texts, toys.SHAPE.vocab_size)
    rows = [[*ids[:63], tokenizer.eos] for ids in tokenizer.encode(texts)]
    model = toys.model().requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(250):
        ids = torch.tensor([row + [tokenizer.eos] * (64 - len(row)) for row in rows[step % 25 :: 25]])
        loss = model.losses(model(ids), ids).sum() / ids.numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_model(model, folder)
    tokenizer.save(folder)
    return folder


def data(folder: Path) -> Path:
    random = np.random.default_rng(1)
    for split in ("train", "dev"):
        rows = [(f"{split}{n}", sentence(random), sentence(random), "0.0") for n in range(60)]
        course.quora(folder / f"quora-{split}.csv", rows)
    return folder


def job(out: Path, model: Path, data_dir: Path, **values: object) -> Job:
    plain: dict[str, object] = {
        "contexts": 120, "generation": GENERATION, "thresholds": THRESHOLDS, "max_quarantine": 0.2, **values,
    }  # fmt: skip
    return Job(out=str(out), model=str(model), generator=str(model), data_dir=str(data_dir), **plain)  # type: ignore[arg-type]


def command(out: Path | str, model: Path, data_dir: Path, *flags: str, records: Path | None = None) -> list[str]:
    """The command of `job`; MLflow's database is next to its output, or in the folder `records`."""
    settings = {"context_tokens": 40, "candidate_tokens": 20, "no_repeat_ngram": 0}
    return [
        *(sys.executable, "-m", "trainables.candidates", "--out", str(out), "--model", str(model)),
        *("--data-dir", str(data_dir), "--contexts", "120", "--candidates", "5", "--temperature", "1"),
        *("--tau", "0.5", "--max-rouge", "0.9", "--max-quarantine", "0.2", "--workers", "2", "--scorers", "1"),
        *("--tracking-uri", f"sqlite:///{(records or Path(out).parent) / 'mlflow.db'}"),
        *(f"--set={key}={value}" for key, value in settings.items()),
        *flags,
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder except the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
