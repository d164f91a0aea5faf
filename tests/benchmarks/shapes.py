"""Models with random weights, and texts of random tokens that are as long as those of a task."""

import numpy as np

from gpt2core.config import MODELS, ModelConfig
from gpt2core.data.corpus import Corpus
from gpt2core.data.origin import DataOrigin
from gpt2core.data.tokens import Tokens
from gpt2core.model import GPT2, initialise
from gpt2core.tasks import TaskData
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import model_folder

SHAPES = {
    "17.5M": ModelConfig(vocab_size=8192, n_positions=512, n_embd=384, n_layer=8, n_head=6),
    "small": MODELS["gpt2"],
}
#: Shares of the texts of a training split, and how many of GPT-2's tokens they have at most.
SHARES = (*np.linspace(0, 0.95, 20), 0.975, 0.99, 0.995, 0.999, 1)
LENGTHS = {
    "sst": (2, 6, 9, 11, 13, 14, 16, 17, 19, 20, 22, 23, 25, 26, 28, 30, 32, 35, 38, 43, 48, 53, 56, 62, 76),
    "paraphrase": (
        28, 35, 36, 38, 39, 40, 41, 41, 42, 43, 44, 46, 47, 48, 50, 52, 55, 58, 63, 71, 78, 90, 99, 122, 329
    ),
}  # fmt: skip


def random_model(name: str) -> GPT2:
    """A model of SHAPES, the same each time."""
    model = GPT2(SHAPES[name])
    initialise(model, 0)
    return model


def random_texts(lengths: np.ndarray, shape: ModelConfig) -> TaskData:
    """Texts of random tokens, none of which is the last of the vocabulary, and of classes 0 and 1."""
    random = np.random.default_rng(0)
    names = [str(number) for number in range(len(lengths))]
    tokens = Tokens(
        ids=names,
        texts=names,
        values=random.integers(0, shape.vocab_size - 1, lengths.sum(), dtype=np.int32),
        starts=lengths.cumsum() - lengths,
        lengths=lengths,
        labels=random.integers(0, 2, len(lengths)),
        given=np.zeros(len(lengths), dtype=int),
    )
    tokenizer = Tokenizer.load(model_folder("gpt2-nano"))  # that a run has one: none of its words are read
    corpus = Corpus(name="random", origin=DataOrigin(source="random tokens"), splits={})
    return TaskData(corpus=corpus, tokenizer=tokenizer, splits={"train": tokens})


def lengths_of(task: str, count: int) -> np.ndarray:
    """Tokens of `count` texts, drawn as they are in a task's training split."""
    return np.interp(np.random.default_rng(1).random(count), SHARES, LENGTHS[task]).round().astype(int)
