"""The manifest of a set of candidates, which may come from elsewhere: what each round must say, and how."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, StringConstraints, ValidationError

from gpt2core.errors import DataError, shown
from gpt2core.files import broken_rule, read_json

MANIFEST = "manifest.json"

Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")
]  # of a file, in the folder of its stage


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Made(_Part):
    made: int
    reasons: dict[str, int]


class _Contexts(_Part):
    asked: int
    made: int


class _Quarantined(_Part):
    rows: int
    errors: dict[str, int]


class _Digests(_Part):
    model: str
    generator: str
    prefixes: str


class _Generation(_Part):
    source: str


class _Thresholds(_Part):
    tau: float


class _Critic(_Part):
    critic: str


class _Shards(_Part):
    pairs: Annotated[list[Name], Field(min_length=1)]
    judged: list[Name] | None = None


class Readable(_Part):
    """What a student reads of a round; without thresholds and digest, its accepted/ is not read."""

    round: int
    shards: _Shards
    thresholds: _Thresholds | None = None
    digest: str | None = None
    accepted: int | None = None
    negatives: int | None = None


class Told(Readable):
    """What a card and a screen tell of a round."""

    rewrite: bool
    generation: _Generation
    thresholds: _Thresholds
    model: str
    generator: str
    digests: _Digests
    critic: _Critic
    stand_in: str | None
    contexts: _Contexts
    candidates: _Made
    pairs: _Made
    accepted: int
    negatives: int
    digest: str
    examples: dict[str, list[Annotated[tuple[Name, str], Strict(False)]]]  # file and id of a pair
    quarantined: _Quarantined


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The rounds of a manifest, as a student reads them. Raises OSError, and DataError for whatever is none."""
    return checked_rounds(path, read_json(path), Readable)


def checked_rounds(path: Path, values: Mapping[str, Any], kind: type[Readable]) -> list[dict[str, Any]]:
    """The rounds that the manifest at `path` holds; raise DataError where they do not say what `kind` is."""
    rounds = values.get("rounds")
    if not isinstance(rounds, list):
        raise DataError(f"{path}: `rounds` is {shown(rounds)}, but must be a list")
    for number, entry in enumerate(rounds, start=1):
        try:
            kind.model_validate(entry)
        except ValidationError as error:
            raise DataError(f"{path}: round {number}: {broken_rule(error)}") from None
        if entry["round"] != number:
            raise DataError(f"{path}: round {number} is called {shown(entry['round'])}")
    return rounds
