"""Rules that find the ends of English sentences, without a model or word lists beyond titles, and reject unusable texts."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

CLOSING = "\"'\u201d\u2019\u00bb)]}"  # may stand between the mark that ends a sentence and the white space after it
MARKS = ".?!\u2026"
BROKEN = "\ufffd"  # what invalid UTF-8 decodes to, such as a token that holds half a character

#: Words that stand before a name, a number or an example: their full stop does not end a sentence.
ABBREVIATIONS = frozenset(
    re.findall(r"\S+", "mr mrs ms messrs mme mlle dr prof rev hon st mt capt col gen lt sgt e.g eg i.e ie viz cf vs v")
)
TRAILING = frozenset(["etc", "&c", "jr", "sr"])  # their full stop ends a sentence only at the end of the text

# A run of marks is matched once, from its start, so that a text of nothing but marks takes linear time.
_END = re.compile(rf"(?<![{MARKS}])[{MARKS}]++[{re.escape(CLOSING)}]*+(?=\s|\Z)")
_VISIBLE, _WORD = re.compile(r"\S"), re.compile(r"\w")
_INITIALS = re.compile(r"(?:[A-Za-z]\.)*[A-HJ-Z]")  # "I" is a word: "So am I."
_STRAIGHT = str.maketrans("\u2018\u2019\u201a\u201b\u2032\u201c\u201d\u201e\u201f\u2033", "'" * 5 + '"' * 5)


def sentences(text: str) -> list[str]:
    """Return the complete sentences of a text, each with white space collapsed; text after the last one is dropped.

    A sentence has a word and ends with . ? or ! and closing quotes or brackets, before white space or the end of the text. The
    full stop of an abbreviation, an initial or "No. 5" does not end it, nor does an ellipsis before a lower-case letter.
    """
    ends = list(_ends(text, final=True))
    return [collapse(text[start:end]) for start, end in pairwise([0, *ends])]


def first_sentence(text: str, *, final: bool = True) -> str | None:
    """Return the first of `sentences`, or None if there is none.

    With `final` false, more text may follow: None is returned until no continuation can change the result.
    """
    end = next(_ends(text, final=final), None)
    return None if end is None else collapse(text[:end])


def clean(text: str) -> str:
    """Return a text in NFKC with straight quotes and single spaces, none of them before closing punctuation."""
    # Quotes first: NFKC would turn some of them into a space and an accent.
    plain = unicodedata.normalize("NFKC", text.translate(_STRAIGHT))
    return re.sub(r" (?=[,;:.?!](?!\d)|[)\]}])", "", collapse(plain))


def why_unusable(text: str, limit: int) -> str | None:
    """Say why a text cannot be used: it is empty, not UTF-8, or longer than `limit` characters; return None if it can."""
    if not text.strip():
        return "it is empty"
    if BROKEN in text or any("\ud800" <= character <= "\udfff" for character in text):
        return "it is not valid UTF-8"
    if len(text) > limit:
        return f"it has {len(text)} characters, but must have at most {limit}"
    return None


def collapse(text: str) -> str:
    """Return a text with each run of white space replaced by one space, and none at either end."""
    return " ".join(text.split())


def _ends(text: str, *, final: bool) -> Iterator[int]:
    """Yield where sentences end. If more text may follow (not `final`), stop before the first end that it could change."""
    checked, has_word = 0, False  # how far the current sentence was searched for a word, and whether it has one
    for match in _END.finditer(text):
        following = _VISIBLE.search(text, match.end())
        character = following[0] if following else ""
        if not final and (match.end() == len(text) or (character in ("", BROKEN) and _needs_following(text, match))):
            return
        has_word = has_word or _WORD.search(text, checked, match.start()) is not None
        checked = match.end()
        if has_word and _is_end(text, match, character):
            yield match.end()
            has_word = False


def _is_end(text: str, match: re.Match[str], following: str) -> bool:
    """Whether a mark ends the sentence, given the word before it and the first character `following` its white space."""
    if match[0].startswith(("..", "\u2026")):
        return not following.islower()
    if match[0] != ".":
        return True
    word = _word_before(text, match)
    if word == "No":
        return not following.isdecimal()
    if word.casefold() in TRAILING:
        return not following
    return word.casefold() not in ABBREVIATIONS and _INITIALS.fullmatch(word) is None


def _needs_following(text: str, match: re.Match[str]) -> bool:
    """Whether `_is_end` depends on the following character."""
    word = _word_before(text, match)
    return match[0].startswith(("..", "\u2026")) or word == "No" or word.casefold() in TRAILING


def _word_before(text: str, match: re.Match[str]) -> str:
    """Return the word before a mark, with the full stops and apostrophes in it."""
    start = match.start()
    while start and (text[start - 1].isalnum() or text[start - 1] in ".&'\u2019"):
        start -= 1
    return text[start : match.start()].strip("'\u2019")
