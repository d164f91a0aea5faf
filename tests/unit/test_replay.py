"""Replaying learning curves: methods are compared with random search on the same record."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2core.errors import ConfigError, DataError, UnknownNameError
from gpt2core.metrics.counts import to_json
from searches import lora_rank, replay
from searches.deciding.method import Method
from searches.deciding.replay_backend import Course, Curve
from searches.replay import RANDOM, Record, compare, contenders, read, save
from searches.search_file import definition_of
from tests.benchmarks.replay import CURVES

OBJECTIVE = "chrf_continuation"


@pytest.fixture(scope="module")
def record() -> Record:
    random = np.random.default_rng(0)
    points, curves = [], []
    for _ in range(60):
        lr = float(10 ** random.uniform(-5, math.log10(3e-2)))
        point = {"rank": int(random.choice([4, 8, 16, 32])), "lr": lr, "alpha": "r", "batch_size": 8}
        height = 30 - 5 * abs(math.log10(lr) + 3)
        points.append(point)
        curves.append(Curve(metrics=[{OBJECTIVE: height - 4 / epoch} for epoch in range(1, 10)], seconds=[1.0] * 9))
    about = {
        "search": "lora_rank", "task": "sonnet", "objective": OBJECTIVE, "epochs": 9, "model": "toy", "data": "",
        "margin": 0.0,
    }  # fmt: skip
    return Record(**about, points=points, curves=curves)  # type: ignore[arg-type]


def test_the_compute_needed_is_that_spent_until_the_score() -> None:
    course = Course(spent=np.array([1.0, 2.0, 3.0]), best=np.array([5.0, 7.0, 9.0]))
    assert course.needed(7.0, 1) == 2.0
    assert course.needed(10.0, 1) == math.inf
    assert Course(spent=np.array([1.0, 2.0]), best=np.array([5.0, 3.0])).needed(4.0, -1) == 2.0


def test_better_methods_need_less(record: Record) -> None:
    methods = contenders(["random", "tpe"], ["none", "asha"], [])
    rows = {row.method: row for row in compare(record, methods, seeds=10, workers=4)}
    assert rows["random, asha"].same.median < 0.6 * rows["random, none"].same.median
    assert rows["tpe, asha"].same.median < rows["random, none"].same.median
    assert rows["tpe, asha"].same.reached == 10
    assert all(row.same.low <= row.same.median <= row.same.high for row in rows.values())
    assert all(row.alike == row.same for row in rows.values()), "the margin is 0"


def test_a_score_within_the_margin_needs_less(record: Record) -> None:
    (row,) = compare(replace(record, margin=1.0), [RANDOM], seeds=4, workers=4)
    assert row.alike.median < row.same.median
    assert row.alike.reached == 4


def test_a_score_reached_with_all_compute_has_the_share_1() -> None:
    assert replay._share_text(replay._share([1.0])) == "1.000 [1.000, 1.000], 1 of 1"
    assert replay._share_text(replay._share([0.5, 1.0, math.inf])) == "1.000 [0.500, >1], 2 of 3"
    assert replay._share_text(replay._share([0.25, math.inf, math.inf])) == ">1 [0.250, >1], 1 of 3"


def test_a_proposal_gets_the_curve_of_the_nearest_point(record: Record) -> None:
    curves = record.nearest(record.plan(Method(), trials=5, seed=0))
    for number in (0, 17):
        point: dict[str, Any] = dict(record.points[number])
        trial = type("Trial", (), {"name": str(number), "point": point | {"lr": point["lr"] * 1.0001}})
        assert curves(trial) is record.curves[number]


def test_a_record_is_read_from_a_file_and_from_a_results_folder(record: Record, tmp_path: Path) -> None:
    save(record, tmp_path / "curves.json")
    assert read(tmp_path / "curves.json") == record
    rows = [
        {
            "id": f"{number:04d}",
            "status": "completed",
            "point": point,
            "config": {"task": "poems", "model": "toy", "epochs": 9},
            "score": -curve.metrics[-1][OBJECTIVE],
            "curve": [
                {"epoch": epoch, "dev_loss": metrics[OBJECTIVE], "train_seconds": 0.75, "eval_seconds": 0.25}
                for epoch, metrics in enumerate(curve.metrics, 1)
            ],
        }
        for number, (point, curve) in enumerate(zip(record.points, record.curves, strict=True))
    ]
    random = np.random.default_rng(1)
    for row in rows:
        losses = np.stack([random.normal(size=(1, 16)), np.ones((1, 16)), np.ones((1, 16))], axis=-1)
        best = tmp_path / "trials" / row["id"] / "best"
        best.mkdir(parents=True)
        (best / "state.json").write_text(json.dumps({"history": [{"statistics": to_json({"loss": losses})}]}))
    summary = {
        "script": "lora_rank", "objective": "dev_loss", "data": {"data": ""}, "trials": rows,
        "answer": {"sentences": [""]},
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    record_read = read(tmp_path)
    losses = [replace(c, metrics=[{"dev_loss": m[OBJECTIVE]} for m in c.metrics]) for c in record.curves]
    assert replace(record_read, margin=0.0) == replace(record, task="poems", objective="dev_loss", curves=losses)
    assert record_read.margin == pytest.approx(1.96 * 2**0.5 * 0.25, rel=0.3), "means of 16 losses of deviation 1"
    for row in rows[:40]:
        del row["curve"][3:]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="only 20 of 60 trials ran to epoch 9: record with --scheduler none"):
        read(tmp_path)


def test_invalid_records_are_refused(record: Record, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no record of learning curves \(there is no such file or folder\); give"):
        read(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match="There is no search script `os"):
        replace(record, search="os.path").plan(Method(), trials=1, seed=0)
    (tmp_path / "x.json").write_text('{"search": 1}')
    with pytest.raises(DataError, match="is no record of learning curves"):
        read(tmp_path / "x.json")


def test_contenders_are_all_combinations_with_graces_for_asha_only() -> None:
    names = [str(contender) for contender in contenders(["random", "gp"], ["none", "asha"], ["1", "3"])]
    assert names == [
        *("random, none", "random, asha from epoch 1", "random, asha from epoch 3"),
        *("gp, none", "gp, asha from epoch 1", "gp, asha from epoch 3"),
    ]
    with pytest.raises(UnknownNameError, match="scheduler that can be replayed"):
        contenders(["random"], ["pbt"], [])
    with pytest.raises(ConfigError, match="`--graces` is '0'"):
        contenders(["random"], ["asha"], ["0"])


def test_a_later_first_rung_keeps_slow_learners(record: Record) -> None:
    """The best curves start as the worst: a rung at epoch 1 stops them, one at epoch 3 does not."""
    falls = [
        replace(
            curve,
            metrics=[{OBJECTIVE: m[OBJECTIVE] if e > 1 else -m[OBJECTIVE]} for e, m in enumerate(curve.metrics, 1)],
        )
        for curve in record.curves
    ]
    methods = contenders(["random"], ["asha"], ["1", "3"])
    early, late = compare(replace(record, curves=falls), methods, seeds=6, workers=4)
    assert late.same.reached > early.same.reached


def test_the_command_prints_a_table(record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(record, tmp_path / "curves.json")
    flags = ["--samplers", "random", "--schedulers", "none,asha", "--seeds", "2"]
    assert replay.run([str(tmp_path / "curves.json"), *flags]) == 0
    printed = capsys.readouterr().out
    assert "random, none" in printed
    assert "random, asha" in printed
    assert "2 of 2" in printed


@pytest.mark.parametrize("path", CURVES, ids=lambda path: path.stem)
def test_the_recorded_curves_fit_their_searches(path: Path) -> None:
    record = read(path)
    plan = record.plan(RANDOM.method, trials=3, seed=0)
    assert len(record.points) >= 40
    assert record.margin > 0
    for point, curve in zip(record.points, record.curves, strict=True):
        assert plan.config(point).epochs == record.epochs == len(curve.metrics) == len(curve.seconds)
    (row,) = compare(replace(record, points=record.points[:5], curves=record.curves[:5]), [RANDOM], seeds=2, workers=2)
    assert row.same.reached > 0


def test_a_search_that_a_file_states_is_replayed_without_the_file(record: Record, tmp_path: Path) -> None:
    definition = {
        **definition_of(lora_rank.SEARCH),
        "name": "mine",
        "profiles": {"small": {"model": "gpt2-nano", "trials": 4, "replicates": 0}},
    }
    save(replace(record, search="mine", definition=definition), tmp_path / "mine.json")
    methods = contenders(["random"], ["asha"], [])
    (mine,), (script,) = (compare(one, methods, seeds=4, workers=4) for one in (read(tmp_path / "mine.json"), record))
    assert (mine.record, mine.same) == ("mine, sonnet", script.same)
