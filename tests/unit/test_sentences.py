"""Ends of sentences: hand-made examples, and properties on random texts."""

import time

import pytest
from hypothesis import given, settings, strategies

from gpt2core.distill.sentences import clean, collapse, first_sentence, sentences, why_unusable

many = settings(derandomize=True, max_examples=500, deadline=None)
PIECES = [
    "he", "She", "No", "Mr", "etc", "J", "I", "3", "e.g", ".", "..", "!", "?", "\u2026", '"', "\u201d", ")", "(",
    "'",
]  # fmt: skip
piece = strategies.sampled_from([*PIECES, " ", " ", " ", "\n", "\ufffd", "\u00e9"])
texts = strategies.lists(piece, max_size=25).map("".join)


@pytest.mark.parametrize(("text", "expected"), [
    ("He came. She went!  Why?\nNobody knows", ["He came.", "She went!", "Why?"]),
    ("Mr. Smith met Mrs. Dr. St. Clair, e.g. in Rome, i.e. there.", None),
    ("Apples, pears, etc. were sold. Apples etc.", ["Apples, pears, etc. were sold.", "Apples etc."]),
    ("J. R. R. Tolkien and J.R.R. Tolkien vs. nobody. So am I. Yes.", 3),
    ("It cost 3.5 pounds. See No. 5 there. No. He will not.", 4),
    ('"Go!" (He went.) She said "stay." Then \u201cwhy?\u201d Oh!', 5),
    ("Well... perhaps not. Well... Perhaps. Well\u2026 no. Well\u2026 No.", 6),
    ("What?! Never!!! ", ["What?!", "Never!!!"]), ("... - ! He came.", ["... - ! He came."]),
    ("I saw Mr.", []), ("DON'T. Stop", ["DON'T."]), ("no end here", []), ("", []),
])  # fmt: skip
def test_sentences_end_where_a_reader_says(text: str, expected: list[str] | int | None) -> None:
    found = sentences(text)
    if isinstance(expected, int):
        assert len(found) == expected, found
    else:
        assert found == (expected if expected is not None else [text])
    assert first_sentence(text) == (found[0] if found else None)


@pytest.mark.parametrize(
    "text", ["He came.", 'He came."', "He came. ", "Well... ", "See No. ", "Pears etc. ", "It is 3.", "Well... \ufffd"]
)
def test_a_sentence_end_is_known_only_after_the_next_character(text: str) -> None:
    """Except for a full stop before a space, which is always an end."""
    assert first_sentence(text, final=False) == ("He came." if text == "He came. " else None)
    assert first_sentence(text) == " ".join(text.removesuffix("\ufffd").split())


@many
@given(texts, texts)
def test_the_first_sentence_of_a_text_holds_for_its_continuations(text: str, more: str) -> None:
    known = first_sentence(text, final=False)
    if known is not None:
        # A character that is broken at the end of a text may be whole in a longer one.
        for longer in (text, text + more, text.rstrip("\ufffd") + "\u00e9" + more):
            assert first_sentence(longer) == first_sentence(longer + " ", final=True) == known


@many
@given(texts)
def test_sentences_join_to_the_text_without_its_rest(text: str) -> None:
    found = sentences(text)
    collapsed = " ".join(text.split())
    joined = " ".join(found)
    assert collapsed.startswith(joined)
    assert sentences(collapsed) == found
    assert not sentences(collapsed[len(joined) :])
    assert all(sentence.rstrip("\"'\u201d)")[-1] in ".?!\u2026" for sentence in found)
    assert all(any(character.isalnum() for character in sentence) for sentence in found)


@pytest.mark.parametrize("piece", [" .", ". ", "... a", '." ', ".'", "x.) ", "No. ", ".", "?'"])
@pytest.mark.parametrize("before", ["", "x" * 50_000 + "."])
def test_a_text_of_marks_takes_linear_time(before: str, piece: str) -> None:
    """Models write such texts. With a search that restarts at each mark, one text takes minutes."""
    text, began = before + piece * 50_000 + "a", time.process_time()
    found = sentences(text)
    assert time.process_time() - began < 10
    assert collapse(text).startswith(" ".join(found))


def test_clean_text_is_plain() -> None:
    messy = "He  said , \u201c\ufb01ne \u2019 tis\u2026 \u201d ( so ) \u2018well\u2019 ; at .5 or 3 .5\u00a0% ?"
    assert clean(messy) == "He said, \"fine ' tis... \" ( so) 'well'; at .5 or 3 .5 %?"
    assert clean("\u00b4 \uff21\n") == "\u0301 A"
    assert clean("") == ""


@many
@given(strategies.text())
def test_cleaning_is_idempotent(text: str) -> None:
    assert clean(clean(text)) == clean(text)


def test_unusable_texts_get_a_reason() -> None:
    assert why_unusable("A good one.", 11) is None
    assert why_unusable("A good one.", 10) == "it has 11 characters, but must have at most 10"
    assert why_unusable(" \n", 10) == "it is empty"
    assert why_unusable("half \ufffd", 99) == why_unusable("half \ud83d", 99) == "it is not valid UTF-8"
