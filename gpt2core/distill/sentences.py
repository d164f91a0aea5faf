"""Where a sentence ends, and which sentences nobody can use. English, by rules; no model and no word lists beyond titles."""

import re
import unicodedata
from collections.abc import Iterator

CLOSING = "\"'\u201d\u2019\u00bb)]}"  # what may stand between the mark that ends a sentence and the space behind it
MARKS = ".?!\u2026"
BROKEN = "\ufffd"  # what bytes decode to that are no UTF-8, as those of a token that holds half a character

#: Words that stand before a name, a number or an example, so that their full stop ends nothing.
ABBREVIATIONS = frozenset(
    re.findall(r"\S+", "mr mrs ms messrs mme mlle dr prof rev hon st mt capt col gen lt sgt e.g eg i.e ie viz cf vs v")
)
TRAILING = frozenset(["etc", "&c", "jr", "sr"])  # their full stop ends nothing either, unless the text ends there

# A run of marks is looked at once, from its start: a text of nothing else is then read in one go.
_END = re.compile(rf"(?<![{MARKS}])[{MARKS}]++[{re.escape(CLOSING)}]*+(?=\s|\Z)")
_VISIBLE, _WORD = re.compile(r"\S"), re.compile(r"\w")
_INITIALS = re.compile(r"(?:[A-Za-z]\.)*[A-HJ-Z]")  # "I" is a word: "So am I."
_STRAIGHT = str.maketrans("\u2018\u2019\u201a\u201b\u2032\u201c\u201d\u201e\u201f\u2033", "'" * 5 + '"' * 5)


def sentences(text: str) -> list[str]:
    """The sentences of a text that end, in order, each with its white space collapsed; what follows the last is left out.

    One ends with . ? or ! and closing quotes or brackets, before white space or the end of the text, and has a word. The
    full stop of an abbreviation or an initial ends none, nor does an ellipsis that goes on in lower case, nor that of "No. 5".
    """
    found, start = [], 0
    for end in _ends(text, final=True):
        found.append(collapse(text[start:end]))
        start = end
    return found


def first_sentence(text: str, *, final: bool = True) -> str | None:
    """The first of `sentences`; None where there is none.

    Where more may follow the text (not `final`), None as long as that could change it: what is returned once is returned
    for all longer texts.
    """
    end = next(_ends(text, final=final), None)
    return None if end is None else collapse(text[:end])


def clean(text: str) -> str:
    """A text in plain form: NFKC, straight quotes, single spaces, none of them before a mark that closes a word."""
    # Quotes first: NFKC would make a space and an accent of some of them.
    plain = unicodedata.normalize("NFKC", text.translate(_STRAIGHT))
    return re.sub(r" (?=[,;:.?!](?!\d)|[)\]}])", "", collapse(plain))


def poison(text: str, limit: int) -> str | None:
    """Why a text can be used by nobody: it is empty, longer than `limit` characters or no UTF-8; None where it can be."""
    if not text.strip():
        return "it is empty"
    if BROKEN in text or any("\ud800" <= character <= "\udfff" for character in text):
        return "it is not valid UTF-8"
    if len(text) > limit:
        return f"it has {len(text)} characters, but must have at most {limit}"
    return None


def collapse(text: str) -> str:
    """The same with one space for each run of white space, and none at either end."""
    return " ".join(text.split())


def _ends(text: str, *, final: bool) -> Iterator[int]:
    """Where sentences end; where more may follow (not `final`), no place that it could change, nor one behind such a place."""
    seen, has_word = 0, False  # how far the text since the last end was looked through, and whether it has a word
    for match in _END.finditer(text):
        following = _VISIBLE.search(text, match.end())
        character = following[0] if following else ""
        if not final and (match.end() == len(text) or (character in ("", BROKEN) and _looks_ahead(text, match))):
            return
        has_word = has_word or _WORD.search(text, seen, match.start()) is not None
        seen = match.end()
        if has_word and _is_end(text, match, character):
            yield match.end()
            has_word = False


def _is_end(text: str, match: re.Match[str], character: str) -> bool:
    """Whether a mark ends the sentence, by the word before it and the first `character` behind its white space, if any."""
    if match[0].startswith(("..", "\u2026")):
        return not character.islower()
    if match[0] != ".":
        return True
    word = _word(text, match)
    if word == "No":
        return not character.isdecimal()
    if word.casefold() in TRAILING:
        return not character
    return word.casefold() not in ABBREVIATIONS and _INITIALS.fullmatch(word) is None


def _looks_ahead(text: str, match: re.Match[str]) -> bool:
    """Whether it takes the character behind the white space to tell."""
    word = _word(text, match)
    return match[0].startswith(("..", "\u2026")) or word == "No" or word.casefold() in TRAILING


def _word(text: str, match: re.Match[str]) -> str:
    """The word before a mark, with the full stops and apostrophes in it."""
    start = match.start()
    while start and (text[start - 1].isalnum() or text[start - 1] in ".&'\u2019"):
        start -= 1
    return text[start : match.start()].strip("'\u2019")
