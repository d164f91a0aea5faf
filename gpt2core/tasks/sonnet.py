"""Sonnet generation: continue the first 3 lines of a sonnet with 11 more."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor

from gpt2core.config import RunConfig, SonnetKeys
from gpt2core.data.batches import Batch
from gpt2core.data.corpus import Corpus, Row
from gpt2core.data.shakespeare import load_sonnets
from gpt2core.data.tokens import Example, Tokens
from gpt2core.decoding.text_cache import generate_cached
from gpt2core.metrics.baselines import Baseline, asked_for, sonnet_baselines, split_given
from gpt2core.metrics.chrf import chrf_from_statistics, sentence_statistics
from gpt2core.metrics.direction import Direction
from gpt2core.metrics.diversity import distinct_n
from gpt2core.metrics.form import FORM, GIVEN, form_counts
from gpt2core.metrics.losses import LOSSES, perplexities
from gpt2core.metrics.metric import Metric, named
from gpt2core.model import GPT2, TrunkInput
from gpt2core.precision import for_generation
from gpt2core.preferences import dpo_losses, pair_input, paired
from gpt2core.tasks.base import Evaluation, LanguageTask, TaskData, loss_statistics, measured, objective_of
from gpt2core.tasks.writing import choose_outputs, continued, requested
from gpt2core.tokenizer import Tokenizer

TEXT_LOSS = "text_loss"  # counts of the loss of generated texts


class Sonnet(LanguageTask):
    """Continuation of sonnets by Shakespeare.

    The objective is the loss on the last 11 lines, because the chrF of generated texts does not distinguish models.
    `chrf_continuation` counts at most 11 generated lines, because more lines would raise chrF. `chrf_whole` counts the whole
    sonnet with its 3 given lines, as in the study. `text_perplexity` is that of the generated texts under their own model.
    """

    name = "sonnet"
    keys = SonnetKeys
    encoding = "text, EOS"
    generates = True
    metrics: Mapping[str, Metric] = {
        **LOSSES,
        **named(
            Metric("chrf_continuation", Direction.MAX, "chrF", 1.0, 2, "chrf", chrf_from_statistics, (0.0, 100.0)),
            Metric("chrf_whole", Direction.MAX, "chrF", 1.0, 2, "chrf_whole", chrf_from_statistics, (0.0, 100.0)),
        ),
        **FORM,
        **named(
            Metric("text_perplexity", Direction.MIN, "", 2.0, 2, TEXT_LOSS, perplexities, (1.0, math.inf)),
            Metric("distinct_2", Direction.MAX, "", 0.05, bounds=(0.0, 1.0)),
        ),
    }

    def corpus(self, config: RunConfig) -> Corpus:
        return load_sonnets(config.data_dir)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        """Return one example per sonnet, with EOS so that the model learns to stop."""
        encoded = tokenizer.encode([row.text for row in rows])
        return [Example(row.id, row.text, [*ids, tokenizer.eos]) for row, ids in zip(rows, encoded, strict=True)]

    def first_scored(self, text: np.ndarray, tokenizer: Tokenizer) -> int:
        """Return the first token that begins after the given lines and their line break; EOS if there is no other."""
        lines = np.cumsum([tokenizer.pieces[token].count(b"\n") for token in text])
        return min(int(np.searchsorted(lines, GIVEN)) + 1, len(text) - 1)

    def values(self, config: RunConfig) -> Mapping[str, Any]:
        """Return overrides, as `Component.values` does: only DPO has a beta."""
        return {} if config.loss == "dpo" else {"dpo_beta": None}

    def training_examples(self, tokens: Tokens, base: GPT2, tokenizer: Tokenizer, config: RunConfig) -> Tokens:
        """Return texts or, for DPO, pairs of each text and the continuation of its given lines by `base`."""
        if config.loss != "dpo":
            return tokens
        given = np.array([self.first_scored(tokens[number], tokenizer) for number in range(len(tokens))])
        return paired(replace(tokens, given=given), base, tokenizer, config)

    def weights(self, tokens: Tokens, tokenizer: Tokenizer, config: RunConfig) -> np.ndarray:
        """Return the number of predicted tokens of each text, or 1 for each pair."""
        return (
            np.ones(len(tokens), dtype=np.int64) if config.loss == "dpo" else super().weights(tokens, tokenizer, config)
        )

    def trunk_input(self, batch: Batch, tokenizer: Tokenizer, config: RunConfig) -> TrunkInput:
        """Return all tokens as one segment, or the two segments of each pair."""
        return (
            pair_input(batch, tokenizer.eos) if config.loss == "dpo" else super().trunk_input(batch, tokenizer, config)
        )

    def training_loss(
        self, model: GPT2, base: GPT2, hidden: Tensor, batch: Batch, tokenizer: Tokenizer, config: RunConfig
    ) -> Tensor:
        """Return the cross-entropy, or DPO's loss of the pairs."""
        if config.loss != "dpo":
            return super().training_loss(model, base, hidden, batch, tokenizer, config)
        return dpo_losses(model, hidden, base, batch, tokenizer.eos, config.dpo_beta).sum()

    def evaluate(self, model: GPT2, data: TaskData, config: RunConfig, split: str) -> Evaluation:
        """Return the loss of the continuations, and scores of those generated with `config.decode_seeds` seeds."""
        if not config.decode_seeds:
            return super().evaluate(model, data, config, split)
        loss = loss_statistics(self, model, data, config, split)
        tokens = data.splits[split]
        gold = tokens.texts
        given, references = zip(*(split_given(text) for text in gold), strict=True)
        started = time.perf_counter()
        written = continuations(model, data.tokenizer, given, config)
        generate_seconds = time.perf_counter() - started
        sonnets = [[f"{g}\n{t}" for g, t in zip(given, texts, strict=True)] for texts in written]
        wanted = asked_for(references)
        of_outputs = {
            "chrf": np.stack([sentence_statistics(asked_for(texts), wanted) for texts in written]),
            "chrf_whole": np.stack([sentence_statistics(texts, gold) for texts in sonnets]),
            **form_counts(given, written, data.splits["train"].texts),
        }
        text_losses = partial(self.losses_of_texts, model, data, config)
        if objective_of(self, config).counts == TEXT_LOSS:  # it chooses, so all texts need it
            of_outputs[TEXT_LOSS] = text_losses(sonnets)
        chosen = choose_outputs(self, of_outputs, tokens, config)
        statistics = {"loss": loss[None], **chosen.counts(of_outputs)}
        written, sonnets = chosen.texts(written), chosen.texts(sonnets)
        if TEXT_LOSS not in statistics:
            statistics[TEXT_LOSS] = text_losses(sonnets)
        ratios = [[len(t) / max(1, len(r)) for t, r in zip(texts, references, strict=True)] for texts in written]
        metrics = {
            **measured(self.metrics, statistics, split),
            "length_ratio": float(np.mean(ratios)),
            "distinct_2": distinct_n([text for texts in sonnets for text in texts], 2),
        }
        return Evaluation(
            metrics=metrics,
            statistics=statistics,
            samples=chosen.samples(tokens.ids, given, written[0], references),
            tables=chosen.tables(),
            generate_seconds=generate_seconds,
        )

    def losses_of_texts(
        self, model: GPT2, data: TaskData, config: RunConfig, texts: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Return the counts (outputs, N, 3) of `loss_statistics` for sonnets whose continuations were generated."""
        rows = [Row(id=str(number), text=text) for number, text in enumerate(chain(*texts))]
        tokens = Tokens.of(self.encode(rows, data.tokenizer), limit=model.config.n_positions)
        counts = loss_statistics(self, model, replace(data, splits={"written": tokens}), config, "written")
        return counts.reshape(len(texts), -1, counts.shape[-1])

    def baselines(self, data: TaskData, config: RunConfig, split: str) -> dict[str, Baseline]:
        """Return sonnets made of given lines and training lines, and n-gram models, as baselines."""
        gold = data.splits[split].texts
        written = sonnet_baselines([split_given(text)[0] for text in gold], gold, data.splits["train"].texts)
        return written | super().baselines(data, config, split)


def generate_ahead(model: GPT2, data: TaskData, configs: Sequence[RunConfig], split: str) -> None:
    """Generate the texts for several evaluations of a frozen model at once, so that each of them finds its texts in the cache."""
    given = data.tokenizer.encode([f"{split_given(text)[0]}\n" for text in data.splits[split].texts])
    rows = [*chain(*(requested(given, config) for config in configs))]
    model, tokenizer = for_generation(model, configs[0]), data.tokenizer
    generate_cached(model, rows, eos=tokenizer.stops, tokenizer=tokenizer)


def continuations(model: GPT2, tokenizer: Tokenizer, given: Sequence[str], config: RunConfig) -> list[list[str]]:
    """Continue each text after a line break, see `continued`."""
    return continued(model, tokenizer, tokenizer.encode([f"{text}\n" for text in given]), config)
