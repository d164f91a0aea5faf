"""The manifest of a set of generated pairs: what each round must record. It is validated, for it may come from elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, StringConstraints, ValidationError

from gpt2core.errors import DataError, shown
from gpt2core.files import broken_rule, read_json

MANIFEST = "manifest.json"

#: The name of a file in the folder of its stage.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


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


class Round(_Part):
    """What a student reads of a round. If a value is missing, accepted/ is not read."""

    round: int
    shards: _Shards
    thresholds: _Thresholds | None = None
    digest: str | None = None
    accepted: int | None = None
    negatives: int | None = None


class ReportedRound(Round):
    """What the data card and the screen report about a round."""

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
    examples: dict[str, list[Annotated[tuple[Name, str], Strict(False)]]]  # reason -> file and id of each pair
    quarantined: _Quarantined


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """Return the rounds of a manifest as a student reads them; raise OSError, or DataError if it is not a valid manifest."""
    return validated_rounds(path, read_json(path), Round)


def validated_rounds(path: Path, values: Mapping[str, Any], kind: type[Round]) -> list[dict[str, Any]]:
    """Return the rounds in the values of the manifest at `path`; raise DataError if one is not a valid `kind`."""
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
