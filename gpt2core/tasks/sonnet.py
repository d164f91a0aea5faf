"""Sonnet generation: the last 11 lines of a sonnet from its first 3."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gpt2core.config import RunConfig
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.shakespeare import load_sonnets
from gpt2core.data.tokens import Example
from gpt2core.decoding.cache import generate_once
from gpt2core.metrics.bootstrap import interval
from gpt2core.metrics.chrf import chrf_from_statistics, sentence_statistics
from gpt2core.metrics.floors import Floor, sonnet_floors, split_given
from gpt2core.metrics.form import form
from gpt2core.model import GPT2
from gpt2core.precision import for_writing
from gpt2core.tasks.base import Evaluation, LanguageTask, TaskData, loss_statistics, mean_loss, perplexity
from gpt2core.timing import spending
from gpt2core.tokenizer import Tokenizer


class Sonnet(LanguageTask):
    """Judged by chrF of the continuation: of the whole sonnet, chrF mostly measures the 3 lines that were given."""

    name = "sonnet"
    objective = "chrf_continuation"
    encoding = "text, EOS"
    generates = True
    direction: Literal["max", "min"] = "max"

    def corpus(self, config: RunConfig) -> Corpus:
        """The sonnets in the study's splits."""
        return load_sonnets(config.data_dir)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        """One example a sonnet, EOS appended so that the model learns to stop."""
        encoded = tokenizer.encode([row.text for row in rows])
        return [Example(row.id, row.text, [*ids, tokenizer.eos]) for row, ids in zip(rows, encoded, strict=True)]

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Cross-entropy and perplexity per token; chrF, whole and of the continuation, over several decoding seeds.

        The interval is a 95% bootstrap over sonnets and decoding seeds. A length ratio of 1 means as long as the gold.
        """
        loss = float(mean_loss(loss_statistics(self, model, data, config, split).sum(axis=0)))
        gold = data.splits[split].texts
        given, references = zip(*(split_given(text) for text in gold), strict=True)
        with spending("generate"):
            written = continuations(model, data.tokenizer, given, config)
        statistics = np.stack([sentence_statistics(texts, references) for texts in written])
        found = interval(statistics, self.score)
        lengths = [
            len(text) / max(1, len(reference))
            for texts in written
            for text, reference in zip(texts, references, strict=True)
        ]
        sonnets = [[f"{g}\n{t}" for g, t in zip(given, texts, strict=True)] for texts in written]
        whole = interval(np.stack([sentence_statistics(texts, gold) for texts in sonnets]), self.score)
        metrics = {
            f"{split}_loss": loss,
            f"{split}_perplexity": perplexity(loss),
            "chrf_continuation": found.estimate,
            "chrf_continuation_low": found.low,
            "chrf_continuation_high": found.high,
            "chrf_whole": whole.estimate,
            "chrf_whole_low": whole.low,
            "chrf_whole_high": whole.high,
            "length_ratio": float(np.mean(lengths)),
            **form([text for texts in sonnets for text in texts], data.splits["train"].texts),
        }
        samples = [
            {"id": name, "given": g, "generated": t, "gold": r}
            for name, g, t, r in zip(data.splits[split].ids, given, written[0], references, strict=True)
        ]
        return Evaluation(metrics=metrics, statistics=statistics, samples=samples)

    def score(self, statistics: np.ndarray) -> np.ndarray:
        """The chrF of n-gram counts."""
        return chrf_from_statistics(statistics)

    def floors(self, data: TaskData, split: str) -> dict[str, Floor]:
        """Sonnets written from the given lines and training lines alone."""
        gold = data.splits[split].texts
        return sonnet_floors([split_given(text)[0] for text in gold], gold, data.splits["train"].texts)


def write_ahead(model: GPT2, data: TaskData, configs: Sequence[RunConfig], split: str) -> None:
    """Write the texts that several evaluations of one frozen model want in one batch; each finds its own in the cache."""
    given = [split_given(text)[0] for text in data.splits[split].texts]
    prompts, decodings, seeds = [], [], []
    for config in configs:
        for prompt, seed in _requests(data.tokenizer, given, config):
            prompts.append(prompt)
            decodings.append(config.decoding)
            seeds.append(seed)
    generate_once(for_writing(model, configs[0]), prompts, decodings, seeds=seeds, eos=data.tokenizer.eos)


def continuations(model: GPT2, tokenizer: Tokenizer, given: Sequence[str], config: RunConfig) -> list[list[str]]:
    """Continue each text `config.decode_seeds` times, all in one batch; return the new texts by seed."""
    prompts, seeds = zip(*_requests(tokenizer, given, config), strict=True)
    new = generate_once(for_writing(model, config), prompts, config.decoding, seeds=seeds, eos=tokenizer.eos)
    texts = [tokenizer.decode(ids).strip("\n") for ids in new]
    return [texts[i : i + len(given)] for i in range(0, len(texts), len(given))]


def _requests(tokenizer: Tokenizer, given: Sequence[str], config: RunConfig) -> list[tuple[list[int], int]]:
    """Prompt and seed of each text that an evaluation writes, by decoding seed."""
    prompts = tokenizer.encode([f"{text}\n" for text in given])
    return [
        (prompt, int(np.random.SeedSequence((config.seed, seed, number)).generate_state(1)[0]))
        for seed in range(config.decode_seeds)
        for number, prompt in enumerate(prompts)
    ]
