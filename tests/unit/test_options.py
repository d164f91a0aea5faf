"""The flags of a search: valid ones become a plan, invalid ones an error in one line and status 2."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gpt2core.errors import ConfigError, UserError
from searches.deciding.replay_backend import MemoryLedger
from searches.deciding.strategy import Strategy
from searches.domains import Choice, Domain, IntUniform, LogInt, LogUniform, Uniform
from searches.learning_rate import SEARCH as LEARNING_RATE
from searches.lora_rank import SEARCH
from searches.options import parse
from searches.preferences import SEARCH as PREFERENCES
from searches.question import script_command
from searches.runner import main
from searches.running.budget import Budget
from searches.running.resources import trial_spec
from searches.running.resume import earlier_state, open_ledger
from searches.showing.screen import plan_texts
from tests.runs import ROOT, status
from trainables.nodes import Machine


@pytest.mark.parametrize(("flags", "message"), [
    (["--trails", "3"], "Unknown flag `--trails`: did you mean `--trials`?"),
    (["--epochs", "3"], "`epochs` is a key of the runs, so use --set epochs=3 to fix it, or --search epochs=VALUES to search it"),
    (["--batch-size=4"], "Unknown flag `--batch-size`: `batch_size` is a key of the runs, so use --set batch_size=4 to fix it"),
    (["--task", "sst"], "Unknown flag `--task`: `task` is a key of the runs, so use --set task=sst to fix it\n"),
    (["--dora", "--plan"], "use --set dora=VALUE to fix it"),
    (["--set", "epochs=1", "--set", "epochs=2"], "The key `epochs` is given twice by `--set`, but must be given once"),
    (["--search", "lr=1..2", "--search", "lr=2..3"], "The key `lr` is given twice by `--search`, but must be given once"),
    (["--set", "text=a", "--text", "b"], "The key `text` is given by `--set` and by `--text`, but must be given once"),
    (["--warm-start", ".."], "The value of `--warm-start` is '..', but must be letters, digits"),
    (["--name", ""], "The value of `--name` is '', but must not be empty"),
    (["--profile", "quik"], "Unknown profile `quik`: did you mean `quick`?"),
    (["--set", "lrr=1"], "Unknown key `lrr`: did you mean `lr`?"),
    (["--set", "epochs"], "The value of `--set` is 'epochs', but must be KEY=VALUE"),
    (["--set", "num_beams=2"], "The key `num_beams` has no effect: it needs decoder beam; leave it out, or choose that too"),
    (["--set", "epochs=0"], "The value of `epochs` is '0', but must be >= 1"),
    (["--search", "lrr=1..2"], "Unknown key `lrr`: did you mean `lr`?"),
    (["--search", "weight_decay=0,-1"], "The value of `weight_decay` is '-1', but must be >= 0"),
    (["--set", "adapter=lorra"], "Unknown adapter `lorra`: did you mean `lora`?"),
    (["--set", "decoder=top_k"], "Unknown decoder `top_k`: did you mean `top-k`?"),
    (["--set", "task=sst"], "This search has no task `sst`: valid: sonnet"),
    (["--trials", "0"], "The value of `--trials` is 0, but must be >= 1"),
    (["--trials", "many"], "The value of `--trials` is 'many', but must be a whole number"),
    (["--replicates", "-1"], "The value of `--replicates` is -1, but must be >= 0"),
    (["--gpus-per-worker", "-1"], "The value of `--gpus-per-worker` is -1, but must be >= 0"),
    (["--checkpoint-minutes", "-1"], "The value of `--checkpoint-minutes` is -1, but must be >= 0"),
    (["--name", "../../x"], "The value of `--name` is '../../x', but must be letters, digits"),
    (
        ["--name", "_x"],
        "The value of `--name` is '_x', but must be letters, digits, dots, dashes and underscores, starting with a",
    ),
    (
        ["--name", "a" * 101],
        "... of 101 characters', but must be letters, digits, dots, dashes and underscores, starting with a",
    ),
    (["--storage", "ftp://host/folder"], "must be s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
    (["--storage", "s3://bucket/../x"], "letters, digits and _ . = -"),
    (["--model", "gpt2-nana", "--trials", "1"], "There is no model `gpt2-nana`"),
    (["--data-dir", "/nowhere"], "/nowhere: there is no such folder"),
    (["--train", "/nowhere.csv", "--text", "review"], "/nowhere.csv: there is no such file or folder"),
    (["--train", "a.csv", "--search", "label=stars,sort"], "The key `label` cannot be searched"),
])  # fmt: skip
@pytest.mark.parametrize("plan", [[], ["--plan"]], ids=["run", "plan"])
def test_bad_input_is_one_line_and_status_2(
    plan: list[str], flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = [] if "--storage" in flags else ["--storage", str(tmp_path)]
    assert status(main, SEARCH, [*storage, *flags, *plan]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_an_unreachable_hub_says_how_to_run_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(main, SEARCH, ["--storage", str(tmp_path), "--model", "gpt2"]) == 2
    error = capsys.readouterr().err
    assert "openai-community/gpt2" in error
    assert "to run offline, set --model to a folder or to the embedded gpt2-nano" in error


def test_a_key_that_is_set_is_not_searched() -> None:
    plan = parse(SEARCH, ["--set", "rank=16", "--set", "alpha=r"]).plan
    assert set(plan.space) == {"lr", "batch_size"}
    config = plan.config(SEARCH.reference)
    assert (config.rank, config.lora_alpha, config.lr) == (16, 16.0, 1e-3)


@pytest.mark.parametrize(("text", "domain"), [
    ("weight_decay=0,0.01,0.1", Choice(0.0, 0.01, 0.1)), ("lr=1e-5..1e-2:log", LogUniform(1e-5, 1e-2)),
    ("dropout=0..0.3", Uniform(0.0, 0.3)), ("epochs=2..8", IntUniform(2, 8)), ("epochs=2..8:int", IntUniform(2, 8)),
    ("batch_size=4..32:int:log", LogInt(4, 32)), ("batch_size=4..32:log", LogInt(4, 32)), ("alpha=8..64:int", IntUniform(8, 64)),
    ("alpha=r,8", Choice("r", 8.0)), ("pretrain=none,poems", Choice(None, "poems")), ("dora=true,false", Choice(True, False)),
    ("attention=dense;dense,logsparse", Choice("dense", "dense,logsparse")), ("rank=2..64:log", LogInt(2, 64)),
])  # fmt: skip
def test_a_key_is_searched_where_a_flag_says(text: str, domain: Domain) -> None:
    key = text.partition("=")[0]
    usual, plan = parse(SEARCH, []).plan, parse(SEARCH, ["--search", text]).plan
    assert (plan.space[key], repr(plan.space[key])) == (domain, repr(domain))
    assert {**plan.space, key: None} == {**usual.space, key: None}
    assert list(plan.space)[: len(usual.space)] == list(usual.space)
    assert (key in plan.search.scientific) == (key == "rank")
    assert all(point[key] in domain for point in plan.first_points)
    assert plan.digest != usual.digest
    assert parse(SEARCH, ["--search", text]).plan.digest == plan.digest


def test_a_searched_key_starts_where_the_search_has_it() -> None:
    def points(*flags: str) -> list[dict[str, Any]]:
        return parse(SEARCH, list(flags)).plan.first_points

    assert points("--search", "lora_dropout=0..0.3")[0]["lora_dropout"] == 0.1, "fixed by the search"
    assert points("--search", "warmup_steps=5..9")[0]["warmup_steps"] == 5, "the nearest to the default"
    assert {point["lr"] for point in points("--search", "lr=1e-4..1e-2:log")} == {1e-3}, "the study's is outside"
    assert parse(SEARCH, ["--search", "epochs=2..9"]).plan.epochs == 9


@pytest.mark.parametrize(("flags", "message"), [
    (["lr=1e-5...3e-2:log"], "The value of `lr` is '1e-5...3e-2:log', but must be a number"),
    (["lr=1...5"], "The value of `lr` is '1...5', but must be a number"),
    (["=3"], "The value of `--search` is '=3', but must be KEY=VALUES, such as lr=1e-5..1e-2:log"),
    (["LR=1,2"], "Unknown key `LR`: did you mean `lr`?"),
    (["lr"], "The value of `--search` is 'lr', but must be KEY=VALUES, such as lr=1e-5..1e-2:log"),
    (["lr=1e-3"], "The key `lr` has only one value to search, 0.001, but needs a range LOW..HIGH or 2 or more values"),
    (["lr=0.1,1e-1"], "The key `lr` has the value 0.1 twice, but its values must differ"),
    (["lr=1e-2..1e-5"], "The range of `lr` is '1e-2..1e-5', but must go from a lower to a higher number"),
    (["lr=1..1"], "The range of `lr` is '1..1', but must go from a lower to a higher number"),
    (["lr=..1"], "The value of `lr` is '..1', but must be a number"),
    (["lr=1..2:lg"], "Unknown kind of range `lg`: did you mean `log`?"),
    (["dropout=0..0.3:log"], "The range of `dropout` is '0..0.3:log', but must start above 0 on a log scale"),
    (["alpha=1.5..3:int"], "The range of `alpha` is '1.5..3:int', but must have whole numbers as bounds"),
    (["epochs=1..10000000000000000000"], "The range of `epochs` is '1..10000000000000000000', but must have bounds of at"),
    (["alpha=8..1e300:int"], "The range of `alpha` is '8..1e300:int', but must have bounds of at most 9,007,199,"),
    (["label=a,b"], "The key `label` cannot be searched: runs that are compared must have the same value"),
    (["dropout=0..2"], "The value of `dropout` is '2', but must be < 1"),
    (["lr=1..inf"], "The value of `lr` is 'inf', but must be a finite number"),
    (["epochs=1.5..3"], "The value of `epochs` is '1.5', but must be a whole number"),
    (["dora=0..1"], "The key `dora` has no numbers to search in '0..1': list its values"),
    (["decoder=top-p,beem"], "Unknown decoder `beem`: did you mean `beam`?"),
    (["pretrain=none,poem"], "Unknown task `poem`: did you mean `poems`?"),
    (["num_beams=2..8"], "The key `num_beams` has no effect: it needs decoder beam; leave it out, or choose that too"),
    (["head_dropout=0,0.3"], "The key `head_dropout` has no effect: it needs task "),
    (["tasks=sonnet+poems,sonnet+sst"], "The key `tasks` cannot be searched: runs that are compared must have the same value"),
    (["seed=1,2"], "The key `seed` cannot be searched: runs that are compared must have the same value"),
    (["gradient_checkpointing=true,false"], "The key `gradient_checkpointing` cannot be searched: it does not change"),
    (["lr=1e-5..1", "--set", "lr=1"], "Both `--set lr` and `--search lr` are given, but a key is either fixed or searched"),
    (["epochs=2..3", "--scheduler", "pbt"], "Population-based training cannot search `epochs`: fix it with --set epochs=N"),
])  # fmt: skip
def test_invalid_domains_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        Strategy(parse(SEARCH, ["--search", *flags]).plan, MemoryLedger())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_every_flag_of_the_readme_exists() -> None:
    flags = (
        "--profile study --model gpt2 --data-dir d --trials 3 --max-concurrent 2 --workers-per-trial 2 --gpus-per-worker 0.5 "
        "--replicates 1 --seed 5 --name n --storage /s --tracking-uri http://h --resume must --plan --smoke --set epochs=2 "
        "--budget-hours 3 --budget-gpu-hours 2 --budget-usd 9.5 --usd-per-gpu-hour 2 --checkpoint-minutes 10"
    )
    options = parse(SEARCH, flags.split())
    assert options.plan.profile.model == "gpt2"
    assert options.plan.profile.trials == 3
    assert options.plan.config(SEARCH.reference).seed == 5
    assert options.resume == "must"
    assert options.budget == Budget(hours=3, gpu_hours=2, usd=9.5, usd_per_gpu_hour=2)


def test_plan_prints_trials_and_costs_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--plan", "--smoke", "--trials", "10", "--usd-per-gpu-hour", "2", "--storage", str(tmp_path)]
    ledger = tmp_path / "searches" / "lora_rank-smoke" / "ledger.jsonl"
    open_ledger(ledger.parent, parse(SEARCH, flags).plan, "auto", print).close()
    begun = ledger.read_text()
    assert status(main, SEARCH, flags) == 0
    printed = capsys.readouterr().out
    for part in ("rank", "scientific", "nuisance", "at a time on this machine", "Nothing was started"):
        assert part in printed
    for part in (
        "12 trials (3 for each of 4 values of rank) of at most 2 epochs: the reference, its settings with each other value of "
        "rank, 4 points of the study, then proposals of tpe",
        "the best trial of each value of rank runs again, each on 1 fresh seed",
        "Objective: dev_loss (min)",
        "0000 reference: rank 8, lr 0.001",
        "0001 default: rank 4, lr 0.001",
        "0004 study: rank 4, lr 1e-05",
    ):
        assert part in printed
    for part in ("What it would take", "seconds per whole trial", "USD", "low: each trial that may be stopped"):
        assert part in printed
    assert "Fewer than 3 seeds name no winner" in printed
    assert "the same settings, so it would be resumed: 0 of 16 trials are done." in printed
    assert (list(tmp_path.rglob("*.*")), ledger.read_text()) == ([ledger], begun)


def test_a_single_trial_is_planned_without_a_comparison() -> None:
    for search in (SEARCH, LEARNING_RATE):  # with and without a factor
        plan = parse(search, ["--trials", "1", "--set", "epochs=1"]).plan
        assert (plan.compared, plan.replicates) == (0, 0)
        assert plan_texts(plan)[:2] == [
            "1 trial of at most 1 epoch: the reference; nothing is stopped early.",
            "A single trial is compared with nothing, so nothing runs again on fresh seeds.",
        ]


def test_a_plan_is_refused_if_an_earlier_search_of_its_name_cannot_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--trials", "4", "--storage", str(tmp_path)]
    plan, folder = parse(SEARCH, flags).plan, tmp_path / "searches" / "lora_rank-quick"
    assert earlier_state(folder, plan, "auto") is None
    with closing(open_ledger(folder, plan, "auto", print)), pytest.raises(UserError, match="another search is running"):
        earlier_state(folder, plan, "auto")
    for more, message in (
        (["--seed", "5"], "has another space or other settings"),
        (["--resume", "never"], "already a search"),
    ):
        assert status(main, SEARCH, [*flags, *more, "--plan"]) == 2
        assert message in capsys.readouterr().err


def test_a_script_is_called_by_its_path_or_as_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, module = str(ROOT / "searches" / "lora_rank.py"), "gpt2-search run lora_rank"
    monkeypatch.chdir(ROOT)
    assert script_command("searches/lora_rank.py") == "python searches/lora_rank.py"
    assert script_command(installed) == module
    monkeypatch.chdir(tmp_path)
    assert script_command("searches/lora_rank.py") == script_command(installed) == module
    own = tmp_path / "searches" / "lora_rank.py"
    own.parent.mkdir()
    own.touch()
    assert script_command(str(own)) == f"python {own}"
    assert script_command("searches/lora_rank.py") == "python searches/lora_rank.py"
    assert script_command("my search.py") == "python 'my search.py'"


def test_an_invalid_point_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="The value of `dropout` is '2', but must be < 1"):
        parse(SEARCH, ["--set", "dropout=2"])


def test_config_errors_are_user_errors() -> None:
    assert issubclass(ConfigError, UserError)


@pytest.mark.parametrize(
    ("epochs", "flags", "grace"),
    [(1, [], 1), (2, [], 1), (9, [], 3), (9, ["--grace", "1"], 1), (3, ["--grace", "9"], 3)],
)
def test_a_trial_may_be_stopped_from_a_third_of_its_epochs_on(epochs: int, flags: list[str], grace: int) -> None:
    assert parse(SEARCH, ["--set", f"epochs={epochs}", *flags]).plan.grace == grace


@pytest.mark.parametrize(("flags", "gpus", "expected"), [
    ("", 0, (1, 4, 1)), ("", 2, (4, 8, 2)), ("--pack off", 2, (1, 2, 2)), ("--trace", 2, (1, 2, 2)),
    ("--pack 3", 0, (3, 3, 4)), ("--pack 2 --max-concurrent 3", 0, (2, 3, 2)),
    ("--set dora=true", 2, (4, 8, 2)), ("--set lora_init=pissa", 2, (1, 2, 2)),
])  # fmt: skip
def test_trials_are_packed_if_it_pays(flags: str, gpus: int, expected: tuple[int, int, int], tmp_path: Path) -> None:
    """Expected are the trials per process, the trials at once, and the CPUs per process, on four CPUs."""
    spec = trial_spec(parse(SEARCH, flags.split()), tmp_path, [Machine(4, gpus)])
    assert (spec.pack, spec.concurrent, spec.cpus_per_worker) == expected


@pytest.mark.parametrize(("flags", "message"), [
    ("--pack 1", "The value of `--pack` is '1', but must be auto, off, or a number >= 2"),
    ("--pack 2 --workers-per-trial 2", "but a trial of 2 workers has a process group"),
    ("--pack 2 --trace", "with --trace it must be off: a process traces one trial at a time"),
])  # fmt: skip
def test_impossible_packs_are_refused(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        trial_spec(parse(SEARCH, flags.split()), tmp_path, [Machine(4)])


@pytest.mark.parametrize(("flags", "looks"), [
    ([], (3,)),
    (["--replicates", "5"], (5,)),
    (["--until", "seeds:4"], (4,)),
    (["--until", "decided"], (3, 4, 5, 6, 7, 8)),
    (["--until", "decided", "--replicates", "5"], (3, 4, 5)),
])  # fmt: skip
def test_looks_are_planned(flags: list[str], looks: tuple[int, ...]) -> None:
    design = parse(SEARCH, flags).plan.design
    assert design.looks == looks


@pytest.mark.parametrize(("flags", "message"), [
    (["--until", "dawn"], "The value of `--until` is 'dawn', but must be decided, or seeds:N with N >= 1"),
    (["--until", "seeds:0"], "The value of `--until` is 'seeds:0', but must be decided"),
    (["--until", "seeds:3", "--replicates", "4"], "`--until seeds:3` and `--replicates 4` contradict each other"),
    (
        ["--until", "decided", "--replicates", "2"],
        "The value of `--replicates` is 2, but must be >= 3 with `--until decided`",
    ),
    (["--margin", "inf"], "The value of `--margin` is inf, but must be > 0 and finite"),
    (["--constraint", "chrf>=nan"], "The value of `--constraint` is 'chrf>=nan', but must be"),
    (["--confirm", "all"], "The value of `--confirm` is 'all', but must be each, or a number >= 1"),
    (["--confirm", "each", "--set", "rank=8"], "The value of `--confirm` is each, but this search has no factor"),
    (["--margin", "0"], "The value of `--margin` is 0, but must be > 0"),
    (["--folds", "0"], "The value of `--folds` is 0, but must be >= 1"),
    (["--objective", "beauty"], "The value of `objective` is 'beauty', but must be a metric of the task `sonnet`"),
    (["--set", "judged=true"], "The key `judged` cannot be `--set`: the search sets it"),
])  # fmt: skip
def test_invalid_comparisons_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        _ = parse(SEARCH, flags).plan.objective
    assert str(error.value).startswith(message)


def test_the_plan_marks_searched_keys_that_no_run_reads() -> None:
    for search, flag, unread in ((SEARCH, "adapter=full", "rank"), (PREFERENCES, "loss=likelihood", "dpo_beta")):
        plan = parse(search, ["--set", flag]).plan
        assert plan.domain_text(unread).endswith("(no run reads it)")
        assert not plan.domain_text("lr").endswith(")")
