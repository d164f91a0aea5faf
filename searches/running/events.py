"""What a line of a ledger may be: the kinds of events, and the fields that each has. Nothing else gets in or out of one."""

from collections.abc import Container
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gpt2core.data.origin import DataOrigin
from gpt2core.errors import DataError, UserError
from gpt2core.files import json_object
from gpt2core.storage import LONGEST, NAME
from searches.running.quantities import Forecast
from searches.running.schema_1 import as_of_today

Event = dict[str, Any]
LONGEST_LINE = 2**26  # bytes
SCHEMA = 2  # of the events below; `schema_1` says how those before differ

Name = Annotated[
    str, StringConstraints(pattern=f"^(?:{NAME.pattern})$", max_length=LONGEST)
]  # a trial's, and its folder's
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
Whole = Annotated[int, Field(ge=0, le=10**12)]
Scalar = str | int | float | bool | None
Values = dict[str, Any]
Texts = dict[str, str]
Metrics = dict[str, float]  # a loss that diverged is no number


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Event(_Part):
    time: Finite = 0.0


class _Search(_Event):
    schema_version: Annotated[int, Field(ge=1)] = 1
    digest: str
    id: str = ""
    name: str = ""


class _Started(_Event):
    argv: list[str] = []
    environment: Texts = {}


class _Cluster(_Event):
    cluster: Texts


class _Share(_Event):
    gpus: Finite
    cpus: Finite
    concurrent: Whole


class _Lag(_Event):
    trials: Whole


class _GpuPart(_Event):
    part: Finite
    trial: Name
    reason: str


class _Baseline(_Part):
    meaning: str
    scores: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]


class _Judges(_Part):
    on: Literal["dev", "folds", "test"]
    texts: Whole
    run: Values


class _Data(_Event):
    data: Texts
    origin: DataOrigin | None = None
    baselines: dict[str, _Baseline]
    judges: _Judges | None = None


class _Looks(_Part):
    looks: list[Whole]


class _Design(_Event):
    design: _Looks


class _Finalists(_Event):
    trials: list[Name]


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


class _Candidates(_Event):
    name: str
    made: _Pairs


class _Run(_Part):
    epochs: Annotated[int, Field(ge=1, le=10**9)]


class _Trial(_Part):
    model_config = ConfigDict(strict=True, extra="forbid")  # so that no line sets what only later ones may
    name: Name
    point: dict[str, Scalar]
    run: _Run
    origin: str
    of: Name | None = None
    optuna: Whole | None = None  # which ledgers of earlier versions have
    parent: Name | None = None
    until: Whole | None = None


class _Proposed(_Event):
    trial: _Trial


class _Report(_Event):
    trial: Name
    epoch: Whole
    metrics: Metrics
    statistics: Values | None = None
    judged: Metrics = {}
    samples: list[dict[str, Scalar]] = []
    tables: dict[str, list[Any] | Values] = {}
    data: dict[str, Scalar] = {}
    seconds: dict[str, Finite] = {}
    began: Finite | None = None


class _Stopped(_Event):
    trial: Name
    epoch: Whole
    reason: str


class _Ended(_Event):
    trial: Name
    status: Literal["running", "completed", "stopped", "failed", "diverged", "out_of_memory"]
    reason: str | None = None


class _Testing(_Event):
    trials: list[Name]


class _Test(_Event):
    trial: Name
    metrics: Metrics = {}
    statistics: Values | None = None


class _Reopened(_Event):
    trial: Name


class _Plan(_Event):
    plan: Forecast


class _Duplicate(_Event):
    point: dict[str, Scalar]


class _RunOf(_Event):
    trial: Name | Literal[""]  # "" is the search itself
    run_id: str


class _Control(_Event):
    command: str
    trial: str | None = None
    set: Values = {}


#: Kind of an event -> its fields; others may stand beside them.
KINDS: dict[str, type[_Event]] = {
    "search": _Search,
    "started": _Started,
    "cluster": _Cluster,
    "share": _Share,
    "lag": _Lag,
    "gpu_part": _GpuPart,
    "data": _Data,
    "design": _Design,
    "finalists": _Finalists,
    "candidates": _Candidates,
    "proposed": _Proposed,
    "report": _Report,
    "stopped": _Stopped,
    "ended": _Ended,
    "testing": _Testing,
    "test": _Test,
    "reopened": _Reopened,
    "plan": _Plan,
    "duplicate": _Duplicate,
    "run": _RunOf,
    "control": _Control,
    "left": _Event,
}
#: Events that speak of a trial that was proposed before.
ABOUT = ("gpu_part", "report", "stopped", "ended", "test", "reopened")


class EventError(UserError):
    """What is no event of a search; the message says why."""


def parse(line: bytes, trials: Container[str]) -> Event:
    """The event of a line; raise EventError where it is none, or none that may follow the proposals of these `trials`."""
    try:
        event = as_of_today(json_object(line, LONGEST_LINE))
    except DataError as error:
        raise EventError(str(error)) from None
    kind = event.get("event")
    if not isinstance(kind, str) or kind not in KINDS:
        raise EventError(f"has the `event` {str(kind)[:50]!r}, but must have one of {', '.join(KINDS)}")
    try:
        KINDS[kind].model_validate(event)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, wrong["loc"]))[:100]
        raise EventError(f"has a wrong `{place}`: {wrong['msg'].lower()}") from None
    if kind == "search" and event.get("schema_version", 1) > SCHEMA:
        raise EventError(
            f"has the `schema_version` {event['schema_version']}, but must have at most {SCHEMA}: update gpt2-search"
        )
    _check_trials(kind, event, trials)
    return event


def _check_trials(kind: str, event: Event, trials: Container[str]) -> None:
    """Raise EventError where an event speaks of trials that there are not, or proposes one that there is."""
    named: list[str | None] = []
    if kind == "proposed":
        trial = event["trial"]
        if trial["name"] in trials:
            raise EventError(f"proposes trial {trial['name']} a second time")
        named = [trial.get("of"), trial.get("parent")]
    elif kind in ABOUT or (kind == "run" and event["trial"]):
        named = [event["trial"]]
    elif kind in ("finalists", "testing"):
        named = event["trials"]
    for name in named:
        if name is not None and name not in trials:
            raise EventError(f"speaks of trial {name}, which no line before it proposes")
