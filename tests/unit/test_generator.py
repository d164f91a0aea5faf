"""Shards of contexts, candidates and pairs: their contents, and that each depends only on its number."""

import re
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from gpt2core.config import DecodingConfig, ModelConfig, RunConfig
from gpt2core.data.corpus import Row
from gpt2core.data.shakespeare import load_plays
from gpt2core.decoding.generate import generate
from gpt2core.distill import generator, shards
from gpt2core.distill.config import GenerationConfig
from gpt2core.distill.generator import REWRITE, Generator, Record, generate_candidates, generate_contexts, prefixes_of
from gpt2core.distill.sentences import first_sentence, sentences
from gpt2core.errors import DataError
from gpt2core.precision import for_generation
from gpt2core.testing import toys
from gpt2core.tokenizer import Tokenizer
from gpt2core.weights import load_model, model_folder
from trainables.candidates.actors import _generator

CONFIG = GenerationConfig(candidates=6, context_tokens=60, samples=2)


@pytest.fixture(scope="module")
def nano() -> Generator:
    return Generator(load_model("gpt2-nano").train(False), Tokenizer.load(model_folder("gpt2-nano")))


@pytest.fixture(scope="module")
def prefixes() -> list[str]:
    return prefixes_of(load_plays().splits["dev"], CONFIG)


@pytest.fixture(scope="module")
def contexts(nano: Generator, prefixes: list[str]) -> list[Record]:
    return generate_contexts(nano, prefixes, CONFIG, count=24, round=1, number=0)[0]


@pytest.fixture
def toy() -> Generator:
    return Generator(toys.model(seed=3), toys.tokenizer())


def says(monkeypatch: pytest.MonkeyPatch, texts: list[str | list[int]]) -> None:
    def sample(self: Generator, prompts: list[list[int]], *_: object, **__: object) -> list[list[int]]:
        assert len(prompts) == len(texts)
        return [self.tokenizer.encode([text])[0] if isinstance(text, str) else text for text in texts]

    monkeypatch.setattr(Generator, "sample", sample)


def test_prefixes_are_the_first_words_of_speeches() -> None:
    play = """ACT I. The beginning of it all.

SCENE 2. A room in the castle.

[Enter HAMLET, and the rest
of them all. He sits down there.]

KING OF FRANCE.
Now is the winter of our discontent
Made glorious. [Aside.] Not I.
Now is the other, really. Where art thou going?
"""
    question = Row(id="2", text="how do I sing", second="What is  the\ntime?")
    rows = [Row(id="1", text=play), question, Row(id="3", text="")]
    assert prefixes_of(rows, CONFIG) == ["Now is the", "Where art thou", "how do I", "What is the"]
    assert prefixes_of(rows, CONFIG.but(prefix_words=1)) == ["Now", "Not", "Where", "how", "What"]
    with pytest.raises(DataError, match=r"None of the 3 texts of `source` 'pretraining' .* smaller `prefix_words`"):
        prefixes_of(rows, CONFIG.but(prefix_words=20))


def test_prefixes_of_the_plays_have_no_names_or_directions(prefixes: list[str]) -> None:
    assert len(prefixes) == len(set(prefixes)) > 500
    assert all(len(prefix.split()) == 3 for prefix in prefixes)
    assert not any("[" in prefix or prefix.isupper() for prefix in prefixes)


def test_contexts_are_distinct_complete_sentences_of_many_texts(contexts: list[Record], prefixes: list[str]) -> None:
    assert [context["context"] for context in contexts] == [f"r1-00000-{index:03d}" for index in range(24)]
    assert len({context["text"].casefold() for context in contexts}) == 24
    for context in contexts:
        assert sentences(context["text"]) == [context["text"]]
        assert len(context["text"].split()) >= 4
        assert context["prefix"] in prefixes
    # 24 of 3 sentences each of 2 samples each: 4 prefixes, and all first sentences come first.
    assert len({context["prefix"] for context in contexts[:8]}) == 4
    assert all(context["text"].startswith(context["prefix"]) for context in contexts[:3])


def test_there_are_fewer_contexts_if_texts_are_unusable(monkeypatch: pytest.MonkeyPatch, toy: Generator) -> None:
    says(monkeypatch, [" love is a rose. No end", " love is as a rose! Nor"])
    rows, bad = generate_contexts(toy, ["thy"], CONFIG, count=4, round=2, number=7)
    assert [row["text"] for row in rows] == ["thy love is a rose.", "thy love is as a rose!"]
    assert (rows[1]["context"], bad) == ("r2-00007-001", [])
    rows, bad = generate_contexts(toy, ["thy"], CONFIG.but(max_characters=20), count=4, round=2, number=7)
    assert len(rows) == 1
    assert bad[0]["error"] == "it has 22 characters, but must have at most 20"


def test_a_prefix_that_fills_the_context_does_not_stop_others(toy: Generator) -> None:
    prefix = "rose " * 300 + "nor death. And thy love shall never dim."
    rows, _ = generate_contexts(toy, [prefix], CONFIG.but(max_characters=9999), count=2, round=0, number=0)
    assert [len(row["text"].split()) for row in rows] == [302, 6]


def test_a_shard_is_a_function_of_its_number(nano: Generator, prefixes: list[str]) -> None:
    """So a longer job starts with the shards of a shorter one, and each shard can be made alone."""

    def shard(number: int, config: GenerationConfig = CONFIG, round: int = 1) -> list[Record]:
        own, bad = generate_contexts(nano, prefixes, config, count=6, round=round, number=number)
        rows, worse = generate_candidates(nano, own, config, round=round, number=number, rewrite=False)
        return [*own, *bad, *rows, *worse]

    job = [shard(number) for number in range(4)]
    assert shard(3) == job[3] != job[2]
    assert shard(0) == job[0]
    texts = [{row["text"] for row in made} for made in (*job, shard(0, round=2), shard(0, CONFIG.but(seed=1)))]
    assert all(len(a & b) < 8 for a, b in combinations(texts, 2))


def test_candidates_differ_within_and_between_equal_contexts(nano: Generator) -> None:
    twins = [{"context": name, "text": "I will go with thee to the king."} for name in "ab"]
    rows, _ = generate_candidates(nano, twins, CONFIG, round=0, number=0, rewrite=False)
    assert len({row["text"] for row in rows}) > 9


@pytest.mark.parametrize("rewrite", [False, True])
def test_candidates_equal_those_of_the_slow_reference(nano: Generator, contexts: list[Record], rewrite: bool) -> None:
    """The reference generates each row to its last token, in the order of the shard, and cuts it afterwards."""
    config = CONFIG.but(candidates=12)
    rows, bad = generate_candidates(nano, contexts, config, round=1, number=5, rewrite=rewrite)
    decoding = DecodingConfig(temperature=0.7, top_p=0.9, no_repeat_ngram=3, max_new_tokens=100)
    newlines = [token for token in range(4096) if "\n" in nano.tokenizer.decode([token])]
    asked = [REWRITE.format(context["text"]) if rewrite else context["text"] for context in contexts]
    keys = [(index, number) for index in range(24) for number in range(12)]
    texts = generate(
        nano.model,
        [nano.tokenizer.encode([asked[index]])[0] for index, _ in keys],
        decoding,
        seeds=[seed(config.seed, 1, 5, *key) for key in keys],
        eos=nano.tokenizer.eos,
        suppress=newlines,
    )
    expected = [
        (contexts[index]["context"], number, nano.tokenizer.decode(ids))
        for (index, number), ids in zip(keys, texts, strict=True)
    ]
    assert len(rows) + len(bad) == len(expected) == 24 * 12
    found = {(row["context"], row["number"]): row for row in rows}
    known = {f"{row['id']}": row["text"] for row in bad}
    for name, number, text in expected:
        row = found.get((name, number))
        kept = first_sentence(text)
        assert (row["text"] if row else known[f"{name}/{number}"]) == (" ".join(text.split()) if kept is None else kept)
        assert row is None or (row["reason"] == "unfinished") == (kept is None)
    assert sum(row["tokens"] for row in rows) < 40 * len(rows)  # of 100 that the slow way takes


def seed(*key: int) -> int:
    """The seed of a candidate, as the module defines it."""
    first, *rest = key
    return int(np.random.SeedSequence(first, spawn_key=(1, *rest)).generate_state(1, np.uint64)[0])


@pytest.mark.parametrize("rows_at_once", [1, 7])
def test_batch_size_changes_nothing(
    nano: Generator, contexts: list[Record], rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate_candidates(nano, contexts[:4], CONFIG, round=1, number=0, rewrite=False)
    monkeypatch.setattr("gpt2core.distill.generator.ROWS", {"cpu": rows_at_once})
    assert generate_candidates(nano, contexts[:4], CONFIG, round=1, number=0, rewrite=False) == expected


def test_rows_at_once_fit_the_memory(monkeypatch: pytest.MonkeyPatch, toy: Generator) -> None:
    row = 2 * 2 * 32 * 100 * 4 + 6 * 4 * 320  # keys and values of 2 layers of 32 channels, and 6 numbers for each token
    monkeypatch.setattr("gpt2core.distill.generator.MEMORY", 10 * row)
    assert toy.rows_at_once(100) == 10
    assert toy.rows_at_once(10**6) == 1
    monkeypatch.setattr("gpt2core.distill.generator.MEMORY", 2**40)
    assert toy.rows_at_once(100) == 256


def test_no_candidate_has_a_line_break(nano: Generator, contexts: list[Record]) -> None:
    ends = [nano.tokenizer.encode([text])[0][-1] for text in ("a\n", "a\n\n")]
    assert set(ends) <= set(nano.newlines)
    prompts = nano.tokenizer.encode([context["text"] for context in contexts])
    texts = nano.sample(prompts, DecodingConfig(max_new_tokens=100), range(24))
    assert not any("\n" in nano.tokenizer.decode(ids) for ids in texts)
    assert sum(map(len, texts)) > 2000


def test_reasons_of_unusable_candidates(monkeypatch: pytest.MonkeyPatch, toy: Generator) -> None:
    said = [
        " thy love shall dim. Never", " nor time", " Thy love -- SHALL dim! And", " as a summer rose?",
        " A summer's love.", " Dr.",
    ]  # fmt: skip
    context = {"context": "r0-00000-000", "text": "A summer's love, is."}
    for rewrite, repeats in ((False, []), (True, ["A summer's love is!"])):
        says(monkeypatch, [*said[:5], *(repeats or said[5:])])
        rows, bad = generate_candidates(toy, [context], CONFIG, round=0, number=0, rewrite=rewrite)
        reasons = ["", "unfinished", "repeated", "", "", "repeated" if rewrite else "unfinished"]
        assert [row["reason"] for row in rows] == reasons
        assert [row["number"] for row in rows] == list(range(6))
        assert [row["text"] for row in rows[:2]] == ["thy love shall dim.", "nor time"]
        assert bad == []


def test_invalid_outputs_go_to_quarantine_and_others_continue(monkeypatch: pytest.MonkeyPatch, toy: Generator) -> None:
    half = toy.tokenizer.encode(["\u20ac"])[0][:1]
    end = toy.tokenizer.encode([" dim."])[0]
    long = " rose" * 100
    says(
        monkeypatch, [[], half + end, " is." + long, long + ".", long, " love is."]
    )  # the first ends at once: no poison
    context = {"context": "r0-00000-000", "text": "Thy love shall never dim."}
    rows, bad = generate_candidates(toy, [context], CONFIG, round=0, number=0, rewrite=False)
    assert [(row["number"], row["reason"]) for row in rows] == [(0, "unfinished"), (2, ""), (4, "unfinished"), (5, "")]
    assert [(row["id"][-1], row["error"]) for row in bad] == [
        ("1", "it is not valid UTF-8"),
        ("3", "it has 500 characters, but must have at most 400"),
    ]
    assert {row["stage"] for row in bad} == {"candidates"}


@pytest.mark.parametrize(("text", "kept", "error"), [
    ("", "", None),
    (" \n\t", "", None),
    ("...", "...", None),
    ("thy love \ufffd", "thy love", None),  # cut off in the middle of a character
    ("\ufffd", "", None),
    ("thy \ufffd love", "thy \ufffd love", "it is not valid UTF-8"),
])  # fmt: skip
def test_a_text_that_ends_within_a_sentence_is_unfinished(text: str, kept: str, error: str | None) -> None:
    assert generator._checked(text, set(), CONFIG) == (kept, "unfinished", error)


def test_random_weights_write_many_invalid_texts_and_stop_nothing(toy: Generator, tmp_path: Path) -> None:
    own = [{"context": f"r0-00000-{n:03d}", "text": toys.lines(1, n) + "."} for n in range(20)]
    rows, bad = generate_candidates(toy, own, CONFIG.but(candidate_tokens=40), round=0, number=0, rewrite=True)
    assert len(rows) + len(bad) == 120
    assert len(bad) > 10
    assert not any("\ufffd" in row["text"] for row in rows)
    shard = shards.Shard(str(tmp_path), "candidates", 0, 0, "0" * 64)
    shard.write(rows, shards.CANDIDATES, bad)
    assert shard.read().to_pylist() == rows
    assert shards.read(shard.quarantine).to_pylist() == bad


def test_a_context_that_is_too_long_is_quarantined_and_changes_no_other(toy: Generator) -> None:
    config = CONFIG.but(candidate_tokens=40)
    own = [{"context": f"r0-00000-{n:03d}", "text": toys.lines(1, n) + "."} for n in range(3)]
    rows, bad = generate_candidates(toy, own, config, round=0, number=0, rewrite=False)
    with_long = [own[0], {"context": "r0-00000-001", "text": "rose " * 300}, own[2]]
    fewer, worse = generate_candidates(toy, with_long, config, round=0, number=0, rewrite=False)
    assert fewer == [row for row in rows if row["context"] != "r0-00000-001"]
    assert worse[0]["id"] == "r0-00000-001"
    assert re.match(r"its prompt has \d+ tokens, but must have 1 to 216 to leave room for 40", worse[0]["error"])
    assert [row for row in worse if "/" in row["id"]] == [row for row in bad if "001/" not in row["id"]]


def test_pairs_are_every_two_usable_candidates_of_one_context() -> None:
    own = [{"context": name, "prefix": "", "text": f"{name} text."} for name in ("a", "b", "c")]
    candidates = [
        {"context": name, "number": number, "text": f"{name}{number}", "tokens": 3, "reason": reason}
        for name in ("b", "a")
        for number, reason in [(11, ""), (2, "repeated"), (0, ""), (5, ""), (7, "unfinished")]
    ]
    pairs = generator.pairs_of(own, candidates, round=2, rewrite=False)
    ends = ("000-005", "000-011", "005-011")
    assert [pair["id"] for pair in pairs] == [f"{name}-{both}" for name in "ab" for both in ends]
    assert pairs[1] == {
        "id": "a-000-011", "context": "a", "round": 2, "first": 0, "second": 11, "sentence1": "a0",
        "sentence2": "a11",
    }  # fmt: skip
    rewritten = generator.pairs_of(own, candidates, round=2, rewrite=True)
    assert [pair["id"] for pair in rewritten] == [f"{name}-ctx-{b:03d}" for name in "ab" for b in (0, 5, 11)]
    assert {(pair["first"], pair["sentence1"]) for pair in rewritten} == {(-1, "a text."), (-1, "b text.")}
    assert pa.Table.from_pylist(pairs + rewritten, shards.PAIRS).num_rows == 12


def test_a_gpu_continues_as_many_rows_as_fit_into_a_quarter_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(bytes_: int) -> int:
        properties = SimpleNamespace(total_memory=bytes_)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
        weight = SimpleNamespace(device=torch.device("cuda"), element_size=lambda: 2)
        large = SimpleNamespace(
            config=ModelConfig(n_embd=1280, n_layer=36, n_head=20), wte=SimpleNamespace(weight=weight)
        )
        return Generator(large, None).rows_at_once(200)  # type: ignore[arg-type]

    row = 2 * 36 * 1280 * 200 * 2 + 64 * 50257
    assert [rows(4 * 100 * row), rows(1), rows(10**15)] == [100, 1, 4096]


def test_the_precision_does_not_change_the_digest_of_a_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _generator.cache_clear()
    plain, digest = _generator(str(toys.folder(tmp_path)))
    _generator.cache_clear()
    narrow = RunConfig(precision="bfloat16")
    monkeypatch.setattr(
        "trainables.candidates.actors.for_generation", lambda model, config: for_generation(model, narrow)
    )
    cast, same = _generator(str(tmp_path))
    assert same == digest
    assert (plain.model.wte.weight.dtype, cast.model.wte.weight.dtype) == (torch.float32, torch.bfloat16)
    _generator.cache_clear()


def test_stop_tables_cover_all_ends_of_sentences(nano: Generator) -> None:
    text = 'He came. "Go!" said he. Why? (Because.) \u201cNo!\u201d \u2018Well?\u2019 Then he went... Away'
    ids = np.array(nano.tokenizer.encode([text])[0])
    asked = np.flatnonzero(nano.stop.closes[ids[:-1]] & nano.stop.opens[ids[1:]]).tolist()
    ends = {len(nano.tokenizer.decode(ids[: place + 1].tolist())) for place in asked}
    known = {len(first) for first in (text[: end + 1].rstrip() for end in range(len(text))) if first[-1:] in '.!?")'}
    assert ends >= {end for end in known if text[end : end + 1] == " "}
