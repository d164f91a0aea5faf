"""A user's own data: rows from the columns of tables, in splits that are given or divided off."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpt2core.config import RunConfig
from gpt2core.data.corpus import NO_LABEL, Corpus, Row, by_reason, unique
from gpt2core.data.dividing import evenly
from gpt2core.data.origin import DataOrigin, Licence
from gpt2core.data.tables import Table, check_columns, is_on_hub, read_hub, read_table
from gpt2core.distill.text import words
from gpt2core.errors import ConfigError, DataError, visible

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
    rejected: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    tables = {split: table for split in SPLITS if (table := _table(config, split, rejected[split])) is not None}
    splits = {split: _usable_rows(config, split, table, rejected[split]) for split, table in tables.items()}
    missing = [split for split in ("dev", "test") if config.train and split not in splits]
    if missing:
        try:
            splits |= divided(splits["train"], missing, config.split_seed, by_prompt=config.target is not None)
        except DataError as error:
            raise DataError("; ".join([f"{config.train}: {error}", *by_reason(rejected["train"])])) from None
    source = ", ".join(f"{split} from {_name(place)}" for split, place in _places(config).items())
    notes = [f"{split} {table.note}" for split, table in tables.items() if table.note]
    if missing:
        notes.append(f"{' and '.join(missing)} divided off train with seed {config.split_seed}")
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    file = next((Path(place).expanduser() for place in _places(config).values() if not is_on_hub(place)), None)
    place = "" if file is None else str(file.absolute())
    origin = DataOrigin(source=source, licence=LICENCE, hub=_hub(config).partition(":")[0], place=place)
    return Corpus(
        name="own data", origin=origin, splits=ordered, rejected=sum(rejected.values(), Counter()), notes=tuple(notes)
    )


def class_names(config: RunConfig) -> tuple[str, ...]:
    """Return the classes of the training texts, numbers in ascending order.

    Raises DataError unless they are 2 to MOST_CLASSES, and for numbers that are written in several ways.
    """
    table = _table(config, "train", Counter())
    assert table is not None
    assert config.label is not None
    values = [record.get(config.label) for record in table.records]
    names = sorted({name for value in values if (name := _text(value))}, key=_number_or_text)
    column = f"{config.train}: the column `{config.label}`"
    if not names:
        faults = by_reason(Counter(_fault(config.label, value) for value in values))
        raise DataError(f"{column} has no class; {'; '.join(faults)}; name a --label of texts or numbers")
    if len(names) == 1:
        raise DataError(f"{column} has only the class {_listed(names)}, but must have 2 or more to classify")
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"{column} has {len(names):,} different values, but must have at most {MOST_CLASSES} classes: {_listed(names)}; "
            "name another --label, or --target for texts"
        )
    for pair in pairwise(names):
        if _number(pair[0]) == _number(pair[1]):
            raise DataError(f"{column} has the classes {_listed(pair)}, which are the same number; write them alike")
    return tuple(names)


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
    fewer than LEAST texts, and if no class has TO_STRATIFY.
    """
    purpose = f"to divide off {' and '.join(splits)}"
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[_key(row, by_prompt)].append(row)
    if splits and len(groups) < LEAST:
        raise DataError(f"the number of different texts is {len(groups)}, but must be at least {LEAST} {purpose}")
    sizes = Counter(group[0].label for group in groups.values())
    if splits and max(sizes.values()) < TO_STRATIFY:
        raise DataError(
            f"the number of different texts in the largest of {len(sizes)} classes is {max(sizes.values())}, but must be at "
            f"least {TO_STRATIFY} {purpose}; name another --label, or give --dev and --test"
        )
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


def _place(config: RunConfig, split: str) -> str:
    """Return the place of a split: the given one, or the data set on the hub to train on; empty if there is neither."""
    return getattr(config, split) or _hub(config)


def _hub(config: RunConfig) -> str:
    """Return the name of the data set on the hub to train on, which may have all splits; empty if there is none."""
    return config.train if config.train and is_on_hub(config.train) else ""


def _name(place: str) -> str:
    return place if is_on_hub(place) else Path(place).name


def _table(config: RunConfig, split: str, rejected: Counter[str]) -> Table | None:
    """Return the table of a split with its columns checked, or None if there is none. A test split may lack classes."""
    place = _place(config, split)
    if not place:
        return None
    table = read_hub(place, split) if is_on_hub(place) else read_table(place, rejected)
    if table is None:
        if getattr(config, split):
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


def _usable_rows(config: RunConfig, split: str, table: Table, rejected: Counter[str]) -> list[Row]:
    """Return the valid rows of a split with texts that can be stored.

    Raises DataError if there are none, except in the test split of a data set on the hub, which may lack targets.
    """
    rows = unique(_rows(config, split, table, rejected), rejected)
    if rows or (split == "test" and not config.test):
        return rows
    remedy = "name other columns, or mend the file"
    if config.label and _unknown_class(config) in rejected:
        names = {name for record in table.records if (name := _text(record.get(config.label)))}
        remedy = f"classes here: {_listed(sorted(names))}; of train: {_listed(config.class_names)}"
    parts = [f"{_place(config, split)}: no row of the {split} split can be used", *by_reason(rejected), remedy]
    raise DataError("; ".join(parts))


def _rows(config: RunConfig, split: str, table: Table, rejected: Counter[str]) -> list[Row]:
    """Return the valid rows of a split; their ids are their numbers in the table."""
    columns = [*text_columns(config, table), *([config.target] if config.target else [])]
    needed = [*columns, config.label] if config.label and split != "test" else columns
    numbers = {name: number for number, name in enumerate(config.class_names)}
    rows = []
    for number, record in enumerate(table.records, start=1):
        values = {column: _text(record.get(column)) for column in needed}
        label = _text(record.get(config.label)) if config.label else ""
        if fault := next((_fault(column, record.get(column)) for column in needed if not values[column]), ""):
            rejected[fault] += 1
        elif label and label not in numbers:
            rejected[_unknown_class(config)] += 1
        else:
            first, second = [*(values[column] or "" for column in columns), ""][:2]
            rows.append(Row(id=str(number), text=first, second=second, label=numbers.get(label or "", NO_LABEL)))
    return distinct(rows, rejected) if split == "train" else rows


def _unknown_class(config: RunConfig) -> str:
    return f"`{config.label}` has a class that train lacks"


def _fault(column: str, value: Any) -> str:
    """Return the reason why a value without text is rejected."""
    if _text(value) is None:
        return f"`{column}` is of the type {type(value).__name__}, neither text nor number"
    return f"`{column}` is empty"


def _listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first names on one line."""
    quoted = [f"`{visible(' '.join(name.split()), 60)}`" for name in names[:most]]
    return ", ".join(quoted + ["..."] * (len(names) > most))


def _digest(row: Row) -> str:
    return hashlib.sha256(f"{row.text}\0{row.second}\0{row.label}".encode(errors="replace")).hexdigest()[:16]


def _text(value: Any) -> str | None:
    """Return a value of a table as stripped text, empty for a missing one; None if it is neither text nor number."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():  # whole numbers with gaps are stored as floats
        return str(int(value))
    return str(value).strip() if isinstance(value, str | int | float | Decimal) else None


def _number_or_text(name: str) -> tuple[bool, float, str]:
    number = _number(name)
    return (True, 0.0, name) if math.isnan(number) else (False, number, name)


def _number(name: str) -> float:
    """Return the finite number that a text is, or NaN."""
    try:
        number = float(name)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
