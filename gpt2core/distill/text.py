"""The words of a text, as the lexical critic, ROUGE-L and deduplication count them."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Return the casefolded runs of letters and digits in a text, after NFC normalisation; `don't` is two words."""
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())
