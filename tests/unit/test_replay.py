"""Replaying recorded curves: what a method needs is measured against random search on the same record."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2core.errors import DataError
from searches import replay
from searches.deciding.method import Method
from searches.deciding.simulation import Course, Curve
from searches.replay import RANDOM, Record, compare, read, save

OBJECTIVE = "chrf_continuation"


@pytest.fixture(scope="module")
def record() -> Record:
    """Sixty configurations of lora_rank whose scores the learning rate decides, and all epochs know it."""
    random = np.random.default_rng(0)
    points, curves = [], []
    for _ in range(60):
        lr = float(10 ** random.uniform(-5, math.log10(3e-2)))
        point = {"rank": int(random.choice([4, 8, 16, 32])), "lr": lr, "alpha": "r", "batch_size": 8}
        height = 30 - 5 * abs(math.log10(lr) + 3)
        points.append(point)
        curves.append(Curve(metrics=[{OBJECTIVE: height - 4 / epoch} for epoch in range(1, 10)], seconds=[1.0] * 9))
    about = {"search": "lora_rank", "task": "sonnet", "epochs": 9, "model": "toy", "data": "", "margin": 0.0}
    return Record(**about, points=points, curves=curves)  # type: ignore[arg-type]


def test_a_course_needs_what_it_spent_until_it_was_there() -> None:
    course = Course(spent=np.array([1.0, 2.0, 3.0]), best=np.array([5.0, 7.0, 9.0]))
    assert course.needed(7.0, 1) == 2.0
    assert course.needed(10.0, 1) == math.inf
    falling = Course(spent=np.array([1.0, 2.0]), best=np.array([5.0, 3.0]))
    assert falling.needed(4.0, -1) == 2.0


def test_better_methods_need_less(record: Record) -> None:
    methods = {"random": RANDOM, "halving": Method(sampler="random", scheduler="asha"), "both": Method()}
    found = {row.method: row for row in compare(record, methods, seeds=4, workers=4)}
    assert found["halving"].same.median < 0.6 * found["random"].same.median
    assert found["both"].same.median < found["random"].same.median
    assert found["both"].same.reached == 4
    assert all(row.same.low <= row.same.median <= row.same.high for row in found.values())
    assert all(row.alike == row.same for row in found.values()), "the margin is 0"


def test_less_is_needed_for_what_is_not_to_be_told_apart(record: Record) -> None:
    (row,) = compare(replace(record, margin=1.0), {"random": RANDOM}, seeds=4, workers=4)
    assert row.alike.median < row.same.median
    assert row.alike.reached == 4


def test_a_proposal_is_taken_for_the_nearest_recorded_point(record: Record) -> None:
    plan = record.plan(Method(), trials=5, seed=0)
    curves = record.nearest(plan)
    for number in (0, 17):
        point: dict[str, Any] = dict(record.points[number])
        trial = type("Trial", (), {"name": str(number), "point": point | {"lr": point["lr"] * 1.0001}})
        assert curves(trial) is record.curves[number]


def test_a_record_is_read_from_a_file_and_from_a_searchs_folder(record: Record, tmp_path: Path) -> None:
    save(record, tmp_path / "curves.json")
    assert read(tmp_path / "curves.json") == record
    rows = [
        {"id": f"{number:04d}", "of": None, "parent": None, "point": point, "config": {"task": "poems", "model": "toy"},
         "score": curve.metrics[-1][OBJECTIVE],
         "curve": [{"epoch": e, **m, "train_seconds": 0.75, "eval_seconds": 0.25} for e, m in enumerate(curve.metrics, 1)]}
        for number, (point, curve) in enumerate(zip(record.points, record.curves, strict=True))
    ]  # fmt: skip
    random = np.random.default_rng(1)
    for row in rows:
        losses = np.stack([random.normal(size=(1, 16)), np.ones((1, 16))], axis=-1)
        best = tmp_path / "trials" / row["id"] / "best"
        best.mkdir(parents=True)
        (best / "state.json").write_text(json.dumps({"history": [{"statistics": losses.tolist()}]}))
    summary = {"script": "lora_rank", "objective": OBJECTIVE, "data": {"data": ""}, "trials": rows}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = read(tmp_path)
    assert replace(found, margin=0.0) == replace(record, task="poems")
    assert found.margin == pytest.approx(1.96 * 2**0.5 * 0.25, rel=0.3), "means of 16 losses of deviation 1"
    for row in rows[:40]:
        del row["curve"][3:]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="only 20 of 60 trials ran to epoch 9: record with --scheduler none"):
        read(tmp_path)


def test_what_is_no_record_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="is no record of learning curves"):
        read(tmp_path / "nowhere.json")
    (tmp_path / "x.json").write_text('{"search": 1}')
    with pytest.raises(DataError, match="is no record of learning curves"):
        read(tmp_path / "x.json")


def test_the_command_prints_a_table(record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(record, tmp_path / "curves.json")
    flags = ["--samplers", "random", "--schedulers", "none,asha", "--seeds", "2"]
    assert replay.run([str(tmp_path / "curves.json"), *flags]) == 0
    printed = capsys.readouterr().out
    assert "random, none" in printed
    assert "random, asha" in printed
    assert "2 of 2" in printed
