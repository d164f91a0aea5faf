"""The summary of a search, as summary.json holds it: all that screen, report, study report and promotion read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, computed_field, model_validator

from gpt2core.data.origin import DataOrigin
from gpt2core.files import read_json
from gpt2core.metrics.direction import Direction
from searches.running.quantities import QuantityRow
from searches.running.schema_1 import upgrade

SCHEMA = 2  # of a summary; `schema_1` converts older ones

Values = dict[str, Any]
Number = int | float
Role = Literal["scientific", "nuisance"]
Outcome = Literal["difference", "equivalent", "undecided"]


class _Part(BaseModel):
    """Base of the parts of a summary. Fields that older summaries lack have neutral defaults."""

    model_config = ConfigDict(ser_json_inf_nan="constants")


class MetricRow(_Part):
    """How a metric is shown; a difference, in `unit`, below `margin` does not matter."""

    direction: Direction
    unit: str
    digits: int
    margin: float


class NamedMetric(MetricRow):
    """The metric that decides the comparison."""

    name: str


class TrialRow(_Part):
    """A trial. `of` names the trial that it repeats on a fresh seed, `parent` the trial whose checkpoint it started from.

    `metrics` are those of the best epoch and the costs of the trial; `curve` has the metrics of each epoch that counts.
    """

    id: str
    status: str
    origin: str = ""
    of: str | None = None
    reason: str | None = None
    parent: str | None = None
    feasible: bool = True
    point: Values = {}
    config: Values = {}
    epochs: int = 0
    best_epoch: int | None = None
    score: float | None = None
    metrics: dict[str, Number] = {}
    data: Values = {}
    curve: list[dict[str, Number]] = []


class ComparedSetting(_Part):
    """A compared setting: a value of the factor at its best other settings, or a trial; with its runs on fresh seeds.

    `trials` is the number of its trials in the search, `expected` the expected best score of 1, 2, ... of them.
    """

    name: str = ""
    value: Values = {}
    trial: str | None
    point: Values = {}
    trials: int = 0
    score: float | None = None
    runs: list[float] = []
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    failed: list[str] = []
    stable: bool = False
    upper_reference: bool = False  # shows what is possible, but has no part in the decision
    expected: list[float] = []


class Difference(_Part):
    """The difference of two settings, a minus b, with its simultaneous interval and corrected p-value."""

    a: str
    b: str
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None


class Factor(_Part):
    """The factor of the question: the keys whose values are compared."""

    name: str
    keys: list[str]


class Test(_Part):
    """The test of the comparison: smallest p-value, significance level of this look, p of Welch's ANOVA over all settings."""

    p_value: float | None = None
    level: float = 0.05
    anova: float | None = None


class Verdict(_Part):
    """The answer to the question: `sentences`, the first of which is the claim, and the numbers behind them."""

    sentences: list[str]
    outcome: Outcome = "undecided"
    factor: Factor | None = None
    metric: NamedMetric = NamedMetric(name="", direction=Direction.MAX, unit="", digits=2, margin=0.0)
    rows: list[ComparedSetting] = []
    pairs: list[Difference] = []
    test: Test = Test()
    excluded: float | None = None  # larger differences are ruled out
    decided: bool = False
    seeds: int = 0
    looks: list[int] = []
    seeds_needed: int | None = None
    needs_texts: bool = False
    winner: str | None = None  # a trial, like `chosen` and `reference`
    chosen: str | None = None
    best: list[str] = []  # settings that no other is significantly better than
    reference: str | None = None
    scope: str = ""
    notes: list[str] = []
    evidence: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "sentences" not in values and "text" in values:
            return {**values, "sentences": [values["text"]]}
        return values

    @property
    def claim(self) -> str:
        """The first sentence, which answers the question."""
        return self.sentences[0]

    @property
    def rest(self) -> str:
        """The other sentences."""
        return " ".join(self.sentences[1:])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def text(self) -> str:
        """The answer in full."""
        return " ".join(self.sentences)


class EffectRow(_Part):
    """How much a setting mattered: its share of the explained variance, best and worst value, and their difference."""

    key: str
    share: float
    low: float
    high: float
    best: str
    worst: str
    difference: float
    difference_low: float
    difference_high: float
    factor: bool = False


class Effects(_Part):
    """Which settings mattered, as an exploration of the search's trials; `why` explains its basis, or why there are no rows."""

    trials: int = 0
    rows: list[EffectRow] = []
    why: str = "No data was recorded for this."
    explained: float | None = None


class ReliabilityRow(_Part):
    """How well a metric tells settings apart: variance between settings, within a setting, and the share of the former."""

    metric: str
    between: float
    within: float | None
    reliability: float | None
    settings: int
    runs: int


class Score(_Part):
    """An estimate with its 95% interval."""

    estimate: float
    low: float | None = None
    high: float | None = None


class OnTest(_Part):
    """The scores on the test split, by trial."""

    scores: dict[str, Score]
    text: str = ""


class GainRow(_Part):
    """The gain of a trial of several tasks over separately tuned models, in percent: of each task, their mean, and the least."""

    trial: str
    tasks: dict[str, float]
    mean: float
    worst: float


class BaselineRow(_Part):
    """A trivial baseline: what it predicts, and mean and standard deviation of its scores by metric."""

    meaning: str
    scores: dict[str, tuple[float, float]]


class SearchMethod(_Part):
    """Search algorithm, early stopping and limits."""

    model_config = ConfigDict(extra="allow")

    sampler: str
    scheduler: str
    limits: list[str] = []


class Space(_Part):
    """The values of a searched key: choices, or a range."""

    text: str
    kind: Literal["choice", "uniform", "log-uniform"]
    role: Role | None = None
    values: list[Any] = []
    low: float | None = None
    high: float | None = None


class WarmStarted(_Part):
    """The trials with points of earlier searches (one may be the reference), and the rank of the best of them in `of` trials."""

    searches: list[str]
    trials: list[str]
    best: str | None
    rank: int | None
    of: int
    text: str
    notes: list[str] = []


class DecodingRow(_Part):
    """A trial's ranks and scores with fixed decoding and with the best decoding, whose `settings` it names."""

    trial: str
    point: Values
    rank_fixed: int
    rank_best: int
    score_fixed: float
    score_best: float
    settings: str


class DecodingOrder(_Part):
    """The trials by the best decoding, best first; Kendall's `tau` with their order by fixed decoding; both in sentences."""

    metric: str
    rows: list[DecodingRow]
    tau: Score | None
    text: str


class Pairs(_Part):
    """A set of generated pairs: its sizes by stage, and its critic; `stand_in` describes a critic that is no entailment model."""

    contexts: int
    candidates: int
    pairs: int
    accepted: int
    critic: str
    model: str
    stand_in: str | None = None
    digest: str


class Spending(_Part):
    """Limits of the budget, what is spent, and whether the budget ended the search."""

    limits: dict[str, float] = {}
    usd_per_gpu_hour: float | None = None
    spent: dict[str, float] = {}
    ended: bool = False


class Summary(_Part):
    """The results of a search. `best` and `reference` are rows of `trials`; `pareto` names trials on the front with `costs`."""

    schema_version: int = SCHEMA
    search: str = ""
    script: str = ""
    question: str = ""
    task: str = ""
    judged_on: str = ""  # as `Comparing.on`
    report: str = ""  # link to the report from the study report
    smoke: bool = False
    objective: str = ""
    direction: Direction = Direction.MAX
    model: str = ""
    model_is_stand_in: bool = False
    data: dict[str, str] = {}
    origin: DataOrigin | None = None  # of the data; None before it is read
    trials: list[TrialRow]
    best: TrialRow | None = None
    reference: TrialRow | None = None
    method: SearchMethod | None = None
    costs: list[str] = []
    pareto: list[str] = []
    task_objectives: list[str] = []  # of a search over runs of several tasks: the metric of each
    gains: list[GainRow] = []
    baselines: dict[str, BaselineRow] = {}
    answer: Verdict
    effects: Effects = Effects()
    reliability: list[ReliabilityRow] = []
    metrics: dict[str, MetricRow] = {}
    test: OnTest | None = None
    counts: dict[str, int] = {}
    wall_seconds: float = 0.0
    versions: dict[str, str] = {}
    forecast: list[QuantityRow] = []
    budget: Spending = Spending()
    space: dict[str, Space] = {}
    warm_start: WarmStarted | None = None
    decoding: DecodingOrder | None = None  # with `decoding=best_of:K`
    time: dict[str, float] = {}
    samples: dict[str, list[dict[str, str]]] = {}
    pairs: dict[str, Pairs] = {}
    environment: dict[str, str] = {}
    commands: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, values: Any) -> Any:
        return upgrade(values) if isinstance(values, dict) else values

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read summary.json. Raises OSError, DataError if it is no JSON object, ValidationError if it is no summary."""
        return cls.model_validate(read_json(path))

    @property
    def by_texts(self) -> bool:
        """Whether scores are by known texts, so that each has an interval; a program reports only numbers."""
        return self.judged_on != "program"

    @property
    def subject(self) -> str:
        """The model, or the program that the search runs, with the word for it."""
        return f"{'Model' if self.by_texts else 'Program'}: {self.model}"

    @property
    def criteria(self) -> list[str]:
        """The metrics of the Pareto front: the score, or that of each task, and then the costs."""
        return [*(self.task_objectives or [self.objective]), *self.costs]

    @property
    def best_id(self) -> str | None:
        """Id of the best trial."""
        return self.best.id if self.best else None

    @property
    def reference_id(self) -> str | None:
        """Id of the reference trial."""
        return self.reference.id if self.reference else None

    @property
    def searched(self) -> list[TrialRow]:
        """The trials without replicates."""
        return [row for row in self.trials if row.of is None]

    def ranked(self, rows: Sequence[TrialRow] | None = None) -> list[TrialRow]:
        """Return rows, by default those of `searched`, best first; those without a score last."""
        sign, rows = self.direction.sign, self.searched if rows is None else rows
        return sorted(rows, key=lambda row: (row.score is None, -sign * (row.score or 0.0), row.id))

    def digits(self, metric: str, otherwise: int = 2) -> int:
        """Return the decimals with which a metric is shown."""
        if metric in self.metrics:
            return self.metrics[metric].digits
        return 0 if metric.endswith("parameters") else otherwise
