"""The texts that a task generates to score a model: with each decoding setting and seed, in one batch.

Legend: `K` decoding settings, `P` seeds, `N` prompts, `S` counts of a text. An output is a text for each prompt; there are K P
outputs, first those of setting 0 with each seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2core.config import DecodingConfig, RunConfig
from gpt2core.data.dividing import has_smaller_digest
from gpt2core.data.tokens import Tokens
from gpt2core.decoding.settings import DECODING, decoding_settings, setting_text
from gpt2core.decoding.text_cache import Row, generate_cached
from gpt2core.metrics.cross_fitting import cross_fitted
from gpt2core.metrics.metric import OWN_SETTING, Metric
from gpt2core.model import GPT2
from gpt2core.precision import for_generation
from gpt2core.tasks.base import Task, objective_of
from gpt2core.tokenizer import Tokenizer
from gpt2core.workers import collected, share


def requested(prompts: Sequence[list[int]], config: RunConfig) -> list[Row]:
    """Return the texts that an evaluation generates, by output; each setting has the same seeds."""
    return [
        (prompt, setting, int(np.random.SeedSequence((config.seed, seed, number)).generate_state(1)[0]))
        for setting in decoding_settings(config)
        for seed in range(config.decode_seeds)
        for number, prompt in enumerate(prompts)
    ]


def continued(model: GPT2, tokenizer: Tokenizer, prompts: Sequence[list[int]], config: RunConfig) -> list[list[str]]:
    """Continue each prompt (token ids) in all outputs, in one batch that the workers share; return the new texts by output."""
    rows = share(requested(prompts, config))
    new = generate_cached(for_generation(model, config), rows, eos=tokenizer.stops, tokenizer=tokenizer) if rows else []
    texts = collected([tokenizer.decode(ids).strip("\n") for ids in new])
    return [texts[i : i + len(prompts)] for i in range(0, len(texts), len(prompts))]


@dataclass(frozen=True, kw_only=True)
class ChosenOutputs:
    """Which decoding setting each prompt is scored with, see `choose_outputs`."""

    settings: list[DecodingConfig]  # K
    chosen: np.ndarray  # (N,): a number of `settings`
    metric: Metric  # by which they were chosen
    config: RunConfig

    @property
    def places(self) -> np.ndarray:
        """The number (P, N) of the output that each text is taken from."""
        seeds = self.config.decode_seeds
        return np.asarray(self.chosen * seeds + np.arange(seeds)[:, None])

    def texts(self, written: Sequence[Sequence[str]]) -> list[list[str]]:
        """Return the texts to score, P lists of N, from those of all outputs."""
        return [[written[place][number] for number, place in enumerate(row)] for row in self.places]

    def counts(self, of_outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the counts (P, N, S) of the texts to score, from those of all outputs (K P, N, S).

        With several settings, also those of setting 0 for the metric that chose.
        """
        counts = {name: array[self.places, np.arange(len(self.chosen))] for name, array in of_outputs.items()}
        if len(self.settings) == 1 or self.metric.counts is None:
            return counts
        own = of_outputs[self.metric.counts][: self.config.decode_seeds]
        return counts | {f"{self.metric.counts}{OWN_SETTING}": own}

    def tables(self) -> dict[str, list[list[float]]]:
        """Return how many prompts are scored with each setting, as a table of one row; none if there is one setting."""
        if len(self.settings) == 1:
            return {}
        return {DECODING: [np.bincount(self.chosen, minlength=len(self.settings)).tolist()]}

    def samples(
        self, ids: Sequence[str], given: Sequence[str], texts: Sequence[str], gold: Sequence[str]
    ) -> list[dict[str, str]]:
        """Return for each prompt what is given, the setting if there are several, the text, and the gold text."""
        rows = zip(ids, given, texts, gold, strict=True)
        return [
            {"id": name, "given": before, **self._note(number), "generated": text, "gold": wanted}
            for number, (name, before, text, wanted) in enumerate(rows)
        ]

    def _note(self, number: int) -> dict[str, str]:
        """Return the setting of a prompt; nothing if there is one setting."""
        if len(self.settings) == 1:
            return {}
        return {"decoding": setting_text(self.config, self.settings[self.chosen[number]])}


def choose_outputs(
    task: Task, of_outputs: Mapping[str, np.ndarray], tokens: Tokens, config: RunConfig
) -> ChosenOutputs:
    """Choose the best setting for each half of the prompts by the counts (K P, N, S) of the texts for the other half.

    The objective chooses if it scores generated texts; otherwise, the first metric of the task that does. The halves depend only
    on the texts of the split.
    """
    scored = [metric for metric in task.metrics.values() if metric.counts in of_outputs]
    objective, settings = objective_of(task, config), decoding_settings(config)
    metric = objective if objective in scored else scored[0]
    assert metric.counts is not None
    assert metric.score is not None
    counts = of_outputs[metric.counts]
    by_setting = counts.reshape(len(settings), -1, *counts.shape[1:]).sum(axis=1)
    chosen = cross_fitted(by_setting, metric.score, metric.direction, has_smaller_digest(tokens.digests))
    return ChosenOutputs(settings=settings, chosen=chosen, metric=metric, config=config)
