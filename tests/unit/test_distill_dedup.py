"""Keys of near duplicates, and which pair of each group is kept."""

import numpy as np
import pytest
from datasketch import MinHash

from gpt2core.distill.dedup import BANDS, ROWS, bands, components, duplicates, normalised
from tests.runs import python

ONE, TWO = "The quick brown fox jumps over the lazy dog.", "Over the lazy dog jumps a fox that is quick."


def test_normalised_texts_keep_only_words() -> None:
    assert normalised("  Don't STOP,\tplease! ") == "don t stop please"
    assert normalised("?!") == ""


def shared(one: tuple[str, str], other: tuple[str, str]) -> int:
    return int((bands([one[0]], [one[1]]) == bands([other[0]], [other[1]])).sum())


def test_keys_depend_on_the_words_of_an_unordered_pair() -> None:
    keys = bands([ONE, TWO, ONE.upper(), ONE], [TWO, ONE, f"  {TWO}!", ONE])
    assert keys.shape == (4, BANDS)
    assert keys.dtype == np.uint64
    assert (keys[0] == keys[1]).all()
    assert (keys[0] == keys[2]).all()
    assert not (keys[0] == keys[3]).any()
    assert len(set(keys[0].tolist())) == BANDS
    assert bands([], []).shape == (0, BANDS)


def test_near_duplicates_share_a_key_and_others_do_not() -> None:
    assert shared((ONE, TWO), (f"{ONE} indeed", TWO)) > 0
    assert shared((ONE, TWO), ("A cat sleeps on the warm stove all day", "All day a cat is asleep on the stove")) == 0
    assert shared((ONE, "other words by far, and many of them"), (TWO, "what is said here shares nothing")) == 0


def test_a_text_shorter_than_a_shingle_counts_with_all_its_words() -> None:
    assert shared(("Hello there", "Hi"), ("hi!", "hello, there")) == BANDS
    assert shared(("Hello there", "Hi"), ("hello", "hi")) < BANDS
    assert shared(("?", "..."), ("!", "")) == BANDS  # pairs without words are all the same
    assert shared(("?", "..."), ("hi", "hello")) == 0


def slow_bands(first: str, second: str) -> list[bytes]:
    """The MinHash rows that each key is made of."""
    shingles = set()
    for text in (first, second):
        found = normalised(text).split()
        grams = [found[n : n + 3] for n in range(len(found) - 2)] or [found]
        shingles |= {" ".join(gram).encode() for gram in grams}
    sketch = MinHash(num_perm=128, seed=11711, scheme="affine32")
    for shingle in shingles:
        sketch.update(shingle)
    return [sketch.hashvalues[n : n + ROWS].tobytes() for n in range(0, 128, ROWS)]


def test_a_key_stands_for_eight_rows_of_minhash() -> None:
    random = np.random.default_rng(0)
    vocabulary = ["a", "b", "c", "d"]
    texts = [" ".join(random.choice(vocabulary, size=random.integers(0, 9))) for _ in range(120)]
    first, second = texts[:60], texts[60:]
    keys = bands(first, second).tolist()
    rows = [slow_bands(*pair) for pair in zip(first, second, strict=True)]
    for one in range(60):
        for other in range(one):
            same_keys = [a == b for a, b in zip(keys[one], keys[other], strict=True)]
            assert same_keys == [a == b for a, b in zip(rows[one], rows[other], strict=True)]


def test_pairs_share_a_key_with_the_stated_probability() -> None:
    random = np.random.default_rng(1)
    count, trials = 45, 400  # words; 43 shingles of each text
    for changed, low, high in ((1, 0.9, 1.0), (3, 0.3, 0.7), (20, 0.0, 0.01)):
        found, expected = 0, 0.0
        for _ in range(trials):
            base = [f"w{n}" for n in random.permutation(1000)[:count]]
            other = list(base)
            for place in random.permutation(count)[:changed]:
                other[place] = f"x{random.integers(10**6)}"
            one_set, other_set = ({tuple(t[n : n + 3]) for n in range(count - 2)} for t in (base, other))
            s = len(one_set & other_set) / len(one_set | other_set)
            expected += 1 - (1 - s**ROWS) ** BANDS
            found += shared((" ".join(base), " ".join(base)), (" ".join(other), " ".join(other))) > 0
        assert found / trials == pytest.approx(expected / trials, abs=0.08)
        assert low <= expected / trials <= high


def test_keys_are_the_same_in_every_process() -> None:
    code = f"from gpt2core.distill.dedup import bands; print(bands([{ONE!r}], [{TWO!r}]).tolist())"
    for seed in ("1", "2"):
        assert python("-c", code, PYTHONHASHSEED=seed).stdout.strip() == str(bands([ONE], [TWO]).tolist())


def slow_duplicates(keys: np.ndarray, rank: np.ndarray) -> list[bool]:
    """A slow reference: the closure of sharing any key, grown one pair at a time."""
    count = keys.shape[0]
    found = [True] * count
    left = set(range(count))
    while left:
        group = {left.pop()}
        while new := {n for n in left if any((keys[n] == keys[m]).any() for m in group)}:
            group |= new
            left -= new
        found[min(group, key=lambda n: (rank[n], n))] = False
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("values", [3, 40, 300, 10**6])
def test_one_pair_of_each_group_is_kept_as_by_the_slow_closure(seed: int, values: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 60))
    keys = random.integers(0, values * 20, size=(count, BANDS)).astype(np.uint64)
    rank = random.permutation(count)
    found = duplicates(keys, rank)
    assert found.dtype == bool
    assert found.tolist() == slow_duplicates(keys, rank)
    order = random.permutation(count)
    assert duplicates(keys[order], rank[order]).tolist() == found[order].tolist()


def band_keys(*rows: dict[int, int]) -> np.ndarray:
    """Keys that all differ, except for those given by band."""
    keys = np.arange(1000, 1000 + len(rows) * BANDS, dtype=np.uint64).reshape(len(rows), BANDS)
    for row, given in enumerate(rows):
        for band, key in given.items():
            keys[row, band] = key
    return keys


def test_groups_are_joined_across_bands_and_the_best_is_kept() -> None:
    # 0 and 1 share band 2, 1 and 3 band 9, 3 and 4 band 0; 2 is alone, and shares a number of another band.
    keys = band_keys({2: 7}, {2: 7, 9: 5}, {3: 7}, {9: 5, 0: 1}, {0: 1})
    assert duplicates(keys, np.array([4, 3, 9, 1, 2])).tolist() == [True, True, False, False, True]
    assert duplicates(keys, np.zeros(5)).tolist() == [False, True, False, True, True]


def test_no_pairs_have_no_duplicates() -> None:
    assert duplicates(np.zeros((0, BANDS), dtype=np.uint64), np.zeros(0)).shape == (0,)


def test_without_edges_each_node_is_a_component() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert components(3, none, none).tolist() == [0, 1, 2]
    assert components(0, none, none).shape == (0,)
    assert components(3, np.array([0, 2, 2, 2]), np.array([2, 0, 0, 2])).tolist() == [0, 1, 0]
