"""Trivial baselines: scores that need no neural model, for comparison with a model's scores.

chrF here is corpus chrF without whitespace, so line ends and indentation do not count. `whole` includes the given lines,
`continuation` only the 11 lines that follow them.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2core.metrics.chrf import corpus_chrf
from gpt2core.metrics.form import GIVEN, LINES, first_lines, rhyme_share
from gpt2core.metrics.losses import LOSSES
from gpt2core.metrics.ngram import ngram_losses

COUNTED = 2_000_000  # the first training tokens, from which n-gram models are counted
ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}

#: (given lines, all training texts, random numbers) -> a continuation.
Writer = Callable[[str, Sequence[str], np.random.Generator], str]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The scores of a trivial predictor: (mean, standard deviation over seeds) by the metric's name in `Evaluation.metrics`."""

    meaning: str
    scores: dict[str, tuple[float, float]]


def split_given(text: str, lines: int = GIVEN) -> tuple[str, str]:
    """Split a sonnet into its first lines and the rest."""
    parts = text.split("\n")
    return "\n".join(parts[:lines]), "\n".join(parts[lines:])


def _random_lines(count: int, given: str, train: Sequence[str], random: np.random.Generator) -> str:
    lines = [line for text in train for line in text.split("\n")]
    return "\n".join(lines[i] for i in random.integers(len(lines), size=count))


WRITERS: dict[str, tuple[str, Writer]] = {
    "given_only": ("the 3 given lines only", lambda given, train, random: ""),
    "last_line_repeated": (
        "given lines and the last one repeated",
        lambda given, train, random: "\n".join([given.split("\n")[-1]] * (LINES - GIVEN)),
    ),
    "other_tail": (
        "given lines and the tail of another training sonnet",
        lambda given, train, random: split_given(train[int(random.integers(len(train)))])[1],
    ),
    "random_lines": ("given lines and 11 random training lines", functools.partial(_random_lines, 11)),
    "random_lines_15": ("given lines and 15 random training lines", functools.partial(_random_lines, 15)),
}


def sonnet_baselines(
    given: Sequence[str], gold: Sequence[str], train: Sequence[str], *, seeds: int = 20
) -> dict[str, Baseline]:
    """Score the WRITERS on sonnets `gold` with the first lines `given`, the random ones over `seeds` seeds."""
    references = asked_for([split_given(text)[1] for text in gold])
    result = {}
    for name, (meaning, write) in WRITERS.items():
        whole, continuation, rhymes = [], [], []
        for seed in range(seeds if name not in ("given_only", "last_line_repeated") else 1):
            random = np.random.default_rng(seed)
            texts = [write(text, train, random) for text in given]
            whole.append(corpus_chrf([f"{g}\n{t}" for g, t in zip(given, texts, strict=True)], gold))
            continuation.append(corpus_chrf(asked_for(texts), references))
            rhymes.append(rhyme_share(given, texts))
        scores = {"chrf_continuation": continuation, "chrf_whole": whole, "form_rhyme": rhymes}
        mean_and_std = {metric: (float(np.mean(values)), float(np.std(values))) for metric, values in scores.items()}
        result[name] = Baseline(meaning=meaning, scores=mean_and_std)
    return result


def asked_for(continuations: Sequence[str]) -> list[str]:
    """Cut continuations after the 11 lines that a sonnet needs."""
    return [first_lines(text, LINES - GIVEN) for text in continuations]


def naive_bayes(
    train: Sequence[np.ndarray], labels: np.ndarray, held_out: Sequence[np.ndarray], vocab_size: int, classes: int
) -> np.ndarray:
    """Return the log-probabilities (N, K) of the K classes of held-out texts by multinomial naive Bayes, smoothed by one.

    Texts are token ids (T,); `labels` are the classes of the training texts. A token counts once per text (Wang & Manning 2012).
    """
    counts = np.ones((classes, vocab_size))
    for text, label in zip(train, labels, strict=True):
        counts[label, np.unique(text)] += 1
    log_tokens = np.log(counts / counts.sum(axis=1, keepdims=True))
    frequencies = np.bincount(labels, minlength=classes) + 1
    log_classes = np.log(frequencies / frequencies.sum())
    joint = np.array([log_classes + log_tokens[:, np.unique(text)].sum(axis=1) for text in held_out])
    return np.asarray(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


def ngram_baselines(
    train: Iterable[np.ndarray],
    held_out: Sequence[np.ndarray],
    scored: Sequence[np.ndarray],
    characters: np.ndarray,
    split: str,
) -> dict[str, Baseline]:
    """Score n-gram models of the training texts on held-out texts by the metrics LOSSES.

    Texts are token ids (T,). `scored[i]` (T,) is a mask of the tokens of held-out text i that count; `characters` (V,) is the
    number of characters of each token. The models are counted on the first COUNTED training tokens.
    """
    texts, left = [], COUNTED
    for text in train:
        texts.append(text[:left])
        left -= len(text)
        if left <= 0:
            break
    baselines = {}
    for name, order in ORDERS.items():
        losses = ngram_losses(texts, held_out, len(characters), order)
        nats = sum(float(own[chosen].sum()) for own, chosen in zip(losses, scored, strict=True))
        tokens = np.concatenate([text[chosen] for text, chosen in zip(held_out, scored, strict=True)])
        counts = np.array([nats, len(tokens), characters[tokens].sum()])
        scores = {m.on(split): (float(m.score(counts)), 0.0) for m in LOSSES.values() if m.score is not None}
        baselines[name] = Baseline(meaning=f"a {name} model of the training texts (Kneser-Ney)", scores=scores)
    return baselines
