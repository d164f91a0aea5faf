"""Progress of a round of candidate generation, as counts."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """Counts of the rows in the files of one shard, by stage. `made` names the stages that did not exist before."""

    number: int
    made: tuple[str, ...]
    rows: Mapping[str, int]
    reasons: Mapping[str, Mapping[str, int]]  # of rejected rows; rows that go on count as `usable` or `accepted`
    errors: Mapping[str, int]  # of quarantined rows


@dataclass
class Progress:
    """Progress of a round. Counts cover all complete files, whether made now or before."""

    round: int
    shards: int
    workers: int
    ready: int = 0  # generators that have loaded their model
    done: Counter[str] = field(default_factory=Counter)  # shards by stage
    made: Counter[str] = field(default_factory=Counter)  # of these, shards made by this process's workers
    rows: Counter[str] = field(default_factory=Counter)  # by stage
    fresh: Counter[str] = field(default_factory=Counter)  # of these, rows in shards made by this process's workers
    reasons: dict[str, Counter[str]] = field(default_factory=dict)  # by stage
    errors: Counter[str] = field(default_factory=Counter)  # of quarantined rows
    seconds: float = 0.0
    working: float = 0.0  # of these, since the first generator was ready

    def add(self, report: Report) -> None:
        """Add the counts of one shard."""
        self.done.update(report.rows.keys())
        self.made.update(report.made)
        self.rows.update(report.rows)
        self.fresh.update({stage: report.rows[stage] for stage in report.made})
        for stage, reasons in report.reasons.items():
            self.reasons.setdefault(stage, Counter()).update(reasons)
        self.errors.update(report.errors)

    def rates(self) -> dict[str, float]:
        """Return rows per second by stage, of shards made by this process's workers."""
        seconds = max(self.working, 1e-9)
        return {stage: self.fresh[stage] / seconds for stage in ("contexts", "candidates", "pairs")}

    @property
    def is_filtered(self) -> bool:
        """Whether all shards are filtered; only acceptance remains."""
        return self.done["judged"] == self.shards


Listener = Callable[[Progress], object]
