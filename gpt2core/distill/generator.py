"""How contexts and their candidates are generated (Jung et al. 2023, arXiv 2305.16635, section 3.2; the rewriting by the student
of section 3.4). A shard is a function of the generator, the configuration, its round, its number and what it is given.
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
from gpt2core.decoding.stop import Stop
from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.sentences import BROKEN, CLOSING, MARKS, collapse, first_sentence, poison, sentences
from gpt2core.errors import DataError
from gpt2core.model import GPT2
from gpt2core.tokenizer import Tokenizer

Record = dict[str, Any]

REWRITE = "{}\nIn other words:"  # what a student continues; the continuation starts with a space
WORDS = 4  # of a context, at least
SENTENCES = 3  # expected of a text, before more texts are generated
ATTEMPTS = 8  # to generate more texts, until a shard has its contexts
#: Rows that are continued together, at most. On one core with gpt2-nano, 512 were no faster, and 1,024 a tenth faster for
#: twice the memory; on a GPU it was not measured.
ROWS = {"cpu": 256, "cuda": 4096}
MEMORY = {"cpu": 2**30, "cuda": 2**34}  # bytes that their keys, values and probabilities may take
_CONTEXT, _CANDIDATE = 0, 1  # the stages, as seeds have them


@dataclass(frozen=True, eq=False)
class Generator:
    """A language model with its tokenizer, and what sampling needs to know of its tokens."""

    model: GPT2
    tokenizer: Tokenizer

    @cached_property
    def texts(self) -> list[str]:
        """The text of each token (V,); empty for EOS and for ids that the tokenizer does not know."""
        tokens = range(self.model.config.vocab_size)
        texts: list[str] = self.tokenizer.backend.decode_batch([[token] for token in tokens], skip_special_tokens=True)
        return texts

    @cached_property
    def newlines(self) -> list[int]:
        """The tokens that hold a line break."""
        return [token for token, text in enumerate(self.texts) if "\n" in text or "\r" in text]

    @cached_property
    def stop(self) -> Stop:
        """Stops a row that holds a whole sentence."""
        return Stop(
            closes=torch.tensor([text.endswith(tuple(MARKS + CLOSING)) for text in self.texts]),
            opens=torch.tensor([text[:1].isspace() for text in self.texts]),
            done=lambda ids: first_sentence(self.tokenizer.decode(ids), final=False) is not None,
        )

    def rows_at_once(self, length: int) -> int:
        """How many rows of `length` tokens fit MEMORY, at most ROWS."""
        shape, weight = self.model.config, self.model.wte.weight
        cached = 2 * shape.n_layer * shape.n_embd * length * weight.element_size()
        drawing = 6 * 4 * shape.vocab_size  # six numbers of float32 for each token
        device = weight.device.type if weight.device.type in MEMORY else "cpu"
        return max(1, min(ROWS[device], MEMORY[device] // (cached + drawing)))

    def sample(
        self, prompts: Sequence[Sequence[int]], config: DecodingConfig, seeds: Sequence[int], *, first: bool = False
    ) -> list[list[int]]:
        """Continue prompts without a line break, to the end of the first sentence if only the `first` is wanted.

        Rows of like length are continued together, which changes no text.
        """
        new: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        longest = max(map(len, prompts), default=0) + config.max_new_tokens
        size = self.rows_at_once(longest)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            found = generate(
                self.model,
                [prompts[row] for row in part],
                config,
                seeds=[seeds[row] for row in part],
                eos=self.tokenizer.stops,
                suppress=self.newlines,
                stop=self.stop if first else None,
            )
            for row, ids in zip(part, found, strict=True):
                new[row] = ids
        return new


def prefixes_of(rows: Sequence[Row], config: GenerationConfig) -> list[str]:
    """The first `prefix_words` words of each sentence of some texts that goes on behind them, each once, in order.

    A text without a whole sentence is taken as one. Stage directions, the names of speakers and the headings of acts and
    scenes are no sentences. Raises DataError where there is no prefix.
    """
    texts = (_spoken(text) for row in rows for text in (row.text, row.second))
    split = (sentence.split() for text in texts for sentence in sentences(text) or [text])
    count = config.prefix_words
    found = dict.fromkeys(" ".join(words[:count]) for words in split if len(words) > count)
    if not found:
        raise DataError(
            f"None of the {len(rows)} texts of `source` {config.source!r} has a sentence of more than {count} words, "
            "which its prefix needs: give a smaller `prefix_words` or another `source`"
        )
    return list(found)


def _spoken(text: str) -> str:
    """The speeches of a play: its text without notes in brackets and lines without a small letter."""
    lines = re.sub(r"\[[^\]]*\]", " ", text).split("\n")
    kept = [line for line in lines if re.search(r"[^\W\d_A-Z]", line) and not re.match(r"\s*(?:ACT|SCENE)\b", line)]
    return "\n".join(kept)


def generate_contexts(
    generator: Generator, prefixes: Sequence[str], config: GenerationConfig, *, count: int, round: int, number: int
) -> tuple[list[Record], list[Record]]:
    """Generate `count` different sentences of at least WORDS words from prefixes drawn at random; fewer after ATTEMPTS.

    The first sentence of each text comes before the second of any, so that contexts are of many texts. Returns rows of
    the schemas CONTEXTS and QUARANTINE, for shard `number`.
    """
    name = f"r{round}-{number:05d}"
    order = _stream(config, _CONTEXT, round, number).permutation(len(prefixes))
    rows: dict[str, Record] = {}
    bad: list[Record] = []
    taken = 0
    for attempt in range(ATTEMPTS):
        some = -(-(count - len(rows)) // (SENTENCES * config.samples))
        drawn = [prefixes[order[place % len(order)]] for place in range(taken, taken + some)] * config.samples
        taken += some
        seeds = [_seed(config, _CONTEXT, round, number, attempt, row) for row in range(len(drawn))]
        for row, prefix, sentence in _in_turn(drawn, _continued(generator, drawn, config, seeds)):
            if len(rows) == count:
                break
            error = poison(sentence, config.max_characters)
            if error:
                bad.append(_quarantined("contexts", f"{name}/{attempt}/{row}", sentence, error))
            elif len(sentence.split()) >= WORDS:
                rows.setdefault(_bare(sentence), {"prefix": prefix, "text": sentence})
    return [{"context": f"{name}-{index:03d}", **row} for index, row in enumerate(rows.values())], bad


def _continued(
    generator: Generator, prefixes: Sequence[str], config: GenerationConfig, seeds: Sequence[int]
) -> list[str]:
    """The continuation of each prefix; empty for one that fills the model's context."""
    room = generator.model.config.n_positions
    prompts = {row: ids for row, ids in enumerate(generator.tokenizer.encode(prefixes)) if len(ids) < room}
    decoding = DecodingConfig(
        temperature=config.context_temperature, top_p=config.top_p, max_new_tokens=config.context_tokens
    )
    found = generator.sample(list(prompts.values()), decoding, [seeds[row] for row in prompts])
    texts = dict(zip(prompts, map(generator.tokenizer.decode, found), strict=True))
    return [texts.get(row, "") for row in range(len(prefixes))]


def _in_turn(prefixes: Sequence[str], continuations: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Row, prefix and sentence of each text in turn: the first sentences, then the second ones, and so on."""
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
    """Continue each context, or let a student `rewrite` it, `config.candidates` times, and keep the first sentence.

    Returns rows of the schemas CANDIDATES and QUARANTINE, for shard `number`. `tokens` of a row are those that were drawn;
    its `reason` is empty, `unfinished` where no sentence ends, or `repeated` where it says what an earlier candidate of the
    same context says, or the context that it rewrites. A context that leaves no room for all tokens goes to quarantine.
    """
    texts = [str(context["text"]) for context in contexts]
    prompts = generator.tokenizer.encode([REWRITE.format(text) for text in texts] if rewrite else texts)
    room = generator.model.config.n_positions - config.candidate_tokens
    fitting = [index for index, prompt in enumerate(prompts) if 0 < len(prompt) <= room]
    bad = [
        _quarantined(
            "candidates",
            contexts[index]["context"],
            texts[index],
            f"its prompt has {len(prompts[index])} tokens, but must have 1 to {room} to leave room for "
            f"{config.candidate_tokens}",
        )
        for index in sorted(set(range(len(texts))) - set(fitting))
    ]
    decoding = DecodingConfig(
        temperature=config.temperature,
        top_p=config.top_p,
        no_repeat_ngram=config.no_repeat_ngram,
        max_new_tokens=config.candidate_tokens,
    )
    keys = [(index, candidate) for index in fitting for candidate in range(config.candidates)]
    seeds = [_seed(config, _CANDIDATE, round, number, *key) for key in keys]
    found = generator.sample([prompts[index] for index, _ in keys], decoding, seeds, first=True)
    rows: list[Record] = []
    seen = {index: {_bare(texts[index])} if rewrite else set() for index in fitting}
    for (index, candidate), ids in zip(keys, found, strict=True):
        name = str(contexts[index]["context"])
        text, reason, error = _checked(generator.tokenizer.decode(ids), seen[index], config)
        if error:
            bad.append(_quarantined("candidates", f"{name}/{candidate}", text, error))
        else:
            row = {"context": name, "number": candidate, "text": text, "tokens": len(ids), "reason": reason}
            rows.append(row)
    return rows, bad


def _checked(text: str, seen: set[str], config: GenerationConfig) -> tuple[str, str, str | None]:
    """The sentence of a continuation, the reason why it is in no pair, and its error; its words are added to `seen`."""
    first = first_sentence(text)
    if first is None:  # cut off, anywhere and at any length, or at an end before its first word: no fault of the text
        kept = collapse(text.rstrip(BROKEN))
        return kept, "unfinished", poison(kept, len(kept)) if kept else None
    error = poison(first, config.max_characters)
    if error:
        return first, "unfinished", error
    words = _bare(first)
    repeated = words in seen
    seen.add(words)
    return first, "repeated" if repeated else "", None


def pairs_of(contexts: Sequence[Record], candidates: Iterable[Record], *, round: int, rewrite: bool) -> list[Record]:
    """Every two candidates of one context, or the context with each candidate that rewrites it; those without a `reason`.

    Returns the first columns of the schema PAIRS, those that need no critic.
    """
    usable: dict[str, list[Record]] = {str(context["context"]): [] for context in contexts}
    for candidate in candidates:
        if not candidate["reason"]:
            usable[candidate["context"]].append(candidate)
    rows = []
    for context in contexts:
        name = str(context["context"])
        own = sorted(usable[name], key=lambda candidate: int(candidate["number"]))
        itself = {"number": -1, "text": context["text"]}
        for first, second in ((itself, one) for one in own) if rewrite else combinations(own, 2):
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


def _stream(config: GenerationConfig, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))


def _seed(config: GenerationConfig, *key: int) -> int:
    """The seed of one row, from the configuration's seed and the row's key."""
    return int(np.random.SeedSequence(config.seed, spawn_key=key).generate_state(1, np.uint64)[0])


def _bare(text: str) -> str:
    """The words of a text, without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _quarantined(stage: str, name: str, text: str, error: str) -> Record:
    # Parquet takes no lone surrogates.
    written = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return {"stage": stage, "id": name, "text": written, "error": error}
