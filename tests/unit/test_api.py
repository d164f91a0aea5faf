"""Searches from Python: values as flags, and results as tables and HTML."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt2core.errors import UserError
from gpt2core.metrics.direction import Direction
from searches import Case, Choice, IntUniform, LogUniform, Profile, Uniform, compare, control, load, resume, run
from searches.api import Result, flags_of
from searches.lora_rank import SEARCH
from searches.options import parse
from searches.summary import Summary
from tests import summaries
from trainables.programs.run import ProgramRun


@pytest.fixture
def result(tmp_path: Path) -> Result:
    folder = tmp_path / "searches" / "toy"
    folder.mkdir(parents=True)
    (folder / "ledger.jsonl").touch()
    (folder / "summary.json").write_text(Summary.model_validate(summaries.summary(6)).model_dump_json())
    return load("toy", str(tmp_path))


def test_values_are_read_as_the_flags_of_the_command_line() -> None:
    values: dict[str, Any] = {"max_concurrent": 2, "trials": 8, "plan": True, "smoke": False, "name": None}
    flags = flags_of({**values, "set": {"epochs": 2, "clip_norm": None}, "minimize": ["seconds"]})
    assert flags == [
        *("--max-concurrent", "2", "--trials", "8", "--plan", "--set", "epochs=2", "--set", "clip_norm=none"),
        *("--minimize", "seconds"),
    ]
    options = parse(SEARCH, flags)
    assert (options.max_concurrent, options.plan.profile.trials, options.plan_only) == (2, 8, True)
    assert (options.plan.epochs, options.plan.fixed["clip_norm"]) == (2, None)


def test_a_wrong_flag_is_the_error_of_the_command_line() -> None:
    with pytest.raises(UserError, match="Unknown flag `--trails`: did you mean `--trials`"):
        run(SEARCH, trails=3)
    with pytest.raises(UserError, match="The value of `--trials` is 'x', but must be a whole number"):
        run(SEARCH, trials="x")


def test_search_is_a_flag_too() -> None:
    with pytest.raises(UserError, match="The key `lr` has only one value to search"):
        run(SEARCH, search={"lr": "1e-3"})


def test_a_plan_is_not_run_by_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`plan` only prints"):
        run(SEARCH, plan=True, storage=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_is_no_search_or_action_is_refused() -> None:
    wrong: Any = "lora_rank"
    with pytest.raises(UserError, match="The search is 'lora_rank', but must be a Search; `resume` goes on with one"):
        run(wrong)
    with pytest.raises(UserError, match="The action is 'lora_rank', but must be one of stop, clone, pause, resume"):
        control("any", wrong)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"factor": "rank"}, "The factor is 'rank', but must be a list of keys"),
    ({"tasks": ["sonnet"]}, r"The value of `tasks` is \['sonnet'\], but must be as in tasks="),
    ({"scientific": {"rank": [4, 8]}}, r"The values of `rank` are \[4, 8\], but must be as in Choice\(1, 2\)"),
])  # fmt: skip
def test_a_search_with_a_part_of_another_type_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SEARCH, **wrong)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Profile(model="gpt2", trails=3, replicates=0), "Unknown key `trails`: did you mean `trials`?"),  # type: ignore[call-arg]
    (lambda: Profile(model="gpt2", trials=0, replicates=0), "The value of `trials` is 0, but must be >= 1"),
    (lambda: Case(fixde={}), "Unknown key `fixde`: did you mean `fixed`?"),  # type: ignore[call-arg]
    (lambda: LogUniform("a", "b"), "The range is LogUniform(low='a', high='b'), but must have two numbers as bounds"),  # type: ignore[arg-type]
    (lambda: LogUniform(1, 0.1), "The range is LogUniform(low=1, high=0.1), but must go from a lower to a higher number"),
    (lambda: LogUniform(0, 1), "The range is LogUniform(low=0, high=1), but must start above 0 on a log scale"),
    (lambda: Uniform(0, math.inf), "The range is Uniform(low=0, high=inf), but must have finite bounds"),
    (lambda: Uniform(math.nan, 1), "The range is Uniform(low=nan, high=1), but must go from a lower to a higher number"),
    (lambda: IntUniform(1, 2.5), "The range is IntUniform(low=1, high=2.5), but must have whole numbers as bounds"),
    (Choice, "A Choice has no value to search, but needs 2 or more values"),
    (lambda: Choice(4), "A Choice has only one value to search, 4, but needs 2 or more values"),
    (lambda: Choice(4, 8, 4), "A Choice has the value 4 twice, but its values must differ"),
])  # fmt: skip
def test_a_wrong_part_of_a_search_is_refused_in_one_line(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_name_is_text_and_a_storage_may_be_a_path(result: Result, tmp_path: Path) -> None:
    wrong: Any = result
    for call in (load, resume, lambda name: compare(name, name), lambda name: control(name, "pause")):
        with pytest.raises(
            UserError, match=r"The name of a search is <Result of toy: .*a Result has it as `folder\.name`"
        ):
            call(wrong)
    assert load("toy", tmp_path) == result


def test_trials_are_a_table_by_number(result: Result) -> None:
    rows = {row.id: row for row in result.summary.trials}
    assert list(result.trials.index) == list(rows)
    assert {"status", "of", "rank", "lr", "score"} <= set(result.trials.columns)
    assert result.trials.loc["0002", "lr"] == rows["0002"].point["lr"]
    assert result.trials.loc["0002", "score"] == rows["0002"].score


def test_a_notebook_shows_answer_and_settings_and_runs_none_of_their_text(result: Result) -> None:
    page = result._repr_html_()
    assert str(result) == result.answer.text
    assert repr(result) == f"<Result of toy: {result.answer.text}>"
    assert result.answer.sentences[0].split("<")[0] in page
    assert page.count("<tr") > len(result.answer.rows)
    assert "<script" not in page


def test_results_that_are_missing_are_named(result: Result, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"report\.html: was not written"):
        _ = result.report
    (result.folder / "summary.json").unlink()
    with pytest.raises(UserError, match="the search has no results yet"):
        load("toy", str(tmp_path))
    with pytest.raises(UserError, match="There is no search `tow`"):
        load("tow", str(tmp_path))


def test_the_best_of_a_program_is_a_command(result: Result) -> None:
    chosen = result.summary.answer.chosen
    for row in result.summary.trials:
        row.config = ProgramRun(
            command="fit --lr {lr} --out {out}",
            metric="acc",
            direction=Direction.MAX,
            folder="/",
            seed=1,
            values={"lr": 0.01},
        ).model_dump()
    files = result.folder / "trials" / str(chosen)
    with pytest.raises(
        UserError, match=rf"no model folder\. Trial {chosen} has lr 0\.01: its files are in {files}, and"
    ) as error:
        _ = result.best
    assert str(error.value).endswith("this runs it again: fit --lr 0.01 --out out")


def test_resume_control_and_compare_refuse_what_is_missing(result: Result, tmp_path: Path) -> None:
    storage = str(tmp_path)
    with pytest.raises(UserError, match="There is no search `tow`"):
        resume("tow", storage)
    with pytest.raises(UserError, match="is not running: there is nothing to control"):
        control("toy", "pause", storage=storage)
    with pytest.raises(UserError, match="The command `stop` needs a trial"):
        control("toy", "stop", storage=storage)
    with pytest.raises(UserError, match="Both searches are `toy`"):
        compare("toy", "toy", storage)
