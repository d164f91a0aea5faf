"""Sonnet generation: the last 11 lines of a sonnet from its first 3."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.shakespeare import load_sonnets
from gpt2core.decoding.generate import generate
from gpt2core.metrics.bootstrap import chrf_interval
from gpt2core.metrics.chrf import corpus_chrf, sentence_statistics
from gpt2core.metrics.floors import floors, split_given
from gpt2core.model import GPT2
from gpt2core.tasks.base import Evaluation, TaskData, cross_entropy
from gpt2core.tokenizer import Tokenizer


class Sonnet:
    """Judged by chrF of the continuation: of the whole sonnet, chrF mostly measures the 3 lines that were given."""

    name = "sonnet"
    objective = "chrf_continuation"
    direction = "max"

    def corpus(self, data_dir: str | None) -> Corpus:
        """The sonnets in the study's splits."""
        return load_sonnets(data_dir)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> tuple[list[str], list[str], list[list[int]]]:
        """One example a sonnet, EOS appended so that the model learns to stop."""
        texts = [row.text for row in rows]
        return [row.id for row in rows], texts, [[*ids, tokenizer.eos] for ids in tokenizer.encode(texts)]

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Cross-entropy and perplexity per token; chrF, whole and of the continuation, over several decoding seeds.

        The interval is a 95% bootstrap over sonnets and decoding seeds. A length ratio of 1 means as long as the gold.
        """
        loss = cross_entropy(model, data.splits[split])
        gold = data.splits[split].texts
        given, references = zip(*(split_given(text) for text in gold), strict=True)
        written = continuations(model, data.tokenizer, given, config)
        statistics = np.stack([sentence_statistics(texts, references) for texts in written])
        interval = chrf_interval(statistics)
        lengths = [
            len(text) / max(1, len(reference))
            for texts in written
            for text, reference in zip(texts, references, strict=True)
        ]
        whole = [corpus_chrf([f"{g}\n{t}" for g, t in zip(given, texts, strict=True)], gold) for texts in written]
        metrics = {
            f"{split}_loss": loss,
            f"{split}_perplexity": math.exp(min(loss, 700.0)),
            "chrf_continuation": interval.estimate,
            "chrf_continuation_low": interval.low,
            "chrf_continuation_high": interval.high,
            "chrf_whole": float(np.mean(whole)),
            "length_ratio": float(np.mean(lengths)),
        }
        samples = [
            {"id": name, "given": g, "generated": t, "gold": r}
            for name, g, t, r in zip(data.splits[split].ids, given, written[0], references, strict=True)
        ]
        return Evaluation(metrics=metrics, statistics=statistics, samples=samples)

    def report(self, data: TaskData, split: str) -> dict[str, Any]:
        """The floors: scores of texts that no model is needed for."""
        gold = data.splits[split].texts
        given = [split_given(text)[0] for text in gold]
        return {name: asdict(floor) for name, floor in floors(given, gold, data.splits["train"].texts).items()}


def continuations(model: GPT2, tokenizer: Tokenizer, given: Sequence[str], config: RunConfig) -> list[list[str]]:
    """Continue each text `config.decode_seeds` times, all in one batch; return the new texts by seed."""
    prompts = tokenizer.encode([f"{text}\n" for text in given])
    seeds = [
        int(np.random.SeedSequence((config.seed, seed, number)).generate_state(1)[0])
        for seed in range(config.decode_seeds)
        for number in range(len(given))
    ]
    new = generate(model, prompts * config.decode_seeds, config.decoding, seeds=seeds, eos=tokenizer.eos)
    texts = [tokenizer.decode(ids).strip("\n") for ids in new]
    return [texts[i : i + len(given)] for i in range(0, len(texts), len(given))]
