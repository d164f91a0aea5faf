"""A user's own data: rows from the columns of tables, in splits that are given or divided off."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2core.config import RunConfig
from gpt2core.data.corpus import NO_LABEL, Corpus, Row, unique
from gpt2core.data.dividing import evenly
from gpt2core.data.origin import DataOrigin, Licence
from gpt2core.data.tables import Table, check_columns, is_on_hub, read_hub, read_table
from gpt2core.distill.text import words
from gpt2core.errors import ConfigError, DataError, shown

SPLITS = ("train", "dev", "test")
SHARE, MOST = 10, 2000  # one text in SHARE is divided off for a split, but at most MOST
LEAST = 10  # different texts to divide
TO_STRATIFY = 3  # texts of a class; classes with fewer stay in train
MOST_CLASSES = 150
LICENCE = Licence(terms="The user's own texts; their terms are not known.")


def load_own(config: RunConfig) -> Corpus:
    """Return the corpus of a run's own data; raise ConfigError, DataError or HubError.

    Rows of `train` have distinct texts and are ordered by digest, so that their order in the file does not matter. A dev or test
    split that is not given is divided off, see `divided`. Without `train`, which scoring a trained model does not need, there are
    only the splits that are given.
    """
    if not _places(config):
        raise ConfigError(f"The task `{config.task}` has no data: give --train, --dev or --test")
    rejected: Counter[str] = Counter()
    tables = {split: table for split in SPLITS if (table := _table(config, split, rejected)) is not None}
    splits = {split: unique(_rows(config, split, table, rejected), rejected) for split, table in tables.items()}
    missing = [split for split in ("dev", "test") if config.train and split not in splits]
    if missing:
        splits |= divided(splits["train"], missing, config.split_seed, by_prompt=config.target is not None)
    source = ", ".join(f"{split} from {_name(place)}" for split, place in _places(config).items())
    notes = [f"{' and '.join(missing)} divided off train with seed {config.split_seed}"] if missing else []
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    file = next((Path(place).expanduser() for place in _places(config).values() if not is_on_hub(place)), None)
    place = "" if file is None else str(file.absolute())
    origin = DataOrigin(source=source, licence=LICENCE, hub=_hub(config).partition(":")[0], place=place)
    return Corpus(name="own data", origin=origin, splits=ordered, rejected=rejected, notes=tuple(notes))


def class_names(config: RunConfig) -> tuple[str, ...]:
    """Return the classes of the training texts, numbers in ascending order; raise DataError unless they are 2 to MOST_CLASSES."""
    table = _table(config, "train", Counter())
    assert table is not None
    assert config.label is not None
    names = {name for record in table.records if (name := _text(record.get(config.label)))}
    rule = f"{config.train}: the column `{config.label}` has {len(names):,} different values, but must have"
    if len(names) < 2:
        raise DataError(f"{rule} 2 or more to classify: {', '.join(names) or 'all are empty'}")
    if len(names) > MOST_CLASSES:
        some = ", ".join(map(shown, sorted(names)[:3]))
        raise DataError(
            f"{rule} at most {MOST_CLASSES} classes: {some}, ...; name another --label, or --target for texts"
        )
    return tuple(sorted(names, key=_number_or_text))


def distinct(rows: Sequence[Row], rejected: Counter[str]) -> list[Row]:
    """Return rows with their digests as ids, in that order, without copies, and without texts that have several classes."""
    named = {name: replace(row, id=name) for row in rows for name in [_digest(row)]}
    ordered = [named[name] for name in sorted(named)]
    labels = defaultdict(set)
    for row in ordered:
        labels[row.text, row.second].add(row.label)
    kept = [row for row in ordered if len(labels[row.text, row.second]) == 1]
    counts = {"duplicate text": len(rows) - len(ordered), "text with several classes": len(ordered) - len(kept)}
    rejected.update({reason: count for reason, count in counts.items() if count})
    return kept


def divided(rows: Sequence[Row], splits: Sequence[str], seed: int, *, by_prompt: bool) -> dict[str, list[Row]]:
    """Divide rows into `train` and the `splits`, which get every SHARE-th text of the same class, but at most MOST texts.

    Texts are ordered by class, then by a digest of seed and text, so the result depends on no order of rows. Texts that are equal
    up to case and punctuation are in the same split; for `by_prompt`, so are all rows with the same prompt. Raises DataError for
    fewer than LEAST texts.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[_key(row, by_prompt)].append(row)
    if splits and len(groups) < LEAST:
        raise DataError(
            f"There are {len(groups)} different training texts, but must be at least {LEAST} to divide off {' and '.join(splits)}"
        )
    sizes = Counter(group[0].label for group in groups.values())
    drawable = [key for key, group in groups.items() if sizes[group[0].label] >= TO_STRATIFY]
    drawable.sort(key=lambda key: (groups[key][0].label, hashlib.sha256(f"{seed}\0{key}".encode()).digest()))
    count = min(max(1, len(drawable) // SHARE), MOST, len(drawable))
    split_of: dict[str, str] = {}
    for split in splits:
        left = [key for key in drawable if key not in split_of]
        split_of |= {left[place]: split for place in evenly(len(left), count)}
    result: dict[str, list[Row]] = {split: [] for split in ("train", *splits)}
    for key, group in groups.items():
        result[split_of.get(key, "train")] += group
    return {split: sorted(part, key=lambda row: row.id) for split, part in result.items()}


def _key(row: Row, by_prompt: bool) -> str:
    """Return the text of a row, or both of a pair, without case and punctuation."""
    texts = [row.text] if by_prompt else [row.text, row.second]
    return "\0".join(sorted(" ".join(words(text)) or text for text in texts))


def _places(config: RunConfig) -> dict[str, str]:
    """Return the place of each split that is given."""
    return {split: place for split in SPLITS if (place := getattr(config, split))}


def _hub(config: RunConfig) -> str:
    """Return the name of the data set on the hub to train on, which may have all splits; empty if there is none."""
    return config.train if config.train and is_on_hub(config.train) else ""


def _name(place: str) -> str:
    return place if is_on_hub(place) else Path(place).name


def _table(config: RunConfig, split: str, rejected: Counter[str]) -> Table | None:
    """Return the table of a split with its columns checked, or None if there is none. A test split may lack classes."""
    given = getattr(config, split)
    place = given or _hub(config)
    if not place:
        return None
    table = read_hub(place, split) if is_on_hub(place) else read_table(place, rejected)
    if table is None:
        if given:
            raise DataError(f"{place}: the data set has no {split} split")
        return None
    needed = {"text": text_columns(config, table)}
    if config.target:
        needed["target"] = [config.target]
    if config.label and (split != "test" or config.label in table.columns):
        needed["label"] = [config.label]
    check_columns(place, table, needed)
    return table


def text_columns(config: RunConfig, table: Table) -> list[str]:
    """Return the columns of `config.text`, one or two separated by a comma; raise ConfigError for more."""
    if config.text in table.columns:  # its name may have a comma
        return [config.text]
    columns = [column.strip() for column in config.text.split(",")]
    most = 2 if config.label else 1
    if not all(columns) or len(columns) > most:
        rule = "one or two columns, separated by a comma" if most == 2 else "one column, unless there is a --label"
        raise ConfigError(f"The value of `text` is {config.text!r}, but must name {rule}")
    return columns


def _rows(config: RunConfig, split: str, table: Table, rejected: Counter[str]) -> list[Row]:
    """Return the valid rows of a split; their ids are their numbers in the table."""
    columns = [*text_columns(config, table), *([config.target] if config.target else [])]
    numbers = {name: number for number, name in enumerate(config.class_names)}
    rows = []
    for number, record in enumerate(table.records, start=1):
        texts = [_text(record.get(column)) for column in columns]
        value = _text(record.get(config.label)) if config.label else ""
        faults = {
            "not a text": None in texts,
            "no label": bool(config.label) and not value and split != "test",
            "label is not one of the classes": bool(value) and value not in numbers,
            "empty text": not all(texts),
        }
        if fault := next((fault for fault, broken in faults.items() if broken), ""):
            rejected[fault] += 1
            continue
        first, second = [*filter(None, texts), ""][:2]
        rows.append(Row(id=str(number), text=first, second=second, label=numbers.get(value or "", NO_LABEL)))
    return distinct(rows, rejected) if split == "train" else rows


def _digest(row: Row) -> str:
    return hashlib.sha256(f"{row.text}\0{row.second}\0{row.label}".encode(errors="replace")).hexdigest()[:16]


def _text(value: Any) -> str | None:
    """Return a value of a table as stripped text, empty for a missing one; None for lists and objects."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():  # whole numbers with gaps are stored as floats
        return str(int(value))
    return str(value).strip() if isinstance(value, str | int | float) else None


def _number_or_text(name: str) -> tuple[bool, float, str]:
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (False, number, name) if math.isfinite(number) else (True, 0.0, name)
