"""Texts that are decoded with the form of a sonnet have it, whatever the model writes."""

import pytest

from gpt2core.config import DecodingConfig
from gpt2core.data.shakespeare import load_sonnets
from gpt2core.decoding.generate import generate
from gpt2core.errors import ConfigError
from gpt2core.metrics.baselines import split_given
from gpt2core.metrics.form import form_counts
from gpt2core.metrics.metric import share
from gpt2core.testing import toys

FORM = DecodingConfig(strategy="form", max_new_tokens=800)
MODEL = toys.model(seed=5, shape=toys.SHAPE.model_copy(update={"n_positions": 1024}))
WORDS = toys.tokenizer()


def written(*prompts: str) -> list[str]:
    seeds = range(len(prompts))
    new = generate(MODEL, WORDS.encode(prompts), FORM, seeds=seeds, eos=WORDS.eos, tokenizer=WORDS)
    return [WORDS.decode(ids) for ids in new]


def test_a_random_model_writes_sonnets() -> None:
    given = [split_given(row.text)[0] for row in load_sonnets(None).splits["dev"]][:4]
    texts = written(*(f"{lines}\n" for lines in given))
    shares = {name: share(counts.sum(axis=(0, 1))) for name, counts in form_counts(given, [texts], []).items()}
    assert shares == {"form_rhyme": 1.0, "form_metre": 1.0, "form_lines": 1.0, "copied_lines": 0.0}
    assert all(text.endswith("\n") and text.count("\n") == 11 for text in texts)


def test_it_completes_begun_lines_and_knows_when_a_text_is_complete() -> None:
    line = "Shall I compare thee to a summer's day"
    begun, blank, complete = written(f"{line}\nThou art", f"{line}\n\n\n{line}\n", f"{line}\n" * 14)
    assert (begun.count("\n"), blank.count("\n"), complete) == (13, 12, "")
    assert begun.split("\n")[0].startswith((" ", ",", ";", ":"))


def test_a_line_that_is_already_too_long_ends() -> None:
    assert written("the day " * 9)[0].startswith("\n")


def test_it_needs_the_tokenizer() -> None:
    with pytest.raises(ConfigError, match="The decoder `form` reads the text, so `tokenizer` must be given"):
        generate(MODEL, [[1]], FORM, seeds=[0], eos=0)
