"""Toy objects: two blocks of width 32, a small tokenizer, a few rows. No downloads."""

from pathlib import Path

import numpy as np
from torch import nn

from gpt2core.config import ModelConfig, RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.origin import DataOrigin
from gpt2core.data.tokens import Example, Tokens
from gpt2core.model import GPT2, initialise
from gpt2core.tasks import TaskData
from gpt2core.tokenizer import Tokenizer, train_bpe
from gpt2core.weights import save_model

WORDS = [
    "thy", "love", "is", "as", "a", "summer", "rose", "that", "time", "shall", "never", "dim", "nor", "death",
    "can",
]  # fmt: skip
SHAPE = ModelConfig(vocab_size=320, n_positions=256, n_embd=32, n_layer=2, n_head=4)
RUN = RunConfig(model="toy", lr=1e-3, epochs=3, batch_size=4, decode_seeds=2, max_new_tokens=12, dropout=0.1).but(
    class_names=("dull", "fine")
)


def lines(count: int, seed: int) -> str:
    random = np.random.default_rng(seed)
    return "\n".join(" ".join(random.choice(WORDS, size=6)) for _ in range(count))


def tokenizer() -> Tokenizer:
    return train_bpe([lines(50, seed) for seed in range(10)], SHAPE.vocab_size)


def model(seed: int = 0, shape: ModelConfig = SHAPE, classes: int = 0) -> GPT2:
    """A GPT-2 at random weights, larger than at a usual start, so that errors show; with a head of `classes`, if any."""
    made = GPT2(shape)
    if classes:
        made.head = nn.Linear(shape.n_embd, classes, bias=False)
    initialise(made, seed)
    for parameter in made.parameters():
        parameter.data *= 3.0
    return made.train(False)


def data(train: int = 13, dev: int = 4) -> TaskData:
    words = tokenizer()
    splits, rows = {}, {}
    for split, count, offset in (("train", train, 0), ("dev", dev, 1000)):
        texts = [lines(5 + number % 4, offset + number) for number in range(count)]
        rows[split] = [Row(id=str(number), text=text) for number, text in enumerate(texts)]
        encoded = enumerate(zip(texts, words.encode(texts), strict=True))
        splits[split] = Tokens.of(Example(str(n), text, [*ids, words.eos], label=n % 2) for n, (text, ids) in encoded)
    return TaskData(
        corpus=Corpus(name="toy", origin=DataOrigin(source="random words"), splits=rows), tokenizer=words, splits=splits
    )


def folder(path: Path) -> Path:
    save_model(model(), path)
    tokenizer().save(path)
    return path
