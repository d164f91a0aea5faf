"""How far a round of candidate generation is, in counts."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """What is in the files of one shard, as counts by stage. `made` names the stages that were not there before."""

    number: int
    made: tuple[str, ...]
    rows: Mapping[str, int]
    reasons: Mapping[str, Mapping[str, int]]  # of rows that go no further; those that do are counted as in KEPT
    errors: Mapping[str, int]  # of quarantined rows


@dataclass
class Progress:
    """How far a round is. Counts are those of the files that are whole, made now or before."""

    round: int
    shards: int
    workers: int
    ready: int = 0  # of `workers`: generators that have loaded their model
    done: Counter[str] = field(default_factory=Counter)  # shards by stage
    made: Counter[str] = field(default_factory=Counter)  # those that were not there before
    rows: Counter[str] = field(default_factory=Counter)  # by stage
    fresh: Counter[str] = field(default_factory=Counter)  # rows by stage, of shards that were not there before
    reasons: dict[str, Counter[str]] = field(default_factory=dict)  # by stage
    errors: Counter[str] = field(default_factory=Counter)  # of quarantined rows
    seconds: float = 0.0
    working: float = 0.0  # of these, since the first generator was ready

    def add(self, report: Report) -> None:
        """Count one more answer of an actor."""
        self.done.update(report.rows.keys())
        self.made.update(report.made)
        self.rows.update(report.rows)
        self.fresh.update({stage: report.rows[stage] for stage in report.made})
        for stage, reasons in report.reasons.items():
            self.reasons.setdefault(stage, Counter()).update(reasons)
        self.errors.update(report.errors)

    @property
    def is_filtered(self) -> bool:
        """Whether all shards are filtered; the accepted pairs come after that."""
        return self.done["judged"] == self.shards


Listener = Callable[[Progress], object]
