"""A thin Tune searcher over Optuna's ask and tell: every point once, known points first, then a fair comparison.

Ray's own OptunaSearch tells the last value in place of the best, takes stopped trials for complete ones and hands
out duplicates (ray#35319); this one keeps Optuna's storage and the ledger as its memory.
"""

import itertools
import json
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from gpt2core.config import RunConfig
from searches import failures
from searches.ledger import COMPLETED, RUNNING, STOPPED, Event, Ledger, Trial
from searches.question import Choice, Domain, LogUniform, Plan
from trainables.trial import TrialSpec

ATTEMPTS = 100  # proposals in a row that may repeat known points before no more are made


class OptunaSearcher(Searcher):  # type: ignore[misc]  # Ray ships no types
    """Proposes the trials of a plan, then replicates of the best one and the baseline; writes all it learns to the ledger."""

    def __init__(self, plan: Plan, ledger: Ledger, study: optuna.Study, spec: TrialSpec, trials_folder: str) -> None:
        super().__init__(metric="objective", mode=plan.direction)
        self.plan, self.ledger, self.study = plan, ledger, study
        self.spec, self.trials_folder = spec, trials_folder
        self.names: dict[str, str] = {}  # Tune's id of a trial -> ours
        self.unfinished = [t for t in ledger.state.trials.values() if t.status == RUNNING]
        self.distributions = {key: _distribution(domain) for key, domain in plan.space.items()}
        self._reconcile()

    # what Tune calls

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of the next trial, None to wait, or FINISHED."""
        trial = self.unfinished.pop(0) if self.unfinished else self._next()
        if trial is None:
            waiting = any(t.status == RUNNING for t in self.ledger.state.trials.values())
            return None if waiting else Searcher.FINISHED
        self.names[trial_id] = trial.name
        spec = TrialSpec(
            **{
                **vars(self.spec),
                "name": trial.name,
                "run": RunConfig.of(trial.run),
                "folder": f"{self.trials_folder}/{trial.name}",
            }
        )
        return {"spec": spec.to_dict(), "whole": trial.origin != "sampler", "replicate": trial.of is not None}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note the report of an epoch."""
        trial = self.ledger.state.trials[self.names[trial_id]]
        if "failure/kind" in result or result["epoch"] in trial.reports:
            return
        report = _report(trial.name, result, repeat=trial.of is not None)
        self.ledger.record(report)
        if trial.optuna is not None:
            asked = optuna.trial.Trial(self.study, self.study.trials[trial.optuna]._trial_id)
            asked.report(self._score(trial), report["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note how a trial ended and tell Optuna."""
        trial = self.ledger.state.trials[self.names[trial_id]]
        if trial.status != RUNNING:
            return
        if result and not error:
            self.on_trial_result(trial_id, result)
        status, reason = failures.outcome(trial_id) if error else self._outcome(trial, result)
        self.ledger.record({"event": "ended", "trial": trial.name, "status": status, "reason": reason})
        self._tell(trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger is the memory."""

    # how it decides

    def _next(self) -> Trial | None:
        state = self.ledger.state
        if len(state.of_search()) < self.plan.profile.trials:
            trial = self._propose()
            if trial is not None:
                return trial
        if any(trial.status == RUNNING for trial in state.of_search()):
            return None
        return self._replicate()

    def _propose(self) -> Trial | None:
        state = self.ledger.state
        known = {_identity(RunConfig.of(trial.run)) for trial in state.of_search()}
        first = self.plan.first_points()
        if len(state.of_search()) < len(first):
            self.study.enqueue_trial(first[len(state.of_search())], skip_if_exists=True)
        for attempt in range(ATTEMPTS):
            if attempt and (untried := self._untried(known)) is not None:
                if not untried:
                    return None
                self.study.enqueue_trial(untried[self.plan.seed % len(untried)])
            asked = self.study.ask(self.distributions)
            run = self.plan.config(asked.params)
            if _identity(run) not in known:
                origin = _origin(asked.params, self.plan)
                return self._record(f"{len(state.of_search()):04d}", asked.params, run, origin, optuna=asked.number)
            self.ledger.record({"event": "duplicate", "point": asked.params})
            self.study.tell(asked, state=TrialState.FAIL)
        return None

    def _untried(self, known: set[str]) -> list[dict[str, Any]] | None:
        """Return the points of a finite space that no trial has had yet, or None where the space is not finite."""
        domains = self.plan.space
        if not all(isinstance(domain, Choice) for domain in domains.values()):
            return None
        values = [domain.values for domain in domains.values() if isinstance(domain, Choice)]
        points = [dict(zip(domains, point, strict=True)) for point in itertools.product(*values)]
        return [point for point in points if _identity(self.plan.config(point)) not in known]

    def _replicate(self) -> Trial | None:
        for name in self.finalists():
            original = self.ledger.state.trials[name]
            for number in range(1, self.plan.profile.replicates + 1):
                repeat = f"{name}-r{number}"
                if repeat not in self.ledger.state.trials:
                    run = self.plan.config(original.point, seed=self.plan.seed + number)
                    return self._record(repeat, original.point, run, "replicate", of=name)
        return None

    def finalists(self) -> list[str]:
        """The best trial that is not the baseline, and the baseline: those that are compared on fresh seeds."""
        return finalists(self.ledger, self.plan)

    def _record(
        self,
        name: str,
        point: dict[str, Any],
        run: RunConfig,
        origin: str,
        *,
        of: str | None = None,
        optuna: int | None = None,
    ) -> Trial:
        trial = Trial(name=name, point=dict(point), run=run.model_dump(), origin=origin, of=of, optuna=optuna)
        fields = ("name", "point", "run", "origin", "of", "optuna")
        self.ledger.record({"event": "proposed", "trial": {key: getattr(trial, key) for key in fields}})
        return self.ledger.state.trials[name]

    def _reconcile(self) -> None:
        """Tell Optuna what a killed driver had written to the ledger but not told, and drop what it had asked in vain."""
        known = {trial.optuna: trial for trial in self.ledger.state.of_search()}
        for asked in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            trial = known.get(asked.number)
            if trial is None:
                self.study.tell(asked.number, state=TrialState.FAIL)
            elif trial.status != RUNNING:
                self._tell(trial)

    def _score(self, trial: Trial) -> float:
        score = trial.score(self.plan.objective, self.plan.direction)
        return float("nan") if score is None else score

    def _outcome(self, trial: Trial, result: dict[str, Any] | None) -> tuple[str, str | None]:
        if result and "failure/kind" in result:
            return result["failure/kind"], result["failure/reason"]
        if not trial.reports:
            return failures.UNKNOWN
        done = max(trial.reports) >= trial.run["epochs"]
        return (COMPLETED, None) if done else (STOPPED, None)

    def _tell(self, trial: Trial) -> None:
        """Tell Optuna the best score; a stopped or failed trial as pruned, so that its region counts as poor, not unknown."""
        if trial.optuna is None:
            return
        if trial.status == COMPLETED:
            self.study.tell(trial.optuna, self._score(trial))
        else:
            self.study.tell(trial.optuna, state=TrialState.PRUNED)


def finalists(ledger: Ledger, plan: Plan) -> list[str]:
    """The best finished trial that is not the baseline, then the baseline; empty where either has no score."""
    sign = 1 if plan.direction == "max" else -1
    scored = {
        trial.name: score
        for trial in ledger.state.of_search()
        if trial.status in (COMPLETED, STOPPED) and (score := trial.score(plan.objective, plan.direction)) is not None
    }
    baseline = next((t.name for t in ledger.state.of_search() if t.origin == "baseline"), None)
    others = {name: sign * score for name, score in scored.items() if name != baseline}
    if baseline not in scored or not others:
        return []
    return [max(others, key=lambda name: others[name]), str(baseline)]


def open_study(name: str, storage_path: str, direction: str, seed: int) -> optuna.Study:
    """Open the Optuna study of a search, whose journal file outlives the driver."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = JournalFileBackend(storage_path)
    study = optuna.create_study(
        study_name=name,
        storage=optuna.storages.JournalStorage(backend),
        direction="maximize" if direction == "max" else "minimize",
        load_if_exists=True,
    )
    # Seeded by how many were asked before, so that a resumed search does not repeat its first random points.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), constant_liar=True, n_startup_trials=8)
    return study


def _distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    if isinstance(domain, Choice):
        return optuna.distributions.CategoricalDistribution(domain.values)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniform))


def _identity(run: RunConfig) -> str:
    return json.dumps(run.identity(), sort_keys=True)


def _origin(params: dict[str, Any], plan: Plan) -> str:
    first = plan.first_points()
    if params not in first:
        return "sampler"
    return "baseline" if params == first[0] else "study"


def _report(trial: str, result: dict[str, Any], *, repeat: bool) -> Event:
    # Only replicates are compared; the counts of every epoch of every trial would swell the ledger.
    statistics = result.get("statistics") if repeat else None

    def part(name: str) -> dict[str, Any]:
        """A mapping that Tune has flattened."""
        return {key.removeprefix(f"{name}/"): value for key, value in result.items() if key.startswith(f"{name}/")}

    return {
        "event": "report",
        "trial": trial,
        "epoch": result["epoch"],
        "metrics": part("metrics"),
        "statistics": statistics,
        "samples": result.get("samples", []),
        "tables": part("tables"),
        "data": part("data"),
    }
