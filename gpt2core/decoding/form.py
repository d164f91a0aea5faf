"""Sonnets by construction: tokens that would leave Shakespeare's rhyme scheme or the metre are never drawn.

Lines consist of words of the CMU dictionary, so that their syllables can be counted and the last ones rhyme, by the rules of
`gpt2core.metrics.form`. A prefix tree of the words' tokens says which tokens can still become such a line.
"""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from gpt2core.data.shakespeare import load_plays
from gpt2core.decoding.guide import Weighted
from gpt2core.metrics.form import (
    LINES,
    RHYMES,
    SYLLABLES,
    last_word,
    pronunciations,
    rhyming_parts,
    syllable_count,
    words_of,
)
from gpt2core.tokenizer import Tokenizer

PULL = 4.0  # added to the logits of words that rhyme where the line could end
LEAST = 3  # occurrences of a word in Shakespeare's plays
SHORT = {
    "a", "ah", "am", "an", "as", "at", "ay", "be", "by", "do", "go", "ha", "he", "i", "if", "in", "is", "it", "lo", "me", "my",
    "no", "o", "of", "oh", "on", "or", "so", "to", "up", "us", "we", "ye",
}  # fmt: skip
UNSTRESSED = {
    "a", "an", "and", "as", "at", "but", "by", "for", "from", "if", "in", "my", "nor", "of", "or", "our", "than", "that", "the",
    "their", "thy", "to", "with", "your",
}  # fmt: skip
LONGEST = 3  # syllables of the last word of a line, so that every line can be completed
PARTNERS = 12  # words that rhyme with the end of a line whose partner comes later
PARTNER = {second: first for first, second in RHYMES}  # line -> the earlier line with which it rhymes
NEVER = 99  # syllables to a word that does not exist
LINE, SPACE = 0, 1  # nodes: before the first word of a line, before another one

PAUSES, STOPS = (b",", b";", b":"), (b".", b"!", b"?")
VOWELS = re.compile(rb"[aeiouy]+")
SELF = re.compile(r"i('|$)")  # "I" and "I'll" are capitalised everywhere


@functools.cache
def lexicon_words() -> list[str]:
    """Return the words of the dictionary that are common in Shakespeare's plays; raise DataError if a package is missing."""
    plays = Counter(word for rows in load_plays().splits.values() for row in rows for word in words_of(row.text))
    common = (word for word, count in plays.items() if count >= LEAST and (len(word) > 2 or word in SHORT))
    return sorted(word for word in common if pronunciations(word))


@dataclass(frozen=True, eq=False)
class Ends:
    """Words that may end a line, the fewest syllables (nodes,) of those at or below each node, and the pull towards them."""

    words: Set[str]
    least: np.ndarray
    pull: float


class Lexicon:
    """A prefix tree of the tokens of words: capitalised ones that begin a line, and ones after a space."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Build the tree in a few seconds; raise DataError if a package is missing."""
        self.pieces = tokenizer.pieces
        self.newline = np.array([self.pieces.index(b"\n")])
        self.pauses, self.stops = (np.array([self.pieces.index(mark) for mark in marks]) for marks in (PAUSES, STOPS))
        self.node: dict[tuple[int, ...], int] = {(): LINE}  # by the tokens so far of a word
        self.word = ["", ""]  # that is complete at each node
        self.next: list[dict[int, int]] = [{}, {}]  # nodes by token
        self.paths: dict[str, list[list[int]]] = defaultdict(list)  # the nodes on the way to a word
        known = lexicon_words()
        spaced = [f" {word.capitalize() if SELF.match(word) else word}" for word in known]
        for root, texts in ((LINE, [word.capitalize() for word in known]), (SPACE, spaced)):
            for word, tokens in zip(known, tokenizer.encode(texts), strict=True):
                self._add(root, word, tuple(tokens))
        self.branches = [(np.array([*nodes], int), np.array([*nodes.values()], int)) for nodes in self.next]
        self.syllables = {word: syllable_count(word) for word in known}
        self.least = self._least(known)
        self.rhyming: dict[tuple[str, ...], set[str]] = defaultdict(set)  # words that may end a line, by rhyme
        for word in known:
            if self.syllables[word] <= LONGEST and word not in UNSTRESSED:
                for part in rhyming_parts(word):
                    self.rhyming[part].add(word)
        rich = (rhymes for rhymes in self.rhyming.values() if len(rhymes) > PARTNERS)
        self.free = self._ends(frozenset().union(*rich), pull=0.0)
        self.ends = functools.lru_cache(maxsize=512)(self._rhyming_with)

    def _add(self, root: int, word: str, tokens: tuple[int, ...]) -> None:
        path = [root]
        for end, token in enumerate(tokens, start=1):
            node = self.node.setdefault(tokens[:end], len(self.word))
            if node == len(self.word):
                self.word.append("")
                self.next.append({})
                self.next[path[-1]][token] = node
            path.append(node)
        self.word[path[-1]] = word
        self.paths[word].append(path)

    def _least(self, chosen: Iterable[str]) -> np.ndarray:
        """Return the fewest syllables (nodes,) of some words at or below each node."""
        least = [NEVER] * len(self.word)
        for word in chosen:
            for path in self.paths[word]:
                for node in path:
                    least[node] = min(least[node], self.syllables[word])
        return np.array(least, np.int16)

    def _ends(self, chosen: Set[str], pull: float = PULL) -> Ends:
        return Ends(chosen, self._least(chosen), pull)

    def _rhyming_with(self, partner: str) -> Ends:
        """Return the words that rhyme with `partner`; if there are none, words that rhyme with many others."""
        rhymes = set().union(*(self.rhyming.get(part, set()) for part in rhyming_parts(partner))) - {partner}
        return self._ends(rhymes) if rhymes else self.free

    def weighted(self, line: Sequence[int], ends: Ends) -> Weighted:
        """Return the tokens with which an unfinished line can still become one with such an end, and their weights.

        The line's tokens may be any. A line that is too long for that can only end.
        """
        *before, unit = self._units(line)
        syllables = sum(map(self._syllables, before))
        node = self.node.get(unit)  # None for punctuation and other words
        options = [] if node is None else [self._continuing(node, syllables, ends)]
        if unit and (node is None or self.word[node]):
            syllables += self._syllables(unit)
            last = next((u for u in (unit, *before[::-1]) if not self._is_mark(u)), ())
            may_end = syllables in SYLLABLES and self._word(last) in ends.words
            following = self._continuing(SPACE, syllables, ends)
            marks = [self.pauses] * bool(may_end or len(following[0])) + [self.stops] * may_end
            marks = [] if self._is_mark(unit) else marks
            options += [following, *((tokens, np.zeros(len(tokens))) for tokens in marks + [self.newline] * may_end)]
        tokens, weights = (np.concatenate(parts) for parts in zip(*options, strict=True))
        return (tokens, weights) if len(tokens) else (self.newline, np.zeros(1))

    def _continuing(self, node: int, syllables: int, ends: Ends) -> Weighted:
        """Return the tokens after a node with which a word can follow `syllables`, so that it or a later one can be last."""
        tokens, nodes = self.branches[node]
        room, least = SYLLABLES[-1] - syllables, ends.least[nodes]
        fits = (self.least[nodes] <= room - ends.least[SPACE]) | (least <= room)
        weights = ends.pull * ((least <= room) & (least + syllables >= SYLLABLES[0]))
        return tokens[fits], weights[fits]

    def _units(self, line: Sequence[int]) -> list[tuple[int, ...]]:
        """Split a line into words with the space before them, and marks; the last unit may be unfinished, or empty."""
        units: list[tuple[int, ...]] = [()]
        for token in line:
            begins = self.text((token,))[:1] == b" " or self._is_mark((token,)) or self._is_mark(units[-1])
            units[-1:] = [units[-1], (token,)] if begins and units[-1] else [(*units[-1], token)]
        return units

    def _is_mark(self, unit: tuple[int, ...]) -> bool:
        return len(unit) == 1 and self.text(unit) in PAUSES + STOPS

    def _word(self, unit: tuple[int, ...]) -> str:
        return self.word[self.node[unit]] if unit in self.node else ""

    def _syllables(self, unit: tuple[int, ...]) -> int:
        """Return the syllables of a unit, by its groups of vowels if it is not in the lexicon."""
        word = self._word(unit)
        return self.syllables[word] if word else len(VOWELS.findall(self.text(unit)))

    def text(self, ids: Sequence[int]) -> bytes:
        """Return the text of tokens; those that only the model has are empty."""
        return b"".join(self.pieces[token] for token in ids if token < len(self.pieces))


@functools.lru_cache(maxsize=4)
def lexicon(tokenizer: Tokenizer) -> Lexicon:
    """Return the lexicon of a tokenizer."""
    return Lexicon(tokenizer)


class SonnetForm:
    """Sample by top-p only what keeps the form of a sonnet: 14 lines, each with 9 to 11 syllables and the rhyme of its partner.

    The words that rhyme are pulled to where the line can end. Of the tokens so weighted, `top_p` of the mass is kept.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self.lexicon, self.prompt = lexicon(tokenizer), prompt

    def weighted(self, new: Sequence[int]) -> Weighted | None:
        """Return the tokens (K,) that may follow the prompt and the new tokens, and what to add to their logits (K,).

        None means that the text has 14 lines. Blank lines do not count.
        """
        *lines, last = self._lines(new)
        lines = [line for line in lines if line]
        if len(lines) >= LINES:
            return None
        partner = PARTNER.get(len(lines))
        rhyme = "" if partner is None else last_word(self.lexicon.text(lines[partner]).decode("utf-8", "replace"))
        return self.lexicon.weighted(last, self.lexicon.ends(rhyme))

    def _lines(self, new: Sequence[int]) -> list[list[int]]:
        lines: list[list[int]] = [[]]
        for token in (*self.prompt, *new):
            if b"\n" in self.lexicon.text((token,)):
                lines.append([])
            else:
                lines[-1].append(token)
        return lines
