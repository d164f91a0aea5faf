"""Decoding the slow, obvious way: the whole text again for each token, one row at a time, loops in place of tensors."""

import functools
import math
import re
from collections import Counter

import numpy as np
import torch

from gpt2core.config import DecodingConfig
from gpt2core.decoding.filters import top_p
from gpt2core.decoding.form import LONGEST, PARTNERS, PULL, UNSTRESSED, lexicon_words
from gpt2core.decoding.sample import draw
from gpt2core.metrics.form import RHYMES, last_word, rhyme, rhyming_parts, syllable_count, syllables, words_of
from gpt2core.model import GPT2
from gpt2core.testing.decoders import logits, penalised, sampled, tokenizer


def beam(model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
    k, live, ended = config.num_beams, [(0.0, list(prompt))], []
    for length in range(1, config.max_new_tokens + 1):
        candidates = []
        for score, text in live:
            scaled = torch.tensor(logits(model, text)) / config.temperature
            scores = penalised(scaled.log_softmax(-1).tolist(), text, config)
            candidates += [(score + more, [*text, token]) for token, more in enumerate(scores)]
        candidates = sorted(candidates, key=lambda c: -c[0])[: 2 * k]
        over = [text[-1] == eos or length == config.max_new_tokens for _, text in candidates]
        norm = length**config.length_penalty
        ended += [(s / norm, text) for (s, text), end in zip(candidates[:k], over, strict=False) if end]
        ended = sorted(ended, key=lambda e: -e[0])[:k]
        live = [candidate for candidate, end in zip(candidates, over, strict=True) if not end][:k]
        if not live:
            break
        if len(ended) == k and (config.beam_early_stopping or live[0][0] / norm <= ended[-1][0]):
            break
    best = ended[0][1][len(prompt) :]
    return best[:-1] if best[-1] == eos else best


def contrastive(model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
    row = list(prompt)
    while len(row) < len(prompt) + config.max_new_tokens:
        scores = torch.tensor(penalised(logits(model, row), row, config)) / config.temperature
        probabilities = scores.softmax(-1).tolist()
        candidates = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])[: config.top_k]
        values = {}
        for token in candidates:
            hidden = model(torch.tensor([[*row, token]]))[0]
            alike = max(torch.cosine_similarity(hidden[-1], past, dim=0).item() for past in hidden[:-1])
            values[token] = (1 - config.penalty_alpha) * probabilities[token] - config.penalty_alpha * alike
        token = max(values, key=lambda token: values[token])
        if token == eos:
            break
        row.append(token)
    return row[len(prompt) :]


@functools.cache
def spelled(word: str) -> list[list[int]]:
    """Return the tokens of a word that begins a line, and of one that does not."""
    inside = word.capitalize() if word == "i" or word.startswith("i'") else word
    return tokenizer().encode([word.capitalize(), f" {inside}"])


@functools.cache
def last_words(partner: str) -> set[str]:
    """Return the words that may end a line whose partner ends in this word."""
    able = [word for word in lexicon_words() if syllable_count(word) <= LONGEST and word not in UNSTRESSED]
    sounds = Counter(part for word in able for part in rhyming_parts(word))
    rich = {word for word in able if any(sounds[part] > PARTNERS for part in rhyming_parts(word))}
    return {word for word in able if partner and rhyme(word, partner)} or rich


def chunks(line: list[int]) -> list[list[int]]:
    """Split the tokens of a line into words and marks."""
    parts: list[list[int]] = []
    for token in line:
        text = tokenizer().decode([token])
        if not parts or text.startswith(" ") or is_mark([token]) or is_mark(parts[-1]):
            parts.append([])
        parts[-1].append(token)
    return parts


def is_mark(chunk: list[int]) -> bool:
    return len(chunk) == 1 and tokenizer().pieces[chunk[0]] in (b",", b";", b":", b".", b"!", b"?")


def meaning(chunk: list[int]) -> tuple[str, int]:
    """Return the word of a chunk, if it is one, and its syllables."""
    word = next((word for word in lexicon_words() if chunk in spelled(word)), "")
    raw = b"".join(tokenizer().pieces[token] for token in chunk)
    return word, syllable_count(word) if word else len(re.findall(rb"[aeiouy]+", raw))


def form_weights(text: list[int]) -> dict[int, float]:
    """Return the tokens that may follow a text, each with what is added to its logit: every word is tried."""
    newline = tokenizer().pieces.index(b"\n")
    whole = b"".join(tokenizer().pieces[token] for token in text).decode(errors="replace")
    *lines, _ = whole.split("\n")
    lines = [line for line in lines if line]
    partner = next((last_word(lines[a]) for a, b in RHYMES if b == len(lines)), "")
    wanted, pull = last_words(partner), PULL if partner and any(rhyme(w, partner) for w in lexicon_words()) else 0.0
    shortest = min(map(syllable_count, wanted))
    start = len(text) - text[::-1].index(newline) if newline in text else 0
    parts = chunks(text[start:])
    known = [meaning(part) for part in parts]

    def following(begun: list[int], before: int, place: int) -> dict[int, float]:
        """Try each word, spelled for a place in the line, that goes on from some tokens."""
        options: dict[int, float] = {}
        for word in lexicon_words():
            ids, total = spelled(word)[place], before + syllable_count(word)
            if ids[: len(begun)] == begun and len(ids) > len(begun):
                ends = word in wanted and total <= 11
                if ends or total <= 11 - shortest:
                    options.setdefault(ids[len(begun)], 0.0)
        for token in options:
            under = [w for w in wanted if spelled(w)[place][: len(begun) + 1] == [*begun, token]]
            least = before + min(map(syllable_count, under), default=99)
            options[token] = pull * (9 <= least <= 11)
        return options

    if not parts:
        return following([], 0, 0)
    last, total = parts[-1], sum(count for _, count in known)
    place = 0 if len(parts) == 1 and not tokenizer().decode(last).startswith(" ") else 1
    options = following(last, total - known[-1][1], place)
    is_prefix = bool(options) or any(last == ids[: len(last)] for w in lexicon_words() for ids in spelled(w))
    if known[-1][0] or not is_prefix:
        words = [word for (word, _), part in zip(known, parts, strict=True) if not is_mark(part)]
        may_end = 9 <= total <= 11 and bool(words) and words[-1] in wanted
        more = following([], total, 1)
        marks = ",;:" * (may_end or bool(more)) + ".!?" * may_end
        options |= more | {tokenizer().pieces.index(m.encode()): 0.0 for m in marks if not is_mark(last)}
        options |= {newline: 0.0} if may_end else {}
    return options or {newline: 0.0}


def form(model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
    row = list(prompt)
    for uniform in np.random.default_rng(seed).random(config.max_new_tokens, dtype=np.float32):
        options = form_weights(row)
        raw = penalised(logits(model, row), row, config.but(no_repeat_ngram=0))
        weighted = [score + options.get(token, -math.inf) for token, score in enumerate(raw)]
        scores = penalised(weighted, row, config.but(repetition_penalty=1.0))
        scores = scores if max(scores) > -math.inf else weighted
        probabilities = (torch.tensor([scores]) / config.temperature).softmax(-1)
        share = torch.tensor([[config.top_p]])
        token = int(draw(top_p(probabilities, {"top_p": share}), torch.tensor([uniform])))
        if token == eos:
            break
        row.append(token)
    return row[len(prompt) :]


def best_of(model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[list[int]]:
    seeds = np.random.SeedSequence(seed).generate_state(config.best_of)
    return [sampled(model, prompt, config, int(one), eos) for one in seeds]


def mean_log_probability(model: GPT2, prompt: list[int], text: list[int]) -> float:
    steps = [torch.tensor(logits(model, prompt + text[:end])).log_softmax(-1)[text[end]] for end in range(len(text))]
    return float(sum(steps)) / len(steps) if steps else -math.inf


def best_likelihood(model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
    texts = best_of(model, prompt, config, seed, eos)
    return max(texts, key=lambda text: mean_log_probability(model, prompt, text))


def best_form(model: GPT2, prompt: list[int], config: DecodingConfig, seed: int, eos: int) -> list[int]:
    words, given = tokenizer(), tokenizer().decode(prompt).count("\n")
    texts = best_of(model, prompt, config, seed, eos)
    return max(texts, key=lambda t: (form_of(words.decode(prompt + t), given), mean_log_probability(model, prompt, t)))


def form_of(text: str, given: int) -> float:
    """Return the mean of three shares: whether there are 14 lines, and how many of those not given rhyme and scan."""
    lines = [line for line in text.split("\n") if line.strip()]
    pairs = [(a, b) for a, b in RHYMES if b >= given]
    counted = [(a, b) for a, b in pairs if b >= len(lines) or rhyme(lines[a], lines[b]) is not None]
    rhymes = sum(b < len(lines) and rhyme(lines[a], lines[b]) is True for a, b in counted)
    scanned = [syllables(line) for line in lines[given : given + 11]]
    metre = sum(any(9 <= count <= 11 for count in counts) for counts in scanned)
    known = 11 - sum(not counts and bool(words_of(line)) for counts, line in zip(scanned, lines[given:], strict=False))
    return (float(len(lines) == 14) + rhymes / max(1, len(counted)) + metre / max(1, known)) / 3


SEARCHES = {
    "beam": beam,
    "contrastive": contrastive,
    "form": form,
    "best-form": best_form,
    "best-likelihood": best_likelihood,
}
