"""From files to batches: what is read, what is rejected and why, what is cached."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gpt2core.arrow_cache import write_table
from gpt2core.data import shakespeare, tokens
from gpt2core.data.batches import epoch_batches
from gpt2core.data.corpus import Row, read_text
from gpt2core.data.shakespeare import load_plays, load_sonnets, package_texts
from gpt2core.data.tokens import Example, tokenised
from gpt2core.errors import DataError
from gpt2core.files import locked
from gpt2core.tasks import TASKS
from gpt2core.testing import toys
from gpt2core.tokenizer import Tokenizer, train_bpe
from tests.rights import files_of_at_most


def course(folder: Path, train: str | None = None) -> Path:
    sonnets = {number: toys.lines({2: 15, 3: 12}.get(number, 14), number) for number in (1, 2, 3, 132, 144)}
    text = "Sonnets\nby someone\n\n" + "\n\n".join(f"{n}\n\n{t}" for n, t in sonnets.items() if n not in (132,))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sonnets.txt").write_bytes((train or text + "\n\n1\n\n" + sonnets[1]).replace("\n", "\r\n").encode())
    (folder / "TRUE_sonnets_held_out_dev.txt").write_text(f"Sonnets\n\n132\n\n{sonnets[132]}\n")
    (folder / "sonnets_held_out.txt").write_text("Sonnets\n\n145\n\n" + toys.lines(3, 9) + "\n\n146\n\nonly one line\n")
    return folder


def test_the_course_files_are_read_and_rejected_rows_are_counted_with_reasons(tmp_path: Path) -> None:
    course(tmp_path / "sonnets")
    corpus = load_sonnets(str(tmp_path))
    assert {split: [row.id for row in rows] for split, rows in corpus.splits.items()} == {
        "train": ["1", "2", "3"],
        "dev": ["132"],
        "test": ["145"],
    }
    assert [row.text.count("\n") + 1 for row in corpus.splits["train"]] == [14, 15, 12]
    assert corpus.rejected == {"duplicate id": 1, "numbered outside of the study's splits": 1, "fewer than 3 lines": 1}
    assert "1 rejected: fewer than 3 lines" in corpus.describe()


def numbered(numbers: Sequence[object], lines: int = 14, gap: str = "\n\n") -> str:
    """Return sonnets in the course's format, each with its own words."""
    return "Sonnets\nby someone\n\n" + "\n\n".join(f"{n}{gap}{toys.lines(lines, int(str(n)))}" for n in numbers)


def release(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n2\n\n", "\n2\xa0\n\n"),
    lambda text: text.replace("\n2\n\n", "\n\ufeff2\u200b\n\n").replace("\n4\n", "\n\u20604\n"),
    lambda text: text.replace("\n2\n\n", "\n\u2003 2.\t\n\n"),
    lambda text: text.replace("\n2\n\n", "\nII\n\n").replace("\n4\n", "\nSonnet IV\n"),
    lambda text: text.replace("\n\n", "\n"),
    lambda text: text.replace("\n", "\r\r\n"),
    lambda text: text.replace("\n", "\r"),
    lambda text: "\ufeff" + text.rstrip("\n"),
])  # fmt: skip
def test_a_number_may_be_written_and_spaced_in_any_way(change: Callable[[str], str], tmp_path: Path) -> None:
    text = numbered([1, 2, 3, 4, 132])
    plain = load_sonnets(str(release(tmp_path / "plain", sonnets=text)))
    assert [row.id for row in plain.splits["train"]] == ["1", "2", "3", "4"]
    folder = release(tmp_path / "changed")
    (folder / "sonnets.txt").write_bytes(change(text).encode())
    assert load_sonnets(str(folder)).digest == plain.digest


@pytest.mark.parametrize("page", ["27", "\n27\n", "2", "\n\n1\n\n", "\n140"])
@pytest.mark.parametrize("sonnet", [1, 2, 132])
def test_a_page_number_within_a_sonnet_is_removed_and_counted(page: str, sonnet: int, tmp_path: Path) -> None:
    text = numbered([1, 2, 3, 132, 133])
    whole = toys.lines(14, sonnet)
    lines = whole.split("\n")
    parted = "\n".join([*lines[:5], page, *lines[5:]])
    plain = load_sonnets(str(release(tmp_path / "plain", sonnets=text)))
    corpus = load_sonnets(str(release(tmp_path / "parted", sonnets=text.replace(whole, parted))))
    texts, wanted = (
        [[line for line in row.text.split("\n") if line] for rows in c.splits.values() for row in rows]
        for c in (corpus, plain)
    )
    assert texts == wanted
    assert corpus.rejected == {"page number within a sonnet": 1}


def test_unnumbered_sonnets_are_rejected_and_missing_ones_named(tmp_path: Path) -> None:
    corpus = load_sonnets(str(release(tmp_path, sonnets=numbered([1, 2, 3, 132]).replace("\n2\n", "\nNumber two\n"))))
    assert [row.id for row in corpus.splits["train"]] == ["3"]
    assert corpus.rejected == {"more than 15 lines: the number between two sonnets is missing": 1}
    assert "130 of the study's 131 train sonnets are missing: 1, 2, 4, 5, 6, ..." in corpus.describe()


def test_the_first_release_has_dev_sonnets_among_the_others_and_whole_test_sonnets(tmp_path: Path) -> None:
    given = numbered([145, 146, 147], lines=3)
    whole = "--Generated Sonnets-- \n\n" + "\n\n".join(f"{n}\n{toys.lines(14, 145 + n)}\n" for n in (0, 1, 3))
    whole += "\n\n2\n" + toys.lines(14, 9)
    folder = release(tmp_path, sonnets=numbered([1, 2, 132, 133]), sonnets_held_out=given, TRUE_sonnets_held_out=whole)
    corpus = load_sonnets(str(folder))
    found = {split: [row.id for row in rows] for split, rows in corpus.splits.items()}
    assert found == {"train": ["1", "2"], "dev": ["132", "133"], "test": ["145", "146", "147", "148"]}
    assert corpus.splits["test"][0].text == toys.lines(14, 145)
    assert corpus.splits["test"][2].text == toys.lines(3, 147), "what is called 147 there does not begin so"
    assert corpus.rejected == {"in TRUE_sonnets_held_out.txt, but begins differently in sonnets_held_out.txt": 1}


def test_without_dev_sonnets_their_files_are_named(tmp_path: Path) -> None:
    folder = release(tmp_path, sonnets=numbered([1, 2]))
    words = r"the numbers 132 to 143 must be in sonnets.txt or TRUE_sonnets_held_out_dev.txt"
    with pytest.raises(DataError, match=words):
        load_sonnets(str(folder))
    release(folder, TRUE_sonnets_held_out_dev=numbered([132], lines=3))
    with pytest.raises(DataError, match=r"There is no sonnet for the dev split"):
        load_sonnets(str(folder))


def test_a_variant_in_another_split_is_named(tmp_path: Path) -> None:
    lines = toys.lines(14, 138).split("\n")
    variant = "\n".join(line.upper() + "," for line in lines[:3])
    held_out = numbered([154], lines=3) + f"\n\n155\n\n{variant}\n"
    folder = release(tmp_path, sonnets=numbered([1, 138]), sonnets_held_out=held_out)
    assert "test sonnet 155 is a variant of dev sonnet 138: 3 equal lines" in load_sonnets(str(folder)).describe()


def test_the_digest_does_not_depend_on_the_location(tmp_path: Path) -> None:
    one, two = (load_sonnets(str(course(tmp_path / name))).digest for name in ("a", "b"))
    assert one == two != load_sonnets(None).digest


def test_invalid_files_are_named_with_line_and_rule(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such folder"):
        load_sonnets(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"sonnets.txt: there is no such file; --data-dir must hold"):
        load_sonnets(str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"sonnets.txt, line 1: each sonnet must follow a line with only its number"):
        load_sonnets(str(course(tmp_path / "plain", train="no numbers here")))
    (tmp_path / "latin").write_bytes(b"fine\nna\xefve\n")
    with pytest.raises(DataError, match=r"latin, line 2: must be UTF-8 text"):
        read_text(tmp_path / "latin")


def test_the_package_holds_the_sonnets_in_the_splits_of_the_study() -> None:
    splits = load_sonnets(None).splits
    assert [len(splits[split]) for split in ("train", "dev", "test")] == [131, 12, 10]
    assert splits["train"][0].text.startswith("From fairest creatures we desire increase,")
    assert splits["train"][127].text.startswith("How oft when thou, my music"), "the file calls sonnet 128 CXXXIII"
    assert splits["dev"][0].text.startswith("Thine eyes I love")
    assert splits["test"][0].text.startswith("Those lips that Love's own hand did make")


def test_no_play_that_nano_learned_from_shares_two_lines_with_a_sonnet() -> None:
    def words(line: str) -> str:
        return "".join(letter for letter in line.lower() if letter.isalpha())

    poems = (package_texts() / name for name in ("sonnets_gut.txt", "passionate_pilgrim_gut.txt"))
    lines = {words(line) for path in poems for line in path.read_text().split("\n") if len(line.split()) >= 4}
    corpus = load_plays()
    assert [row.id for row in corpus.splits["dev"]] == ["tempest_gut"]
    names = {row.id for rows in corpus.splits.values() for row in rows}
    assert "loves_labours_lost_gut" not in names
    assert not {Path(name).stem for name in shakespeare.POEMS} & names
    assert len(names) == 36
    for rows in corpus.splits.values():
        for row in rows:
            assert len({words(line) for line in row.text.split("\n")} & lines) < 2, row.id


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPT2_SEARCH_CACHE", str(tmp_path))
    return tmp_path


def test_tokens_are_cached_until_something_changes(cache: Path) -> None:
    words, calls = toys.tokenizer(), []

    def counted(rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        calls.append(len(rows))
        return encode(rows, tokenizer)

    rows = [Row(id=str(i), text=toys.lines(2, i)) for i in range(3)]
    first = tokenised("key", rows, words, counted)
    again = tokenised("key", rows, words, counted)
    assert calls == [3]
    one, two = ([list(found[i]) for i in range(3)] for found in (first, again))
    assert one == two == words.encode([row.text for row in rows])
    tokenised("other key", rows, words, counted)
    assert calls == [3, 3]
    assert len(list((cache / "tokens").iterdir())) == 2, "nothing half-written is left"


def test_one_of_several_threads_creates_the_tokens(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, words, calls = [Row(id="1", text=toys.lines(2, 1))], toys.tokenizer(), []
    encoding, wanted, go_on = threading.Event(), threading.Semaphore(0), threading.Event()

    def slowly(rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        calls.append(len(rows))
        encoding.set()
        assert go_on.wait(30)
        return encode(rows, tokenizer)

    @contextmanager
    def told(path: Path) -> Iterator[None]:
        wanted.release()
        with locked(path):
            yield

    monkeypatch.setattr("gpt2core.data.tokens.locked", told)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(tokenised, "key", rows, words, slowly)
        assert encoding.wait(30)
        assert wanted.acquire(timeout=30)
        second = pool.submit(tokenised, "key", rows, words, slowly)
        assert wanted.acquire(timeout=30)  # it has seen that the file is missing, and waits for the lock
        go_on.set()
        assert list(first.result()[0]) == list(second.result()[0]) == words.encode([rows[0].text])[0]
    assert calls == [1]


def encode(rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
    encoded = tokenizer.encode([row.text for row in rows])
    return [Example(row.id, row.text, ids, row.label) for row, ids in zip(rows, encoded, strict=True)]


def test_a_long_text_is_truncated_and_counted_and_classes_are_kept(cache: Path) -> None:
    rows, words = [Row(id=str(i), text=toys.lines(2 + i, i), label=2 - i) for i in range(3)], toys.tokenizer()
    whole = tokenised("key", rows, words, encode)
    limit = int(whole.lengths[1])
    cut = tokenised("key", rows, words, encode, limit=limit)
    assert (whole.truncated, cut.truncated) == (0, 1)
    assert list(cut[2]) == list(whole[2][:limit])
    assert list(cut.labels) == [2, 1, 0]


def test_tokenizers_do_not_share_cached_tokens(cache: Path) -> None:
    rows = [Row(id="1", text=toys.lines(2, 1))]
    small = train_bpe([toys.lines(50, 1)], 280)
    for words in (toys.tokenizer(), small):
        assert [list(tokenised("key", rows, words, encode)[0])] == words.encode([rows[0].text])
    assert len(list((cache / "tokens").iterdir())) == 2


def test_samples_of_a_sorted_file_are_representative_and_nested(cache: Path) -> None:
    rows = [Row(id=str(i), text=toys.lines(1 + i % 3, i), label=i // 100) for i in range(300)]
    whole = tokenised("key", rows, toys.tokenizer(), encode)
    small, large = whole.sample(60), whole.sample(200)
    assert np.bincount(small.labels) == pytest.approx([20, 20, 20], abs=8)
    assert list(small.ids) == list(large.ids[:60]) == list(whole.sample(60).ids)
    assert sorted(whole.sample(None).ids) == sorted(whole.ids) == sorted(whole.sample(10**6).ids)
    for number, name in enumerate(small.ids):
        assert (small.texts[number], small.labels[number]) == (rows[int(name)].text, rows[int(name)].label)
        assert list(small[number]) == list(whole[int(name)])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_cache_file_is_rewritten(share: float, cache: Path) -> None:
    rows, words = [Row(id=str(i), text=toys.lines(2, i)) for i in range(3)], toys.tokenizer()
    tokenised("key", rows, words, encode)
    (path,) = (cache / "tokens").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert list(tokenised("key", rows, words, encode).texts) == [row.text for row in rows]
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["another's file", "a link to it", "zeros within", "other columns"])
def test_a_damaged_cache_file_is_rewritten(damage: str, cache: Path) -> None:
    rows, words = [Row(id=str(i), text=toys.lines(2, i)) for i in range(3)], toys.tokenizer()
    tokenised("key", rows, words, encode)
    (path,) = (cache / "tokens").iterdir()
    whole = path.read_bytes()
    tokenised("other key", [Row(id=row.id, text=row.text[::-1]) for row in rows], words, encode)
    (other,) = set((cache / "tokens").iterdir()) - {path}
    path.unlink()
    match damage:
        case "another's file":
            path.write_bytes(other.read_bytes())
        case "a link to it":
            path.symlink_to(other)
        case "zeros within":
            path.write_bytes(whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :])
        case "other columns":
            write_table(path, pa.table({"id": [1, 2, 3]}))
    found = tokenised("key", rows, words, encode)
    assert list(found.texts) == [row.text for row in rows]
    assert [list(found[number]) for number in range(3)] == words.encode([row.text for row in rows])
    assert path.read_bytes() == whole


def test_a_cache_file_that_is_too_large_is_named(cache: Path) -> None:
    rows = [Row(id=str(i), text=toys.lines(2, i)) for i in range(30)]
    with files_of_at_most(1000), pytest.raises(OSError, match=r"File too large: '.*/tokens/\w+\.arrow'"):
        tokenised("key", rows, toys.tokenizer(), encode)
    assert not list((cache / "tokens").iterdir())


def test_blocks_are_cut_from_one_stream_for_any_chunk_size(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, task = toys.tokenizer(), TASKS["pretraining"]
    rows = [Row(id=str(i), text=toys.lines(count, i)) for i, count in enumerate([1, 150, 2, 3, 90, 1])]
    stream = [token for row in rows for token in [*words.encode([row.text])[0], words.eos]]
    wanted = [stream[start : start + 256] for start in range(0, len(stream) - 255, 255)]
    assert len(wanted) > 3
    for at_once in (1, 4, 4096):
        monkeypatch.setattr(tokens, "AT_ONCE", at_once)
        found = tokenised(f"key {at_once}", rows, words, task.encode)
        assert [list(found[number]) for number in range(len(found))] == wanted
        assert list(found.ids) == [str(255 * number) for number in range(len(found))]


def test_a_split_without_rows_is_empty_tokens(cache: Path) -> None:
    tokens = tokenised("key", [], toys.tokenizer(), encode)
    assert (len(tokens), list(tokens.lengths)) == (0, [])


def test_batches_have_each_example_once_in_a_new_order_each_epoch() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, size=1001)
    epochs = [epoch_batches(lengths, 8, seed=1, epoch=epoch) for epoch in (1, 1, 2)]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(1001))
        assert max(map(len, batches)) == 8
    assert all(np.array_equal(a, b) for a, b in zip(epochs[0], epochs[1], strict=True))
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[2]))

    def padded(batches: list[np.ndarray]) -> int:
        return sum(int(lengths[batch].max()) * len(batch) for batch in batches)

    order = np.random.default_rng(0).permutation(1001)
    random = [order[i : i + 8] for i in range(0, 1001, 8)]
    assert padded(epochs[0]) < 1.1 * lengths.sum() < padded(random)
