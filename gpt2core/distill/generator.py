"""Generation of contexts and candidates (Jung et al. 2023, arXiv 2305.16635, section 3.2; rewriting by a student, section 3.4).

A shard is a function of the generator, the configuration, its round, its number and its input.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, zip_longest
from typing import Any

import numpy as np
import torch

from gpt2core.config import DecodingConfig
from gpt2core.data.corpus import Row
from gpt2core.decoding.generate import generate
from gpt2core.decoding.sample import Stop
from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.sentences import BROKEN, CLOSING, MARKS, collapse, first_sentence, sentences, why_unusable
from gpt2core.errors import DataError
from gpt2core.model import GPT2
from gpt2core.tokenizer import Tokenizer

Record = dict[str, Any]

REWRITE = "{}\nIn other words:"  # the prompt of a student; its continuation starts with a space
MIN_WORDS = 4  # of a context
SENTENCES = 3  # expected in a text, before more texts are generated
ATTEMPTS = 8  # at generating more texts, until a shard has its contexts
#: Rows that are continued together, at most. On one core with gpt2-nano, 512 rows were not faster, and 1,024 were a tenth
#: faster for twice the memory; not measured on a GPU.
ROWS = {"cpu": 256, "cuda": 4096}
MEMORY = 2**30  # bytes for the keys, values and probabilities of these rows on a CPU; on a GPU, a quarter of its memory
_CONTEXT, _CANDIDATE = 0, 1  # the stages, as parts of a row's seed


@dataclass(frozen=True, eq=False)
class Generator:
    """A language model with its tokenizer, and tables of its tokens for sampling."""

    model: GPT2
    tokenizer: Tokenizer

    @cached_property
    def texts(self) -> list[str]:
        """The text of each token (V,); empty for EOS and for ids that the tokenizer does not know."""
        tokens = range(self.model.config.vocab_size)
        return list(self.tokenizer.backend.decode_batch([[token] for token in tokens], skip_special_tokens=True))

    @cached_property
    def newlines(self) -> list[int]:
        """The tokens that contain a line break."""
        return [token for token, text in enumerate(self.texts) if "\n" in text or "\r" in text]

    @cached_property
    def stop(self) -> Stop:
        """Stops a row that has a complete sentence."""
        return Stop(
            closes=np.array([text.endswith(tuple(MARKS + CLOSING)) for text in self.texts]),
            opens=np.array([text[:1].isspace() for text in self.texts]),
            done=lambda ids: first_sentence(self.tokenizer.decode(ids), final=False) is not None,
        )

    def rows_at_once(self, length: int) -> int:
        """Return how many rows of `length` tokens fit into the memory for them, at most ROWS."""
        shape, weight = self.model.config, self.model.wte.weight
        cached = 2 * shape.n_layer * shape.n_embd * length * weight.element_size()
        on_gpu = weight.device.type == "cuda"
        sampling = (64 if on_gpu else 24) * shape.vocab_size  # bytes for filtering the vocabulary
        memory = torch.cuda.get_device_properties(weight.device).total_memory // 4 if on_gpu else MEMORY
        return max(1, min(ROWS["cuda" if on_gpu else "cpu"], memory // (cached + sampling)))

    def sample(
        self, prompts: Sequence[Sequence[int]], config: DecodingConfig, seeds: Sequence[int], *, first: bool = False
    ) -> list[list[int]]:
        """Return a continuation of each prompt without line breaks; with `first`, stop after its first sentence.

        Prompts of similar length are continued together, which changes no text.
        """
        continuations: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        size = self.rows_at_once(max(map(len, prompts), default=0) + config.max_new_tokens)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            batch = generate(
                self.model,
                [prompts[row] for row in part],
                config,
                seeds=[seeds[row] for row in part],
                eos=self.tokenizer.stops,
                suppress=self.newlines,
                stop=self.stop if first else None,
                tokenizer=self.tokenizer,
            )
            for row, ids in zip(part, batch, strict=True):
                continuations[row] = ids
        return continuations


def prefixes_of(rows: Sequence[Row], config: GenerationConfig) -> list[str]:
    """Return the distinct first `prefix_words` words of the longer sentences of some texts, in order.

    A text without a complete sentence counts as one sentence. Stage directions, speakers' names and headings of acts and scenes
    are skipped. Raises DataError if there is no prefix.
    """
    texts = (_spoken(text) for row in rows for text in (row.text, row.second))
    split = (sentence.split() for text in texts for sentence in sentences(text) or [text])
    count = config.prefix_words
    prefixes = list(dict.fromkeys(" ".join(words[:count]) for words in split if len(words) > count))
    if not prefixes:
        raise DataError(
            f"None of the {len(rows)} texts of `source` {config.source!r} has a sentence of more than {count} words; "
            "set a smaller `prefix_words`, or another `source`"
        )
    return prefixes


def _spoken(text: str) -> str:
    """Return the speeches of a play: its text without notes in brackets and lines without a lower-case letter."""
    lines = re.sub(r"\[[^\]]*\]", " ", text).split("\n")
    kept = [line for line in lines if re.search(r"[^\W\d_A-Z]", line) and not re.match(r"\s*(?:ACT|SCENE)\b", line)]
    return "\n".join(kept)


def generate_contexts(
    generator: Generator, prefixes: Sequence[str], config: GenerationConfig, *, count: int, round: int, number: int
) -> tuple[list[Record], list[Record]]:
    """Generate `count` different sentences of at least MIN_WORDS words from random prefixes; fewer after ATTEMPTS.

    The first sentences of all texts come before the second ones, so that contexts come from many texts. Returns rows of the
    schemas CONTEXTS and QUARANTINE, for shard `number`.
    """
    name = f"r{round}-{number:05d}"
    seed = np.random.SeedSequence(config.seed, spawn_key=(_CONTEXT, round, number))
    order = np.random.default_rng(seed).permutation(len(prefixes))
    rows: dict[str, Record] = {}
    bad: list[Record] = []
    used = 0
    for attempt in range(ATTEMPTS):
        wanted = -(-(count - len(rows)) // (SENTENCES * config.samples))
        drawn = [prefixes[order[place % len(order)]] for place in range(used, used + wanted)] * config.samples
        used += wanted
        seeds = [_seed(config, _CONTEXT, round, number, attempt, row) for row in range(len(drawn))]
        for row, prefix, sentence in _in_turn(drawn, _continued(generator, drawn, config, seeds)):
            if len(rows) == count:
                break
            error = why_unusable(sentence, config.max_characters)
            if error:
                bad.append(_quarantined("contexts", f"{name}/{attempt}/{row}", sentence, error))
            elif len(sentence.split()) >= MIN_WORDS:
                rows.setdefault(_bare(sentence), {"prefix": prefix, "text": sentence})
    return [{"context": f"{name}-{index:03d}", **row} for index, row in enumerate(rows.values())], bad


def _continued(
    generator: Generator, prefixes: Sequence[str], config: GenerationConfig, seeds: Sequence[int]
) -> list[str]:
    """Return the continuation of each prefix; empty for a prefix that fills the model's context."""
    room = generator.model.config.n_positions
    prompts = {row: ids for row, ids in enumerate(generator.tokenizer.encode(prefixes)) if len(ids) < room}
    decoding = DecodingConfig(
        temperature=config.context_temperature, top_p=config.top_p, max_new_tokens=config.context_tokens
    )
    continuations = generator.sample(list(prompts.values()), decoding, [seeds[row] for row in prompts])
    texts = dict(zip(prompts, map(generator.tokenizer.decode, continuations), strict=True))
    return [texts.get(row, "") for row in range(len(prefixes))]


def _in_turn(prefixes: Sequence[str], continuations: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield row, prefix and sentence: the first sentence of each text, then the second sentences, and so on."""
    texts = [sentences(prefix + text) for prefix, text in zip(prefixes, continuations, strict=True)]
    for turn in zip_longest(*texts):
        for row, sentence in enumerate(turn):
            if sentence is not None:
                yield row, prefixes[row], sentence


def generate_candidates(
    generator: Generator,
    contexts: Sequence[Record],
    config: GenerationConfig,
    *,
    round: int,
    number: int,
    rewrite: bool,
) -> tuple[list[Record], list[Record]]:
    """Continue each context, or let a student `rewrite` it, `config.candidates` times, and keep each first sentence.

    Returns rows of the schemas CANDIDATES and QUARANTINE, for shard `number`. `tokens` counts the tokens that were sampled.
    `reason` is empty, `unfinished` if no sentence ends, or `repeated` if an earlier candidate of the context, or the context
    that is rewritten, has the same words. A context that leaves no room for `config.candidate_tokens` goes to quarantine.
    """
    texts = [str(context["text"]) for context in contexts]
    prompts = generator.tokenizer.encode([REWRITE.format(text) for text in texts] if rewrite else texts)
    room = generator.model.config.n_positions - config.candidate_tokens
    rule = f"tokens, but must have 1 to {room} to leave room for {config.candidate_tokens}"
    fitting, bad = [], []
    for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if 0 < len(prompt) <= room:
            fitting.append(index)
        else:
            name = contexts[index]["context"]
            bad.append(_quarantined("candidates", name, text, f"its prompt has {len(prompt)} {rule}"))
    decoding = DecodingConfig(
        temperature=config.temperature,
        top_p=config.top_p,
        no_repeat_ngram=config.no_repeat_ngram,
        max_new_tokens=config.candidate_tokens,
    )
    keys = [(index, candidate) for index in fitting for candidate in range(config.candidates)]
    seeds = [_seed(config, _CANDIDATE, round, number, *key) for key in keys]
    continuations = generator.sample([prompts[index] for index, _ in keys], decoding, seeds, first=True)
    rows: list[Record] = []
    seen = {index: {_bare(texts[index])} if rewrite else set() for index in fitting}
    for (index, candidate), ids in zip(keys, continuations, strict=True):
        name = str(contexts[index]["context"])
        text, reason, error = _checked(generator.tokenizer.decode(ids), seen[index], config)
        if error:
            bad.append(_quarantined("candidates", f"{name}/{candidate}", text, error))
        else:
            rows.append({"context": name, "number": candidate, "text": text, "tokens": len(ids), "reason": reason})
    return rows, bad


def _checked(text: str, seen: set[str], config: GenerationConfig) -> tuple[str, str, str | None]:
    """Return the first sentence of a continuation, the reason why it is in no pair, and its error; add its words to `seen`."""
    first = first_sentence(text)
    if first is None:  # sampling stopped before the end of a sentence, perhaps within a character: not an error
        kept = collapse(text.rstrip(BROKEN))
        return kept, "unfinished", why_unusable(kept, len(kept)) if kept else None
    error = why_unusable(first, config.max_characters)
    if error:
        return first, "unfinished", error
    words = _bare(first)
    repeated = words in seen
    seen.add(words)
    return first, "repeated" if repeated else "", None


def pairs_of(contexts: Sequence[Record], candidates: Iterable[Record], *, round: int, rewrite: bool) -> list[Record]:
    """Pair the candidates without a `reason`: every two of one context, or with `rewrite` each with the context.

    Returns the first columns of the schema PAIRS, which need no critic.
    """
    usable: dict[str, list[Record]] = {str(context["context"]): [] for context in contexts}
    for candidate in candidates:
        if not candidate["reason"]:
            usable[candidate["context"]].append(candidate)
    rows = []
    for context in contexts:
        name = str(context["context"])
        own = sorted(usable[name], key=lambda candidate: int(candidate["number"]))
        original = {"number": -1, "text": context["text"]}
        for first, second in ((original, candidate) for candidate in own) if rewrite else combinations(own, 2):
            label = "ctx" if rewrite else f"{first['number']:03d}"
            rows.append(
                {
                    "id": f"{name}-{label}-{second['number']:03d}",
                    "context": name,
                    "round": round,
                    "first": first["number"],
                    "second": second["number"],
                    "sentence1": first["text"],
                    "sentence2": second["text"],
                }
            )
    return rows


def _seed(config: GenerationConfig, *key: int) -> int:
    """Return the seed of a row, from the configuration's seed and the row's key."""
    return int(np.random.SeedSequence(config.seed, spawn_key=key).generate_state(1, np.uint64)[0])


def _bare(text: str) -> str:
    """Return the words of a text, without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _quarantined(stage: str, name: str, text: str, error: str) -> Record:
    written = text.encode("utf-8", "backslashreplace").decode("utf-8")  # Parquet takes no lone surrogates
    return {"stage": stage, "id": name, "text": written, "error": error}
