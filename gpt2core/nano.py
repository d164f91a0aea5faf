"""Train gpt2-nano, the model that ships with the project: `make nano`, about an hour on 2 cores."""

import hashlib
import json
import platform
import time

import torch

from gpt2core.builders import build_model
from gpt2core.checkpoints.best import load_best
from gpt2core.checkpoints.layout import BEST, STATE
from gpt2core.config import MODELS, RunConfig
from gpt2core.data.shakespeare import load_plays
from gpt2core.files import cache_folder, read_json
from gpt2core.model import GPT2, initialise
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import load_data
from gpt2core.tokenizer import EOS, train_bpe
from gpt2core.training import train
from gpt2core.weights import ASSETS, save_model

CONFIG = RunConfig(
    task="pretraining",
    lr=2e-3,
    schedule="cosine",
    warmup_steps=100,
    clip_norm=1.0,
    weight_decay=0.1,
    batch_size=16,
    epochs=8,
    dropout=0.05,
)

CARD = """\
---
license: mit
language: en
tags: [gpt2, shakespeare]
---
# gpt2-nano

A GPT-2 of {parameters:,} parameters ({shape.n_layer} blocks, {shape.n_embd} channels, {shape.n_head} heads) with a byte-level BPE
of {shape.vocab_size:,} entries. With it, every part of the project can be run, tested and demonstrated without a network.
It writes like a small model: use it to see how the search works, not to judge how well GPT-2 can be fine-tuned.

- **Trained** by `make nano` (`python -m gpt2core.nano`), with the project's own training loop, in {minutes:.0f} minutes on
  {threads} CPU thread(s); torch {torch}. On another machine, the last digits differ.
- **Text:** {corpus}. Only modern-spelling editions.
  Excluded: all poems, including the sonnets and The Passionate Pilgrim, and every play that shares two lines with one of these
  (Love's Labour's Lost). Held out: The Tempest.
- **Training:** {run.epochs} epochs of blocks of 256 tokens, batches of {run.batch_size}, AdamW, learning rate {run.lr:g}
  ({run.warmup_steps} warm-up steps, then cosine), weight decay {run.weight_decay:g}, gradient norm clipped at {run.clip_norm:g},
  dropout {run.dropout:g}, seed {run.seed}.
- **Held-out perplexity** (The Tempest, per token of this tokenizer): **{metrics[dev_perplexity]:.2f}**, cross-entropy
  {metrics[dev_loss]:.4f} nats, at epoch {epoch}. Perplexities of different tokenizers are not comparable; per character, the
  cross-entropy is {per_character:.4f} nats.
- **Positions** beyond 255 were never trained, although the model has {shape.n_positions}.
- SHA-256 of model.safetensors: `{digest}`
"""


def main() -> None:
    """Train the tokenizer and the model, and write the folder that `--model gpt2-nano` loads."""
    started = time.time()
    folder = ASSETS / "gpt2-nano"
    folder.mkdir(parents=True, exist_ok=True)
    shape = MODELS["gpt2-nano"]
    plays = load_plays()
    print(plays.describe(), flush=True)
    tokenizer = train_bpe([row.text for row in plays.splits["train"]], shape.vocab_size)
    tokenizer.save(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.n_positions, "eos_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    data = load_data(TASKS["pretraining"], CONFIG, tokenizer, shape.n_positions)
    print(f"{data.splits['train'].values.size:,} training tokens", flush=True)

    base = GPT2(shape)
    initialise(base, CONFIG.seed)
    # A digest of everything that decides the result, so that only an unchanged run resumes.
    name = hashlib.sha256(f"{CONFIG}{shape}{tokenizer.digest}{plays.digest}".encode()).hexdigest()[:16]
    work = cache_folder("nano") / name
    for report in train(CONFIG, base, data, folder=work):
        loss, perplexity, speed = (report.metrics[k] for k in ("train_loss", "dev_perplexity", "tokens_per_second"))
        progress = f"epoch {report.epoch}/{CONFIG.epochs}: train loss {loss:.4f}"
        print(f"{progress}, held-out perplexity {perplexity:.2f}, {speed:.0f} tokens/s", flush=True)
    model = build_model(CONFIG, base, torch.device("cpu"))
    epoch = load_best(work, model)
    save_model(model, folder)
    metrics = read_json(work / BEST / STATE)["history"][-1]["metrics"]
    characters = sum(len(row.text) for row in plays.splits["dev"]) / data.splits["dev"].values.size  # per token
    card = CARD.format(
        run=CONFIG,
        shape=shape,
        parameters=sum(p.numel() for p in model.parameters()),
        corpus=plays.describe(),
        minutes=(time.time() - started) / 60,
        threads=torch.get_num_threads(),
        torch=f"{torch.__version__}, {platform.machine()}",
        metrics=metrics,
        per_character=metrics["dev_loss"] / characters,
        epoch=epoch,
        digest=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    )
    (folder / "README.md").write_text(card)


if __name__ == "__main__":
    main()
