"""Words of a text: what the lexical critic, ROUGE-L and the search for duplicates all count."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Letters and digits in runs, casefolded; punctuation is none of them, so `don't` is two words.

    One accented letter is the same in one character or in two (Unicode's form C).
    """
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())
