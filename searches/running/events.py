"""The events of a ledger: one class per kind, with the fields that a line must have. Nothing else is written or read."""

from collections.abc import Container
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetPydanticSchema, StringConstraints, ValidationError
from pydantic_core.core_schema import no_info_wrap_validator_function

from gpt2core.data.origin import DataOrigin
from gpt2core.errors import DataError, UserError
from gpt2core.files import json_object
from gpt2core.storage import LONGEST, NAME
from searches.running.quantities import Forecast
from searches.running.schema_1 import upgrade

LONGEST_LINE = 2**26  # bytes
SCHEMA = 2  # of the events below; `schema_1` converts older ones

RawEvent = dict[str, Any]  # an event as JSON has it
Name = Annotated[
    str, StringConstraints(pattern=f"^(?:{NAME.pattern})$", max_length=LONGEST)
]  # of a trial and its folder
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
Whole = Annotated[int, Field(ge=0, le=10**12)]
Scalar = str | int | float | bool | None
Values = dict[str, Any]
Texts = dict[str, str]


def _valid(kind: Any) -> GetPydanticSchema:
    """Validate a value as `kind`, but keep it unchanged: with its other keys, their order, and integers as integers."""

    def keep(value: Any, validate: Any) -> Any:
        validate(value)
        return value

    return GetPydanticSchema(lambda _, handler: no_info_wrap_validator_function(keep, handler.generate_schema(kind)))


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Baseline(_Part):
    meaning: str
    scores: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]


class _Judges(_Part):
    on: Literal["dev", "folds", "test", "program"]
    texts: Whole
    run: Values
    scored: Whole | None = None


class _Design(_Part):
    looks: list[Whole]


class _Made(_Part):
    made: Whole


class _Critic(_Part):
    critic: str
    model: str


class _Pairs(_Part):
    contexts: _Made
    candidates: _Made
    pairs: _Made
    accepted: Whole
    critic: _Critic
    stand_in: str | None
    digest: str


class _Run(_Part):
    epochs: Annotated[int, Field(ge=1, le=10**9)]


class ProposedTrial(_Part):
    """A trial as it was proposed; unknown keys are refused, so that no line sets what only later events may set."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: Name
    point: dict[str, Scalar]
    run: Annotated[Values, _valid(_Run)]
    origin: str
    of: Name | None = None
    optuna: Whole | None = None  # in ledgers of earlier versions
    parent: Name | None = None
    until: Whole | None = None


Metrics = Annotated[dict[str, float], _valid(dict[str, float])]  # the loss of a diverged trial is NaN


#: Kind of an event, as `event` names it in the file -> its class.
KINDS: dict[str, type["Event"]] = {}


class Event(_Part):
    """An event at a time in seconds since the epoch; only old ledgers have events without a time. Unknown fields are ignored."""

    time: Finite | None = None

    def __init_subclass__(cls, kind: str = "") -> None:
        if kind:
            KINDS[kind] = cls


class Search(Event, kind="search"):
    """First event: which search this is."""

    schema_version: Annotated[int, Field(ge=1)] = 1
    digest: str
    id: str = ""
    name: str = ""


class WarmStart(_Part):
    """What an earlier search gives to this one: its best trials, their `points` in the space of this search, and what changed."""

    search: str
    model: str
    trials: list[str]
    points: list[dict[str, Scalar]]
    notes: list[str] = []


class Started(Event, kind="started"):
    """A driver process started or resumed the search."""

    argv: list[str] = []
    folder: str = ""
    environment: Texts = {}
    file: str = ""
    definition: Values = {}
    warm_start: list[WarmStart] = []


class Cluster(Event, kind="cluster"):
    cluster: Texts


class Share(Event, kind="share"):
    """The resources of each trial from now on."""

    gpus: Finite
    cpus: Finite
    concurrent: Whole


class Lag(Event, kind="lag"):
    trials: Whole


class Data(Event, kind="data"):
    """Digests of data and model, and the trivial baselines."""

    data: Texts
    origin: DataOrigin | None = None
    baselines: Annotated[dict[str, Values], _valid(dict[str, _Baseline])]
    judges: Annotated[Values | None, _valid(_Judges | None)] = None


class Design(Event, kind="design"):
    design: Annotated[Values, _valid(_Design)]


class Predicted(Event, kind="plan"):
    plan: Forecast


class Candidates(Event, kind="candidates"):
    name: str
    made: Annotated[Values, _valid(_Pairs)]


class Proposed(Event, kind="proposed"):
    trial: ProposedTrial


class Duplicate(Event, kind="duplicate"):
    """The sampler proposed a point that an earlier trial has."""

    point: dict[str, Scalar]


class Finalists(Event, kind="finalists"):
    """The trials that are compared on fresh seeds."""

    trials: list[Name]


class Testing(Event, kind="testing"):
    """The trials that are about to be scored on the test split."""

    trials: list[Name]


class AboutTrial(Event):
    """An event about an earlier trial."""

    trial: Name


class _Scores(_Part):
    """`metrics` on the texts that choose the best epoch, `judged` on held-out texts, and packed counts for the comparison."""

    metrics: Metrics = {}
    statistics: Values | None = None
    judged: Metrics = {}


class Scores(_Scores, AboutTrial):
    """Scores of a trial."""


class EpochScores(_Scores):
    """Scores of an epoch."""

    epoch: Whole
    metrics: Metrics
    samples: list[dict[str, Scalar]] = []
    tables: dict[str, list[Any] | Values] = {}


class Report(EpochScores, Scores, kind="report"):
    """What a trial reported after an epoch. `best` has all scores of the best epoch, if these were left to the last one."""

    best: EpochScores | None = None
    data: dict[str, Scalar] = {}
    seconds: dict[str, Finite] = {}
    began: Finite | None = None


class Test(Scores, kind="test"):
    """What a trial scored on the test split."""


class Stopped(AboutTrial, kind="stopped"):
    """A rule or a user stopped a trial at an epoch."""

    epoch: Whole
    reason: str


class Ended(AboutTrial, kind="ended"):
    status: Literal["running", "completed", "stopped", "failed", "diverged", "out_of_memory"]
    reason: str | None = None


class Reopened(AboutTrial, kind="reopened"):
    """An ended trial continues."""


class GpuPart(AboutTrial, kind="gpu_part"):
    """A trial needed more GPU memory; later trials get this part of a GPU."""

    part: Finite
    reason: str


class MlflowRun(Event, kind="run"):
    trial: Name | Literal[""]  # "" is the search itself
    run_id: str


class Control(Event, kind="control"):
    """A user's command, which the search carried out."""

    command: str
    trial: str | None = None
    set: Values = {}


class Left(Event, kind="left"):
    """A driver process finished; events of earlier versions do not say how."""

    status: Literal["finished", "killed", "failed", "ended"] = "ended"


class EventError(UserError):
    """A line is not a valid event; the message says why."""


def parse(line: bytes, trials: Container[str]) -> Event:
    """Return the event of a line. Raise EventError if it is invalid, or names a trial that `trials`, the earlier ones, lack."""
    try:
        event = event_of(upgrade(json_object(line, LONGEST_LINE)))
    except DataError as error:
        raise EventError(str(error)) from None
    if isinstance(event, Search) and event.schema_version > SCHEMA:
        raise EventError(
            f"has the `schema_version` {event.schema_version}, but must have at most {SCHEMA}: update gpt2-search"
        )
    _check_trials(event, trials)
    return event


def event_of(raw: RawEvent) -> Event:
    """Return the typed event; raise EventError if its kind is unknown or a field is missing or wrong."""
    kind = raw.get("event")
    if not isinstance(kind, str) or kind not in KINDS:
        raise EventError(f"has the `event` {str(kind)[:50]!r}, but must have one of {', '.join(KINDS)}")
    try:
        return KINDS[kind].model_validate(raw)
    except ValidationError as error:
        raise EventError(f"has a wrong {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """Return the first wrong field and its rule, in one line."""
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"`{'.'.join(map(str, problem['loc']))[:100]}`: {problem['msg'].lower()}"


def _check_trials(event: Event, trials: Container[str]) -> None:
    """Raise EventError if an event names an unknown trial, or proposes a known one."""
    named: list[str | None] = []
    match event:
        case Proposed():
            if event.trial.name in trials:
                raise EventError(f"proposes trial {event.trial.name} a second time")
            named = [event.trial.of, event.trial.parent]
        case AboutTrial() | MlflowRun():
            named = [event.trial or None]
        case Finalists() | Testing():
            named = [*event.trials]
    for name in named:
        if name is not None and name not in trials:
            raise EventError(f"names trial {name}, which no earlier line proposes")
