"""Measure how often a search's answer is wrong, in simulated searches and real runs of one configuration.

python -m tests.benchmarks.verdict [--real] [--data-dir DIR] [--only PART] [--simulations 2000]. Searches are judged by
`searches.deciding.decision.decide`. Student's t-test on run means with Holm's correction stands beside it where its errors are
below 7%.
"""

import argparse
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from rich.progress import Progress
from rich.table import Table

from gpt2core.config import RunConfig
from gpt2core.data.shakespeare import load_sonnets
from gpt2core.files import atomic_path, cache_folder
from gpt2core.identity import identity
from gpt2core.metrics.baselines import asked_for, split_given
from gpt2core.metrics.chrf import chrf_from_statistics, sentence_statistics
from gpt2core.metrics.comparison import LEVEL, difference, runs_of
from gpt2core.metrics.losses import mean_loss
from searches.deciding.decision import Design, detectable
from searches.deciding.power_simulation import Case, Components, Draw, Drawn, Random, Rates, draw, simulate
from searches.formatting import count
from tests.benchmarks.compare import CONSOLE

SEEDS = (2, 3, 5, 10)
SIMULATIONS = 2000
VALID = 0.07  # false winners of the t-test above which its power is no measure
REAL_RUNS, SPLITS = 13, 2000


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A line: searches of `case` without an effect, and with its own."""

    name: str
    case: Case
    draw: Draw = draw

    @property
    def most(self) -> int:
        return self.case.design.most


@dataclass(frozen=True, kw_only=True)
class Line:
    """What was measured of a cell."""

    cell: Cell
    none: Rates
    effect: Rates

    @property
    def coverage(self) -> float | None:
        return min([rates.covered for rates in (self.none, self.effect) if rates.covered is not None], default=None)

    @property
    def ratio(self) -> float | None:
        """Power in units of the t-test's, where that is valid."""
        wrong, right = self.none.student_wrong, self.effect.student_right
        return self.effect.p_right / right if wrong is not None and wrong < VALID and right else None


def _case(n: int, *, runs: float, examples: float = 0.0, both: float = 0.0, number: int = 275, **more: float) -> Case:
    """Two settings whose difference of means has the variance runs + examples + both; the effect is what a t-test of as many
    degrees of freedom as there are runs sees in 80% of cases."""
    parts = Components(
        run=math.sqrt(runs * n / 2),
        example=math.sqrt(examples * number / 2),
        interaction=math.sqrt(both * n * number / 2),
        examples=number,
    )
    case = replace(Case(components=parts, design=Design.fixed(n), margin=1e-9), **more)  # type: ignore[arg-type]
    pairs = case.finalists if case.reference else case.finalists * (case.finalists - 1) // 2
    return replace(case, effect=detectable(math.sqrt((runs + examples + both) * n / 2), n, pairs=pairs))


MIXES = {
    "runs alone": (1.0, 0.0, 0.0), "examples alone": (0.0, 1.0, 0.0), "interaction alone": (0.0, 0.0, 1.0),
    "runs 10%, examples": (0.1, 0.9, 0.0), "runs 10%, interaction": (0.1, 0.0, 0.9),
    "runs 50%, examples": (0.5, 0.5, 0.0), "runs 50%, interaction": (0.5, 0.0, 0.5),
    "runs 50%, examples 25%, interaction 25%": (0.5, 0.25, 0.25),
    "runs 80%, examples 10%, interaction 10%": (0.8, 0.1, 0.1),
}  # fmt: skip


def variances() -> Iterator[Cell]:
    """Two settings: what varies, and how many examples there are."""
    for number in (12, 275, 1101, 20212):
        for name, (runs, examples, both) in MIXES.items():
            for n in SEEDS:
                case = _case(n, runs=runs, examples=examples, both=both, number=number)
                yield Cell(name=f"{name}, {number:,} examples", case=case)


def several() -> Iterator[Cell]:
    """One to three finalists against a reference, and four values in all pairs."""
    for n in SEEDS:
        for finalists in (1, 2, 3):
            case = _case(n, runs=0.5, examples=0.25, both=0.25, finalists=finalists, reference=True)
            yield Cell(name=f"{count(finalists, 'finalist')}, the reference, Holm", case=case)
        for name, (runs, examples, both) in MIXES.items():
            case = _case(n, runs=runs, examples=examples, both=both, finalists=4)
            yield Cell(name=f"4 values in 6 pairs: {name}", case=case)
        case = _case(n, runs=0.8, examples=0.1, both=0.1, number=20212, finalists=4)
        yield Cell(name="4 values in 6 pairs: runs 80%, 20,212 examples", case=case)


def looks() -> Iterator[Cell]:
    """A search that goes on until it is decided: a look after the third seed and after each further one."""
    for name in ("runs alone", "examples alone", "runs 50%, examples"):
        for most in range(3, 9):
            runs, examples, both = MIXES[name]
            case = _case(most, runs=runs, examples=examples, both=both, design=Design.until_decided(most))
            yield Cell(name=f"{most - 2} looks" + ("" if name == "runs alone" else f": {name}"), case=case)
    for most in (5, 8):
        case = _case(most, runs=0.5, examples=0.25, both=0.25, finalists=4, design=Design.until_decided(most))
        yield Cell(name=f"{most - 2} looks: 4 values in 6 pairs", case=case)


def unequal() -> Iterator[Cell]:
    """Runs of one setting vary three times as much as the other's."""
    for name in ("runs alone", "runs 50%, examples 25%, interaction 25%"):
        for n in SEEDS:
            runs, examples, both = MIXES[name]
            case = _case(n, runs=runs, examples=examples, both=both)
            parts = replace(case.components, ratio=3.0)
            yield Cell(name=f"sd ratio 3: {name}", case=replace(case, components=parts, effect=3 * case.effect))


def selection() -> Iterator[Cell]:
    """The best of 40 trials against the reference, judged on other texts, or on those that chose it."""
    for same in (False, True):
        for n in SEEDS:
            for name, share in (("", 0.5), (", examples alone", 0.0)):
                case = _case(n, runs=share, examples=1 - share, finalists=1, reference=True, trials=40, same_texts=same)
                yield Cell(name=f"best of 40, judged on {'the same' if same else 'other'} texts{name}", case=case)


def diverged() -> Iterator[Cell]:
    """The setting that is better has a run that diverged: it may not win, and the others err no more for it."""
    for n in SEEDS:
        case = _case(n, runs=0.5, examples=0.25, both=0.25, finalists=3, reference=True)
        yield Cell(name="one run of the best of 3 diverged", case=replace(case, diverged=1))


def accuracy() -> Iterator[Cell]:
    """Right or wrong, in percent; training seeds differ by 0.37 points. Of 10 examples 7 are easy."""
    for number in (275, 20212):
        for n in SEEDS:
            noise = math.sqrt(0.37**2 + 100**2 * 0.12 / number)
            parts = Components(run=0.37, examples=number)
            effect = min(6.0, detectable(noise, n))
            case = Case(components=parts, design=Design.fixed(n), margin=1e-9, effect=effect)
            yield Cell(name=f"accuracy, {number:,} examples", case=case, draw=_answers)


def _answers(case: Case, random: Random) -> Drawn:
    number, n = case.components.examples, case.design.most
    chances = np.where(random.random(number) < 0.7, 0.93, random.uniform(0.2, 0.8, number)).astype(np.float32)
    truths = np.zeros(case.sides)
    truths[0] = case.effect
    runs = truths[:, None] + random.normal(0.0, case.components.run, (case.sides, n))
    limits = chances + runs[..., None].astype(np.float32) / 100
    right = random.random((case.sides, n, number), dtype=np.float32) < limits
    counts = np.stack([100.0 * right, np.ones_like(right, dtype=np.float64)], axis=-1)
    return truths, lambda runs: [runs_of(side[:runs], mean_loss) for side in counts]


def chrf() -> Iterator[Cell]:
    """Twelve sonnets, three outputs of each: lines of other sonnets, whose hits a run has some percent more or less of."""
    texts = [split_given(row.text)[1] for row in load_sonnets(None).splits["train"]][:90]
    gold, written = asked_for(texts[:45]), asked_for(texts[45:])
    table = np.stack([sentence_statistics([text] * len(gold), gold) for text in written], axis=1)  # (gold, written, 18)
    base = float(chrf_from_statistics(table.sum(axis=(0, 1))))

    def outputs(case: Case, random: Random) -> Drawn:
        n, sides = case.design.most, case.sides
        sonnets = random.choice(len(gold), 12, replace=False)
        counts = table[sonnets[:, None], random.integers(0, len(written), (sides, n, 3, 12)).swapaxes(2, 3)].sum(axis=3)
        truths = np.zeros(sides)
        truths[0] = case.effect
        effects = truths[:, None] + random.normal(0.0, case.components.run, (sides, n))
        counts[..., 2::3] *= (1 + effects / base)[..., None, None]
        return truths, lambda runs: [runs_of(side[:runs], chrf_from_statistics) for side in counts]

    for sd in (0.0, 0.2, 0.5):
        for n in SEEDS:
            parts = Components(run=sd, examples=12, outputs=3)
            effect = detectable(math.hypot(sd, 0.3), n)
            case = Case(components=parts, design=Design.fixed(n), margin=1e-9, effect=effect)
            yield Cell(name=f"chrF, run sd {sd:g}", case=case, draw=outputs)


PARTS: dict[str, Callable[[], Iterator[Cell]]] = {
    part.__name__: part for part in (variances, several, looks, unequal, selection, diverged, accuracy, chrf)
}


def measured(cells: list[Cell], simulations: int, title: str) -> list[Line]:
    lines = []
    with Progress(console=CONSOLE, transient=True) as progress:
        for cell in progress.track(cells, description=title):
            none = simulate(replace(cell.case, effect=0.0), simulations, seed=1, draw=cell.draw)
            lines.append(Line(cell=cell, none=none, effect=simulate(cell.case, simulations, seed=2, draw=cell.draw)))
    return lines


HEADINGS = ("seeds", "false winners", "p < level", "intervals hold", "power", "t-test", "ratio", "t-test false")


def show(title: str, lines: list[Line]) -> None:
    table = Table("what", title=title)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for line in lines:
        none, effect, cell = line.none, line.effect, line.cell
        table.add_row(
            cell.name,
            str(cell.most),
            _percent(none.wrong),
            _percent(none.p_wrong),
            _percent(line.coverage),
            _percent(effect.p_right),
            _percent(effect.student_right),
            "-" if line.ratio is None else f"{line.ratio:.2f}",
            _percent(none.student_wrong),
        )
    CONSOLE.print(table)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def worst(lines: list[Line]) -> None:
    """Print the worst cells; those that are judged on the texts that chose are shown above, and not counted here."""
    counted = [line for line in lines if "the same texts" not in line.cell.name]
    named = [line for line in counted if line.cell.most > 2]
    table = Table("the worst cells", "of", "cell", "seeds", "measured", title="worst, with 3 seeds or more unless said")
    for what, rows, largest, key in (
        ("false winners", named, True, lambda line: line.none.wrong),
        ("p < level, 2 seeds", [line for line in counted if line.cell.most == 2], True, lambda line: line.none.p_wrong),
        ("intervals hold", named, False, lambda line: line.coverage),
        ("power beside a valid t-test", named, False, lambda line: line.ratio),
        ("an unstable setting wins", [a for a in counted if a.cell.case.diverged], True, lambda a: a.effect.unstable),
    ):
        known = [(value, line) for line in rows if (value := key(line)) is not None]
        for value, line in sorted(known, key=lambda one: one[0], reverse=largest)[:3]:
            table.add_row(what, str(len(known)), line.cell.name, str(line.cell.most), f"{value:.3f}")
    CONSOLE.print(table)


def real_runs(data_dir: str | None) -> np.ndarray:
    """Counts (runs, texts, 2) of trainings of one configuration, kept in the cache: nats and tokens of each dev text."""
    values = {"task": "poems", "model": "gpt2-nano", "adapter": "full", "lr": 1e-3, "epochs": 1, "batch_size": 8}
    config = RunConfig.of({**values, "train_examples": 300, "dev_examples": 275, "data_dir": data_dir})
    from gpt2core.pretrain_stage import run_data
    from gpt2core.training import train
    from gpt2core.weights import load_model

    data, base = run_data(config), load_model(config.model)
    known = hashlib.sha256(f"{identity(config)}{data.corpus.digest}".encode()).hexdigest()[:16]
    path = cache_folder() / "verdict" / f"{known}.npy"
    if not path.exists():
        runs = []
        with Progress(console=CONSOLE, transient=True) as progress:
            for seed in progress.track(range(REAL_RUNS), description="trainings"):
                *_, report = train(config.model_copy(update={"seed": seed}), base, data)
                runs.append(report.evaluation.statistics["loss"][0, :, :2])
        with atomic_path(path) as part, part.open("wb") as file:
            np.save(file, np.stack(runs))
    return np.asarray(np.load(path), dtype=np.float64)


def real(counts: np.ndarray) -> None:
    """Runs of one configuration in two sides at random, again and again: each difference that is found is none."""
    table = Table("what", "seeds a side", "p < 0.05", "intervals hold 0", title="real trainings of one configuration")
    random = np.random.default_rng(0)
    for texts in sorted({counts.shape[1], min(32, counts.shape[1])}, reverse=True):
        for n in (1, 2, 3, 5):
            wrong, held = _splits(counts, texts, n, random)
            shown = (_percent(wrong), _percent(held)) if n > 1 else ("no p", "none is given")
            table.add_row(f"real, {texts} texts", str(n), *shown)
    CONSOLE.print(table)


def _splits(counts: np.ndarray, texts: int, n: int, random: Random) -> tuple[float, float]:
    wrong = held = 0
    for _ in range(SPLITS):
        runs = random.permutation(len(counts))[: 2 * n]
        some = counts[:, random.permutation(counts.shape[1])[:texts]]
        one = difference(runs_of(some[runs[:n]], mean_loss), runs_of(some[runs[n:]], mean_loss))
        wrong += one.p_value is not None and one.p_value < LEVEL
        held += one.low is not None and one.high is not None and one.low <= 0 <= one.high
    return wrong / SPLITS, held / SPLITS


def main() -> None:
    """Measure the grid, print it, then its worst cells."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--simulations", type=int, default=SIMULATIONS)
    p.add_argument("--only", choices=PARTS, help="one part of the grid")
    p.add_argument(
        "--real", action="store_true", help="trainings of one configuration instead, which takes some minutes once"
    )
    p.add_argument("--data-dir", help="with --real: the course's files, whose poems have more texts")
    o = p.parse_args()
    if o.real:
        real(real_runs(o.data_dir))
        return
    lines, began = [], time.monotonic()
    for name, part in PARTS.items():
        if o.only in (None, name):
            here = measured(list(part()), o.simulations, name)
            show(f"{name}: {' '.join((part.__doc__ or '').split())}", here)
            lines += here
            CONSOLE.print(f"{time.monotonic() - began:.0f} s so far")
    worst(lines)


if __name__ == "__main__":
    main()
