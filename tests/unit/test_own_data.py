"""A user's own data: what is read from files and the hub, how it is divided, and what is refused in one line."""

import json
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2core.__main__ import main
from gpt2core.config import RunConfig
from gpt2core.data.corpus import NO_LABEL, Corpus, Row
from gpt2core.data.own import LEAST, SHARE, divided, load_own
from gpt2core.data.tables import READERS
from gpt2core.data.tokens import Example, truncated
from gpt2core.errors import ConfigError, DataError, HubError
from gpt2core.tasks.own import OwnGeneration, generation_counts, with_task
from tests import course, own
from tests.runs import python, status

STARS = {"text": "review", "label": "stars"}


def corpus(path: Path, **values: Any) -> Corpus:
    return load_own(RunConfig.of(with_task({"train": str(path), **values})))


def texts(corpus: Corpus) -> dict[str, set[str]]:
    return {split: {row.text for row in rows} for split, rows in corpus.splits.items()}


def written(folder: Path, suffix: str) -> Path:
    """The reviews in a file of a kind."""
    path, rows = folder / f"reviews{suffix}", own.records()
    records = [dict(zip(own.COLUMNS, row, strict=True)) for row in rows]
    if suffix == ".csv":
        own.table(path, rows)
    elif suffix == ".tsv":
        path.write_text("\n".join(map("\t".join, [own.COLUMNS, *rows])))
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("suffix", sorted(READERS.keys() - {".txt"}))
def test_all_kinds_of_tables_have_the_same_rows(suffix: str, tmp_path: Path) -> None:
    expected = corpus(written(tmp_path, ".csv"), **STARS)
    assert {split: len(rows) for split, rows in expected.splits.items()} == {"train": 48, "dev": 6, "test": 6}
    assert corpus(written(tmp_path, suffix), **STARS).digest == expected.digest


def test_the_task_and_the_classes_follow_from_the_columns(tmp_path: Path) -> None:
    path = str(own.table(tmp_path / "reviews.csv"))
    assert with_task({"train": path, **STARS})["class_names"] == ("1", "2", "3")
    assert with_task({"train": path, **STARS})["task"] == "classify"
    assert with_task({"train": path, "text": "review", "target": "title"})["task"] == "generate"
    assert with_task({"train": path, "text": "review"})["task"] == "text"
    assert with_task({"lr": 1.0}) == {"lr": 1.0}


def test_classes_are_sorted_as_numbers_if_they_are(tmp_path: Path) -> None:
    path = own.table(
        tmp_path / "a.csv", [(f"text {n}", str(label), "") for n, label in enumerate([10, 9, "b", "a"] * 5)]
    )
    values = with_task({"train": str(path), **STARS})
    assert values["class_names"] == ("9", "10", "a", "b")


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_the_division_depends_on_no_order_of_rows(seed: int) -> None:
    rows = [Row(id=f"{n:03}", text=f"text {n // 2} of {n % 3}", label=n % 3) for n in range(90)]
    mixed = random.Random(seed).sample(rows, len(rows))
    assert divided(mixed, ("dev", "test"), 1, by_prompt=False) == divided(rows, ("dev", "test"), 1, by_prompt=False)


@pytest.mark.parametrize("sizes", [(100, 40, 10), (5, 5, 3), (200, 1, 2), (34, 33, 33)])
def test_the_division_is_stratified_and_leaves_every_class_in_train(sizes: tuple[int, ...]) -> None:
    labels = np.repeat(range(len(sizes)), sizes)
    rows = [Row(id=f"{n:03}", text=f"text {n}", label=int(label)) for n, label in enumerate(labels)]
    splits = divided(rows, ("dev", "test"), 7, by_prompt=False)
    assert sorted(row.id for part in splits.values() for row in part) == [row.id for row in rows]
    for split in ("dev", "test"):
        counts = Counter(row.label for row in splits[split])
        assert all(abs(counts[label] - size / SHARE) < 1.5 for label, size in enumerate(sizes))
    assert {row.label for row in splits["train"]} == set(range(len(sizes)))


def test_the_seed_decides_the_division(tmp_path: Path) -> None:
    path = own.table(tmp_path / "reviews.csv")
    assert texts(corpus(path, **STARS))["dev"] != texts(corpus(path, **STARS, split_seed=1))["dev"]


def test_equal_texts_stay_in_one_split(tmp_path: Path) -> None:
    rows = own.records(100)
    twins = [(text.upper() + "!", stars, title) for text, stars, title in rows]
    splits = texts(corpus(own.table(tmp_path / "twins.csv", [*rows, *twins]), **STARS))
    for split, part in splits.items():
        others = {text.strip("!").lower() for name in splits.keys() - {split} for text in splits[name]}
        assert not others & {text.strip("!").lower() for text in part}


def test_all_targets_of_a_prompt_stay_in_one_split(tmp_path: Path) -> None:
    rows = [(f"prompt {n // 3}", "", f"target {n}") for n in range(90)]
    splits = texts(corpus(own.table(tmp_path / "prompts.csv", rows), text="review", target="title"))
    assert not splits["train"] & (splits["dev"] | splits["test"])
    assert len(splits["dev"]) == len(splits["test"]) == 3


def test_rejected_rows_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [*own.records(), *own.records()[:3], (" ", "1", ""), ("fine", "", ""), ("torn", "1", ""), ("torn", "2", "")]
    path = own.table(tmp_path / "reviews.csv", rows)
    path.write_text(path.read_text() + "too,few\n" + "one,2,three,four\n")
    expected = {
        "duplicate text": 3, "`review` is empty": 1, "`stars` is empty": 1, "text with several classes": 2,
        "fewer fields than columns": 1, "more fields than columns": 1,
    }  # fmt: skip
    read = corpus(path, **STARS)
    assert read.rejected == expected
    assert all(f"; {count} rejected: {reason};" in read.describe() for reason, count in expected.items())


def test_a_cut_line_is_counted_in_the_description(tmp_path: Path) -> None:
    path = written(tmp_path, ".jsonl")
    path.write_text(path.read_text()[:-5])
    assert "; 1 rejected: not a JSON object on one line;" in corpus(path, **STARS).describe()


@pytest.mark.parametrize(
    ("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars"), (",", "")]
)
def test_a_guessed_delimiter_is_in_the_description(delimiter: str, name: str, tmp_path: Path) -> None:
    path = own.table(tmp_path / "reviews.csv")
    expected = corpus(path, **STARS)
    path.write_text(path.read_text().replace(",", delimiter))
    read = corpus(path, **STARS)
    assert read.digest == expected.digest
    assert (f"train read as fields separated by {name};" in read.describe()) == bool(name)
    assert ("separated by" in read.describe()) == bool(name)


@pytest.mark.parametrize("encode", [
    lambda content: b"\xef\xbb\xbf" + content, lambda content: content.replace(b"\n", b"\r\n"),
    lambda content: content.replace(b"\n", b"\r"),
])  # fmt: skip
def test_byte_order_marks_and_line_ends_change_nothing(encode: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = own.table(tmp_path / "reviews.csv")
    content, expected = path.read_bytes().replace(b"\r\n", b"\n"), corpus(path, **STARS)
    path.write_bytes(encode(content))
    assert corpus(path, **STARS).digest == expected.digest


def test_given_splits_keep_their_rows_and_may_lack_the_classes_of_test(tmp_path: Path) -> None:
    path, dev = own.table(tmp_path / "reviews.csv"), own.table(tmp_path / "dev.csv", own.records(5, seed=1))
    test = tmp_path / "test.csv"
    test.write_text("review\nfirst\nfirst\nlast\n")
    read = corpus(path, **STARS, dev=str(dev), test=str(test))
    assert {split: len(rows) for split, rows in read.splits.items()} == {"train": 60, "dev": 5, "test": 3}
    assert [(row.id, row.text, row.label) for row in read.splits["test"]] == [
        ("1", "first", -1), ("2", "first", -1), ("3", "last", -1),
    ]  # fmt: skip


def test_a_pair_has_two_columns(tmp_path: Path) -> None:
    read = corpus(own.table(tmp_path / "reviews.csv"), text="review, title", label="stars")
    assert all(row.second == f"title {row.text.split()[-1]}" for rows in read.splits.values() for row in rows)


def test_a_csv_file_may_have_semicolons_and_quoted_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("\ufeffreview;stars\n" + "".join(f'"line one\nof ""{n}""; two";{n % 2}\n' for n in range(20)))
    read = corpus(path, **STARS)
    assert 'line one\nof "7"; two' in set().union(*texts(read).values())


def test_a_text_file_has_a_text_per_paragraph_and_a_folder_one_per_file(tmp_path: Path) -> None:
    play, folder = tmp_path / "play.txt", tmp_path / "reviews"
    play.write_text("\n\n".join(f"Speech {n},\nsecond line" for n in range(20)))
    assert "Speech 3,\nsecond line" in set().union(*texts(corpus(play)).values())
    for number in range(20):
        file = folder / ("neg", "pos")[number % 2] / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"review {number}")
    (folder / "notes.txt").write_text("a text without a subfolder")
    (folder / "pos" / "more.txt").mkdir()
    read = corpus(folder, label="label")
    assert read.rejected == {"`label` is empty": 1}
    assert {row.label == int(row.text.split()[1]) % 2 for rows in read.splits.values() for row in rows} == {True}


def test_a_data_set_of_the_hub_has_its_own_splits_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    parts = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(20)], "label": [0, 1] * 10}, features)
        for name in ("train", "validation")
    }
    parts["test"] = datasets.Dataset.from_dict({"text": ["unlabelled"], "label": [-1]}, features)
    monkeypatch.setattr(datasets, "load_dataset", lambda repository, config: parts)
    values = with_task({"train": "owner/name", "label": "label"})
    assert values["class_names"] == ("no", "yes")
    read = load_own(RunConfig.of(values))
    assert [(row.text, row.label) for row in read.splits["dev"]][:2] == [("validation 0", 0), ("validation 1", 1)]
    assert {split: len(rows) for split, rows in read.splits.items()} == {"train": 20, "dev": 20, "test": 1}
    assert read.splits["test"][0].label == NO_LABEL
    assert read.origin.hub == "owner/name"
    parts["test"] = datasets.Dataset.from_dict({"text": [""], "label": [-1]}, features)
    assert not load_own(RunConfig.of(values)).splits["test"], (
        "unusable rows of a test split that nobody gave are left out"
    )
    del parts["test"]
    with pytest.raises(DataError, match=r"^owner/other: the data set has no test split$"):
        load_own(RunConfig.of({**values, "test": "owner/other"}))


@pytest.mark.parametrize(("flags", "message"), [
    (["--text", "revew"], "has no column `revew` for --text: did you mean `review`? (columns: review, stars, title)"),
    (["--text", "review", "--label", "x"], "has no column `x` for --label: valid: review, stars, title\n"),
    (["--text", "review", "--label", "stars", "--target", "title"], "--label and --target contradict each other"),
    (["--text", "review,title", "--target", "stars"], "must name one column, unless there is a --label"),
    (["--text", "review", "--label", "title"], "has 60 different values, but must have at most 50 classes"),
    (["--text", "review", "--label", "review"], "the column `review` is named twice, by --text and --label;"),
    (["--text", "review,review", "--label", "stars"], "the column `review` is named twice, by --text;"),
    (["--text", "review", "--label", "stars", "--task", "sst"], "The task `sst` does not fit: own data with --label has"),
])  # fmt: skip
def test_wrong_columns_are_one_line_and_status_2(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2core.data.own.MOST_CLASSES", 50)
    train = ["train", "--out", str(tmp_path / "run"), "--train", str(own.table(tmp_path / "reviews.csv"))]
    assert status(main, [*train, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(("content", "message"), [
    (b"", "reviews.csv: is empty"),
    (b"review,stars\n", "has no row"),
    (b"review,stars\nfine\n", "has no row; 1 rejected: fewer fields than columns"),
    (b"review,stars\n" + "caf\u00e9,1\n".encode("latin-1"), "line 2: must be UTF-8 text"),
    ("review,stars\n".encode("utf-16"), "must be UTF-8 text, but is UTF-16"),
    (b'review,stars\n"fine,1\n', "line 2: unexpected end of data; quotes must be closed"),
    (b"review,stars\nfine,1\ngood,1\n", "the column `stars` has only the class `1`, but must have 2 or more to classify"),
    (b'review,stars\nfine,"one\nstar"\n', "the column `stars` has only the class `one star`, but must have"),
    (b" \n \n", "line 1: must name the columns, but is blank"),
    (b"review,stars\nfine,\n", "the column `stars` has no class; 1 rejected: `stars` is empty; name a --label of texts"),
    (b"review,stars\nfine,1\ngood,1.0\n", "the column `stars` has the classes `1`, `1.0`, which are the same number"),
    (b"review,review,stars\nfine,1,1\n", "has 2 columns `review`, but --text must name one"),
    (
        b"review,stars\nfine,1\nfine,1\npoor,2\n",
        f"reviews.csv: the number of different texts is 2, but must be at least {LEAST} to divide off dev and test; "
        "1 rejected: duplicate text",
    ),
    (b"review,stars\n" + b",1\n,2\n" * 9, "no row of the train split can be used; 18 rejected: `review` is empty; name"),
    (
        b"review,stars\n" + b"".join(b"text %d,%d\n" % (number, number) for number in range(20)),
        "reviews.csv: the number of different texts in the largest of 20 classes is 1, but must be at least 3",
    ),
])  # fmt: skip
def test_unusable_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        corpus(path, **STARS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("record", "message"), [
    ({"review": {"title": "fine"}}, "60 rejected: `review` is of the type dict, neither text nor number; name other columns"),
    ({"stars": ["good"]}, "has no class; 60 rejected: `stars` is of the type list, neither text nor number; name a --label"),
])  # fmt: skip
def test_structured_columns_are_refused(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    records = [dict(zip(own.COLUMNS, row, strict=True)) | record for row in own.records()]
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(DataError) as error:
        corpus(path, **STARS)
    assert f"{path}: " in str(error.value)
    assert message in str(error.value)


def test_a_dev_split_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = own.table(tmp_path / "reviews.csv")
    dev = own.table(tmp_path / "dev.csv", [(f"text {number}", "ugly", "") for number in range(20)])
    with pytest.raises(DataError) as error:
        corpus(path, dev=str(dev), **STARS)
    assert str(error.value) == (
        f"{dev}: no row of the dev split can be used; 20 rejected: `stars` has a class that train lacks; classes here: `ugly`; "
        "of train: `1`, `2`, `3`"
    )


def test_columns_of_parquet_files_may_be_dictionaries_or_decimals_and_have_equal_names(tmp_path: Path) -> None:
    path, rows = tmp_path / "reviews.parquet", own.records()
    texts, stars, _ = zip(*rows, strict=True)
    columns = [
        pa.array([None, *texts[1:]]).dictionary_encode(), pa.array(map(Decimal, stars)), pa.array(texts), pa.array(texts),
    ]  # fmt: skip
    pq.write_table(pa.Table.from_arrays(columns, names=["review", "stars", "copy", "copy"]), path)
    read = corpus(path, **STARS)
    assert read.rejected == {"`review` is empty": 1}
    assert sum(map(len, read.splits.values())) == len(rows) - 1
    with pytest.raises(DataError, match="has 2 columns `copy`, but --text must name one"):
        corpus(path, text="copy")


@pytest.mark.parametrize(("name", "message"), [
    ("nowhere.csv", "there is no such file or folder"),
    ("reviews.xlsx", "must be a file of the kind .csv, .tsv, .jsonl, .parquet, .txt, or a folder of .txt files"),
    ("empty", "there is no .txt file in this folder"),
    ("broken.parquet", "must be a Parquet file"),
    ("broken.jsonl", "has no row; 1 rejected: not a JSON object"),
])  # fmt: skip
def test_other_files_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("reviews.xlsx", "broken.parquet", "broken.jsonl"):
        (tmp_path / file).write_bytes(b"[1]")
    with pytest.raises(DataError, match=message):
        corpus(tmp_path / name)


def test_flags_without_train_are_refused() -> None:
    with pytest.raises(ConfigError, match="--text needs --train"):
        with_task({"text": "review"})


def test_a_first_stage_on_own_data_must_divide_it_as_the_task_does() -> None:
    values = {"task": "classify", "train": "a.csv", "label": "stars", "class_names": ("1", "2")}
    assert RunConfig.of({**values, "pretrain": "classify"}).first_task == "classify"
    with pytest.raises(ConfigError, match="The value of `pretrain` is 'text', but must be 'classify' or on other data"):
        RunConfig.of({**values, "pretrain": "text"})


@given(st.integers(0, 12), st.integers(1, 12), st.integers(1, 20))
def test_a_long_prompt_loses_its_beginning_and_a_long_target_its_end(given: int, rest: int, limit: int) -> None:
    ids = list(range(given + rest))
    cut = truncated(Example("0", "", ids, given=given), limit)
    assert len(cut.input_ids) == min(limit, len(ids))
    first = cut.input_ids[0]
    assert cut.input_ids == ids[first : first + limit]
    assert ids[first : first + cut.given] == ids[first:given]
    assert first == min(max(0, len(ids) - limit), max(0, given - 1)), "the target is cut last"


def test_counts_of_generated_texts_score_what_matches() -> None:
    gold = ["a rose is red", "never"]
    counts = generation_counts([gold, ["a rose", "Never"]], gold)
    scores = {name: OwnGeneration.metrics[name].score(array.sum(axis=1)) for name, array in counts.items()}
    assert scores["exact_match"] == pytest.approx([100, 0])
    assert scores["rouge_l"] == pytest.approx([100, 100 * (4 / 6 + 1) / 2])
    assert scores["chrf"][0] == pytest.approx(100)
    assert 0 < scores["chrf"][1] < 100


def test_modules_of_the_working_folder_do_not_replace_installed_ones(tmp_path: Path) -> None:
    folder = course.modules(tmp_path / "project")
    flags = ["--out", "run", "--train", "owner/name", "--label", "label"]
    done = python("-m", "gpt2core", "train", *flags, cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("error: Could not fetch the data set owner/name")


def test_an_unreachable_hub_is_one_line() -> None:
    with pytest.raises(
        HubError, match=r"Could not fetch the data set owner/name .*; without a network, give --train a file$"
    ):
        corpus(Path("owner/name"))
