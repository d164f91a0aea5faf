"""Simulated searches, and the `power` command."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2core.metrics.comparison import runs_of
from gpt2core.metrics.counts import to_json
from gpt2core.metrics.losses import mean_loss
from searches.__main__ import main
from searches.deciding import power_simulation
from searches.deciding.decision import Design
from searches.deciding.power_simulation import Case, Components, components, seeds_for_power, simulate
from tests.runs import status

ALWAYS = ("power", "--search", "lora_rank", "--simulations", "40")


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code, printed = status(main, [*ALWAYS, *flags]), capsys.readouterr()
    return code, printed.out, printed.err


def as_json(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    code, out, _ = run(capsys, "--json", *flags)
    assert code == 0
    return json.loads(out)


def test_the_command_prints_each_number_of_seeds_and_its_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--seeds", "2,4")
    assert code == 0
    assert "ASSUMED in units of the margin, not measured" in out
    assert "4 finalists, in all pairs" in out
    assert "For 80% power" in out
    assert re.findall(r"^ *(\d+) +\d+\.\d%", out, re.MULTILINE) == ["2", "4"]


def test_the_json_is_complete_and_reproducible(capsys: pytest.CaptureFixture[str]) -> None:
    flags = (
        "--seeds", "3", "--sd-run", "0.02", "--finalists", "2", "--reference", "--trials", "5", "--sd-setting",
        "0.01",
    )  # fmt: skip
    results = as_json(capsys, *flags)
    assert results == as_json(capsys, *flags)
    assert results != as_json(capsys, *flags, "--seed", "1")
    assert results["components"]["run"] == 0.02
    assert (results["finalists"], results["reference"], results["trials"], results["sd_setting"]) == (2, True, 5, 0.01)
    assert results["margin"] == results["effect"] == 0.05
    assert results["linear"] is True
    (row,) = results["rows"]
    assert row.keys() == {
        *("seeds", "looks", "seeds_used", "false_winners", "difference_named", "p_below_level", "power", "p_power"),
        *("coverage", "equivalent_rightly", "equivalent_wrongly", "student"),
    }
    assert results["needed_for_power"].keys() == {"power", "seeds", "student"}


def test_looks_end_a_search_early(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--finalists", "2", "--sd-run", "0.01")
    until = as_json(capsys, *flags, "--until", "decided", "--seeds", "6")["rows"][0]
    assert until["looks"] == [3, 4, 5, 6]
    assert until["seeds_used"]["effect"] < 5
    given = as_json(capsys, *flags, "--looks", "3,6")["rows"][0]
    assert (given["looks"], given["seeds"]) == ([3, 6], 6)


@pytest.mark.parametrize(("flags", "message"), [
    (("--seeds", "2,x"), "--seeds` is '2,x', but must be increasing numbers from 1 to 200"),
    (("--seeds", "5,3"), "'5,3', but must be increasing"),
    (("--looks", "1,3"), "--looks` is '1,3', but must be increasing numbers from 2"),
    (("--looks", "3", "--seeds", "3"), "Both --looks and --seeds"),
    (("--sd-run", "nan"), "--sd-run` is nan, but must be a number >= 0"),
    (("--sd-run", "-1"), "--sd-run` is -1, but must be a number >= 0"),
    (("--sd-run", "0"), "Nothing varies by chance"),
    (("--margin", "0"), "--margin` is 0, but must be a number > 0"),
    (("--effect", "inf"), "--effect` is inf"),
    (("--examples", "0"), "--examples` is 0, but must be >= 1"),
    (("--examples", "10000000"), "--examples` is 10000000, but must be <= 1000000"),
    (("--finalists", "1"), "--finalists` is 1, but must be >= 2"),
    (("--objective", "chrf"), "did you mean `chrf_"),
    (("--task", "sst"), "This search has no task `sst`"),
    (("--from", "x", "--sd-run", "1"), "Both --from and --sd-run"),
    (("--from", "x", "--storage", "/nowhere"), "There is no folder /nowhere with searches"),
    (("--search", "nothing"), "There is no search script `nothing`"),
])  # fmt: skip
def test_bad_input_is_one_line(flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, *flags)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error


def test_a_search_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(main, ["power"]) == 2
    assert "give --search SCRIPT, or --from NAME" in capsys.readouterr().err


def write_search(storage: Path, settings: int, seeds: int) -> None:
    random, texts = np.random.default_rng(7), 200
    tokens = np.ones((1, texts, 1))
    events: list[dict[str, Any]] = [
        {"event": "search", "digest": "d", "id": "i", "name": "lora_rank"},
        {"event": "started", "argv": [], "environment": {}},
    ]
    for number in range(settings):
        name, of_examples = f"{number:04d}", random.normal(0, 0.5, (1, texts, 1))
        point, values = {"rank": 4}, {"task": "sonnet", "epochs": 1}
        trial = {"name": name, "point": point, "run": values, "origin": "sampler", "of": None}
        events.append({"event": "proposed", "trial": trial})
        for seed in range(1, seeds + 1):
            losses = 4 + random.normal(0, 0.1) + of_examples + random.normal(0, 1.0, (1, texts, 1))
            counts = to_json({"loss": np.concatenate([losses, tokens, tokens], axis=-1)})
            again = {"name": f"{name}-r{seed}", "origin": "replicate", "of": name}
            about = {"trial": again["name"], "epoch": 1, "metrics": {"dev_loss": float(losses.mean())}}
            events += [
                {"event": "proposed", "trial": trial | again},
                {"event": "report", "statistics": counts, **about},
                {"event": "ended", "trial": again["name"], "status": "completed"},
            ]
    path = storage / "searches" / "known" / "ledger.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"time": 1.0, **event}) + "\n" for event in events), encoding="utf-8")


def from_ledger(storage: Path) -> int:
    flags = ["--seeds", "3", "--simulations", "20", "--json"]
    return status(main, ["power", "--from", "known", "--storage", str(storage), *flags])


def test_components_are_estimated_from_replicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_search(tmp_path, settings=4, seeds=12)
    assert from_ledger(tmp_path) == 0
    results = json.loads(capsys.readouterr().out)
    parts = results["components"]
    assert (parts["run"], parts["example"], parts["interaction"]) == pytest.approx((0.1, 0.5, 1.0), rel=0.25)
    assert (parts["examples"], results["search"], results["metric"]) == (200, "lora_rank", "dev_loss")
    assert results["components_from"] == "estimated from the replicates of 4 settings of known"


@pytest.mark.parametrize(("settings", "seeds"), [(3, 1), (2, 0)])
def test_replicates_are_needed(settings: int, seeds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_search(tmp_path, settings, seeds)
    assert from_ledger(tmp_path) == 2
    assert "has no setting with two or more replicates that are judged by dev_loss" in capsys.readouterr().out


PARTS = Components(run=0.3, example=2.0, interaction=1.5, output=1.0, outputs=3, examples=100)
CASE = Case(components=PARTS, design=Design(looks=(3, 5)), margin=1.0, finalists=3, effect=0.8)


def test_many_examples_are_simulated_by_their_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    for bound in (0, 10**9):
        monkeypatch.setattr(power_simulation, "BY_COUNTS", bound)
        rates.append(simulate(CASE, 1500, seed=3))
    fast, slow = rates
    for name in ("wrong", "right", "p_right", "covered", "equivalent", "student_right", "student_wrong"):
        a, b = getattr(fast, name), getattr(slow, name)
        error = (2 * max(a * (1 - a), b * (1 - b), 0.005) / 1500) ** 0.5
        assert abs(a - b) < 4 * error, name
    assert fast.seeds == pytest.approx(slow.seeds, abs=0.15)


def test_simulated_moments_equal_those_of_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the means, over many draws, of all values that a comparison uses, at both looks."""
    means = []
    for bound in (0, 10**9):
        monkeypatch.setattr(power_simulation, "BY_COUNTS", bound)
        random, rows = np.random.default_rng(4), []
        for _ in range(600):
            _, runs = power_simulation.draw(CASE, random)
            early, late = runs(3), runs(5)
            rows.append(
                [
                    *(side.interaction for side in (early[0], late[0])),
                    *(
                        float(side.influence @ side.influence)
                        for side in (early[0], late[0])
                        if side.influence is not None
                    ),
                    float((early[0].influence - late[0].influence).var()),  # type: ignore[operator]
                    float((early[0].influence - late[1].influence).var()),  # type: ignore[operator]
                    late[0].run_variance,
                    float(late[1].scores.mean() ** 2),
                ]
            )
        means.append((np.mean(rows, axis=0), np.std(rows, axis=0) / 600**0.5))
    (a, error_a), (b, error_b) = means
    assert (np.abs(a - b) < 4.5 * np.hypot(error_a, error_b)).all()


def test_selecting_and_comparing_on_the_same_texts_names_false_winners() -> None:
    parts = Components(run=0.05, example=2.0, examples=275)
    case = Case(components=parts, design=Design.fixed(5), margin=0.01, finalists=1, reference=True, trials=40)
    assert simulate(case, 300, seed=5).wrong <= 0.09
    assert simulate(replace(case, same_texts=True), 300, seed=5).wrong >= 0.15


def test_a_setting_whose_run_failed_never_wins() -> None:
    case = Case(components=Components(run=0.1, examples=1), design=Design.fixed(3), margin=0.01, finalists=3, effect=9)
    assert simulate(case, 50).right == 1.0
    failed = simulate(replace(case, diverged=1), 50)
    assert failed.right == failed.unstable == 0.0


def test_components_are_recovered_from_simulated_runs() -> None:
    random = np.random.default_rng(6)
    parts = Components(run=0.5, example=2.0, interaction=3.0, examples=400)
    _, runs = power_simulation.draw(Case(components=parts, design=Design.fixed(40), margin=1.0, finalists=6), random)
    estimated, settings = components(runs(40))
    assert settings == 6
    assert estimated.examples == 400
    assert (estimated.run, estimated.example, estimated.interaction) == pytest.approx((0.5, 2.0, 3.0), rel=0.15)
    alone = runs_of(np.ones((1, 5, 2)), mean_loss)
    with pytest.raises(ValueError, match="two runs"):
        components([alone])


def test_seeds_for_80_percent_power() -> None:
    assert seeds_for_power(lambda seeds: seeds / 10) == 8
    assert seeds_for_power(lambda seeds: 1.0) == 2
    assert seeds_for_power(lambda seeds: seeds / 250) == 200
    assert seeds_for_power(lambda seeds: None) is None
