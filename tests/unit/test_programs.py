"""Searches with a user's program: its flags, its command, and how its metric is read."""

import json
import re
import shlex
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2core.errors import ConfigError, DataError, UserError, visible
from gpt2core.files import lock
from gpt2core.metrics.direction import Direction
from searches.domains import Choice, LogInt, LogUniform, Uniform
from searches.options import Options
from searches.programs.checking import check_program
from searches.programs.flags import parse_program
from tests.waiting import wait_until
from trainables.programs.process import Process
from trainables.programs.readings import FileReadings, OutputReadings, line_pattern
from trainables.programs.run import ProgramRun
from trainables.programs.trial import LOG, payloads

COMMAND = "python train.py --lr {lr} --seed {seed}"
COURSE = "Epoch 3: train loss :: 0.693, train acc :: 0.512, dev acc :: 0.498"


def parsed(*flags: str, command: str = COMMAND) -> Options:
    return parse_program(["--command", command, "--metric", "dev_acc", *flags])


def searched(*flags: str, command: str = COMMAND) -> Options:
    return parsed("--search", "lr=1e-5..1e-2:log", *flags, command=command)


def run(command: str, **fields: Any) -> ProgramRun:
    told = {"command": command, "metric": "dev_acc", "direction": Direction.MAX, "folder": "/", "seed": 7}
    return ProgramRun.of({**told, **fields})


def test_flags_state_a_search() -> None:
    command = f"{COMMAND} --opt {{opt}} --dim {{dim}} --epochs {{epochs}} {{amp}}"
    flags = ("--search", "opt=adam,sgd", "--search", "dim=16..64:log", "--search", "amp=none,--use_amp")
    plan = searched(*flags, "--set", "epochs=5", "--factor", "opt", command=command).plan
    assert plan.space == {
        "opt": Choice("adam", "sgd"),
        "lr": LogUniform(1e-5, 1e-2),
        "dim": LogInt(16, 64),
        "amp": Choice(None, "--use_amp"),
    }
    assert [level.name for level in plan.levels] == ["opt adam", "opt sgd"]
    assert (plan.epochs, plan.objective, plan.direction, plan.margin) == (5, "dev_acc", Direction.MAX, 0.01)
    reference = plan.first_points[0]
    assert reference == {"opt": "adam", "lr": pytest.approx(10**-3.5), "dim": 32, "amp": None}


@pytest.mark.parametrize(
    ("text", "domain"),
    [("1..5", "IntUniform"), ("0..0.5", "Uniform"), ("1e-4..1", "Uniform"), ("2..64:log", "LogInt")],
)
def test_a_range_is_of_whole_numbers_if_both_ends_are(text: str, domain: str) -> None:
    assert type(parsed("--search", f"lr={text}").plan.space["lr"]).__name__ == domain


def test_a_metric_of_losses_is_minimised_unless_told_otherwise() -> None:
    command = ["--command", COMMAND, "--search", "lr=0.1..1"]
    assert parse_program([*command, "--metric", "dev_loss"]).plan.direction is Direction.MIN
    assert parse_program([*command, "--metric", "dev_loss", "--mode", "max"]).plan.direction is Direction.MAX
    assert parse_program([*command, "--metric", "dev_loss"]).plan.space == {"lr": Uniform(0.1, 1)}


@pytest.mark.parametrize(("flags", "command", "message"), [
    ([], COMMAND, "The command has {lr}, but no flag gives its value: use --search lr=VALUES or --set lr=VALUE"),
    (["--search", "lr=1..2"], f"{COMMAND} {{epocs}}", "The command has {epocs}, but no flag gives its value"),
    (["--search", "lr=1..2", "--set", "epochs=3"], f"{COMMAND} {{epocs}}", "did you mean `epochs`?"),
    (["--search", "rl=1..2"], COMMAND, "The command has no {rl}, so `--search rl` would change nothing: add it, as in --rl {rl}"),
    (["--search", "lr=1..2"], "python train.py --lr {lr --seed {seed}", "The command has no {lr}, so `--search lr` would change"),
    (["--set", "rl=1"], COMMAND, "add it, as in --rl {rl} (did you mean `lr`?)"),
    (["--search", "epochs=1..2"], COMMAND, "The command has no {epochs}, so `--search epochs` would change nothing"),
    (["--search", "lr"], COMMAND, "The value of `--search` is 'lr', but must be KEY=VALUES"),
    (["--search", "lr=1..2"], f"{COMMAND} --resume {{checkpoint}}", "has one: use --resume-flag '--resume {checkpoint}'"),
    (["--train", "x.csv"], COMMAND, "Unknown flag `--train`: the program chooses its model and reads its data itself: name"),
    (["--search", "lr=1..2", "--set", "lr=3"], COMMAND, "Both `--set lr` and `--search lr` are given"),
    (["--set", "lr=3"], COMMAND, "Nothing is searched: give --search KEY=VALUES"),
    (["--search", "seed=1,2", "--search", "lr=1..2"], COMMAND, "The key `seed` cannot be given: it is the seed of the run"),
    (["--search", "lr=1..2"], "python train.py --lr {lr}", "The command has no {seed}"),
    (["--search", "lr=1..2"], "python 'train.py {lr} {seed}", "its quotes must match"),
    (["--search", "lr=1..2"], " ", "The value of `--command` is empty"),
    (["--search", "lr=1..2", "--factor", "lr"], COMMAND, "The factor `lr` is 1 to 2, whole numbers, but must have 2 to 8 values"),
    (["--search", "lr=1,2", "--factor", "l"], COMMAND, "must be a searched key: did you mean `lr`?"),
    (["--search", "lr=1..2", "--reference", "lr=5"], COMMAND, "The value of `lr` is 5 in the reference, but must be 1 to 2"),
    (["--search", "lr=1..2", "--pattern", "acc (.*)"], COMMAND, "must have the group (?P<value>...)"),
    (["--search", "lr=1..2", "--pattern", "acc (?P<value>"], COMMAND, "must be a regular expression"),
    (["--search", "lr=1..2", "--metrics-file", "../m.json"], COMMAND, "must be a name in the run's own folder"),
    (["--search", "lr=1..2", "--resume-flag", "--resume last.pt"], COMMAND, "must have {checkpoint}"),
    (["--search", "lr=1..2", "--scheduler", "pbt"], COMMAND, "a program cannot go on from another trial"),
    (["--search", "lr=1..2", "--minimize", "memory_gb"], COMMAND, "is 'memory_gb', but of a program only `seconds` is known"),
    (["--search", "lr=1..2", "--set", "epochs=0"], f"{COMMAND} {{epochs}}", "The value of `epochs` is 0"),
    (["--search", "lr=1..2", "--model", "gpt2"], COMMAND, "Unknown flag `--model`: the program chooses its model"),
    (["--lr", "1"], COMMAND, "Unknown flag `--lr`: `lr` is a key of the runs, so use --set lr=1 to fix it, or --search"),
    (["--search", "lr=1..2", "--search", "lr=2..3"], COMMAND, "The key `lr` is given twice by `--search`"),
    (["--search", "lr=1..2", "--set", "task=sst"], f"{COMMAND} {{task}}", "The command has {task}, but this name stands for"),
    (["--search", "lr=1..2"], f"{COMMAND} {{lr:.2f}}", "has {lr:.2f}, but a placeholder is {KEY}: letters, digits and _"),
    (["--search", "lr=1..2", "--metric", " "], COMMAND, "must be the name of the metric"),
])  # fmt: skip
def test_bad_flags_are_refused_in_one_line(flags: list[str], command: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        parsed(*flags, command=command)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("command", "links", "message"), [
    ("pyton train.py", [], "begins with 'pyton', but must begin with a program that exists"),
    ("python trian.py", [], "has 'trian.py', but there is no such file"),
    ("python train.py > log.txt", [], "has '>', but must begin with a program that exists, followed by its words: no shell"),
    ("cd x && python train.py", [], "has '&&', but must begin with a program that exists"),
    ("python train.py", ["."], "must be a file or folder with a name of its own"),
    ("python train.py", ["a/data", "b/data"], "must be a file or folder with a name of its own"),
    ("python train.py", ["dota"], "there is no such file or folder"),
])  # fmt: skip
def test_a_command_that_cannot_run_is_refused_before_the_search(
    command: str, links: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "train.py").touch()
    for name in ("a", "b"):
        (tmp_path / name / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_program(run(command, folder=str(tmp_path), links=tuple(links)))
    check_program(run("python train.py", folder=str(tmp_path), links=("a/data",)))


@pytest.mark.parametrize(("command", "name"), [
    ("/usr/bin/python3.11 src/train.py --lr 0.5", "train.py"), ("python -m pkg.train", "pkg.train"), ("./fit {lr}", "fit"),
])  # fmt: skip
def test_a_program_is_named_after_its_script(command: str, name: str) -> None:
    assert run(command).name == name


def test_a_line_with_the_metric_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text(COURSE)
    output = OutputReadings(tmp_path / LOG, line_pattern("acc", None), start=0)
    with pytest.raises(
        DataError, match="has the metric more than once; give a longer name, such as dev_acc, or --pattern"
    ):
        output.read(ended=True)


def test_the_command_is_part_of_the_identity_of_a_search_but_its_folder_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = searched().plan.digest
    assert searched(command=f"{COMMAND} --wd 0.1").plan.digest != digest
    assert searched("--mode", "min").plan.digest != digest
    monkeypatch.chdir(tmp_path)
    assert searched().plan.digest == digest


def test_words_are_filled_without_a_shell(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    command = "python train.py '--text={text}' {off} {on} --out {out}/x ; rm '{\"a\": 1}'"
    values = {"text": "a b; $(c)", "off": None, "on": "--amp"}
    argv = run(command, values=values, folder=str(tmp_path)).argv(Path("/runs/0001"))
    script = str(tmp_path / "train.py")
    assert argv == ["python", script, "--text=a b; $(c)", "--amp", "--out", "/runs/0001/x", ";", "rm", '{"a": 1}']


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.text(min_size=1), max_size=5))
def test_each_value_is_one_word(values: dict[str, str]) -> None:
    command = shlex.join(["p", *(f"{{{key}}}" for key in values)])
    assert run(command, values={**values, "seed": 1}).argv(Path("/o"))[1:] == [
        {"seed": "7", "out": "/o"}.get(key, value) for key, value in values.items() if key != "checkpoint"
    ]


def test_a_program_resumes_by_its_own_flag() -> None:
    resumable = run("p --save {out}/checkpoint", resume_flag="--resume {checkpoint}")
    assert resumable.argv(Path("/o")) == ["p", "--save", "/o/checkpoint"]
    again = resumable.argv(Path("/o"), Path("/o/checkpoint-7"))
    assert again == ["p", "--save", "/o/checkpoint", "--resume", "/o/checkpoint-7"]


@pytest.mark.parametrize(("line", "value"), [
    (COURSE, "0.498"),
    ("dev_acc=0.5", "0.5"),
    ("dev-acc: 51.2%", "51.2%"),
    ("dev_acc=0.5, dev_loss=2", "0.5"),
    ("dev_acc=0.5,dev_loss=2.", "0.5"),
    ("10%|# | 1/9 [00:01<00:09, 1.2s/it, dev_acc=.5]", ".5"),
    ("dev acc: 50%|#####     | 5/10 [00:01<00:01]", None),
    ("'Dev/Acc': -1.5e-3, 'dev_loss': 2", "-1.5e-3"),
    ('{"dev_acc": 1}', "1"),
    ("dev acc = nan", "nan"),
    ("best_dev_acc=0.7", None),
    ("dev_accuracy=0.7", None),
    ("dev acc 0.7", None),
    ("dev_acc=None", None),
])  # fmt: skip
def test_lines_name_the_metric(line: str, value: str | None) -> None:
    match = line_pattern("dev_acc", None).search(line)
    assert (match and match["value"]) == value


@pytest.mark.parametrize(("text", "value"), [
    ("1,234.5", 1234.5), ("-1,234,567", -1234567), ("12.5%", 0.125), ("50 %", 0.5), ("1,000.0%", 10), ("1e-3", 0.001),
    ("0.5.", 0.5), ("0.5\u00b10.1", 0.5), ("\x1b[1m0.5\x1b[0m", 0.5),
])  # fmt: skip
def test_numbers_are_read_as_they_are_meant(text: str, value: float, tmp_path: Path) -> None:
    assert reports(f"echo {shlex.quote(f'dev_acc = {text}')}", tmp_path) == [(1, value)]


@pytest.mark.parametrize(
    "text",
    [
        "0,899",
        "1/3 (0.899)",
        "1 / 3",
        "3/10 0.7",
        "0.5.3",
        "1,234",
        "0,899.5",
        "1'234.5",
        "0.5x",
        "1e",
        "12:30",
        "0.5-0.7",
        "\u22120.5",
    ],
)
def test_a_value_that_only_begins_with_a_number_is_refused(text: str, tmp_path: Path) -> None:
    (failure,) = reports(f"echo dev_acc=0.1; echo {shlex.quote(f'dev_acc = {text}')}; echo dev_acc=0.2", tmp_path)
    wrong = visible(repr(text.split()[0]))
    line = visible(repr(f"dev_acc = {text}"))
    assert failure.startswith(f"failed: The value of the metric is not a number: {wrong} in the line {line}; ")


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["{!r}", "{:.3f}", "{:e}", "{:,.2f}", "{:.1%}"])
)
def test_numbers_in_the_forms_of_python_are_read(number: float, form: str) -> None:
    text = form.format(number)
    with TemporaryDirectory() as folder:
        log = Path(folder, LOG)
        log.write_text(f"dev acc: {text} (epoch 3)")
        (reading,) = OutputReadings(log, line_pattern("dev_acc", None), start=0).read(ended=True)
    percent = 100 if "%" in form else 1
    assert reading[:2] == (3, float(text.replace(",", "").strip("%")) / percent)


@pytest.mark.parametrize(("command", "epochs", "reported"), [
    (r"printf ' 50%%|# |, dev_acc=0.1\r100%%|##|, dev_acc=0.2\n'; echo dev_acc=0.3", 2, [(1, 0.2), (2, 0.3)]),
    (r"printf '\033[32mdev_acc\033[0m: \033[1;31m0.5\033[0m\n'", 1, [(1, 0.5)]),
    (r"printf 'dev_acc=0.5' >&2", 1, [(1, 0.5)]),
    (r"printf '10%%\r\033[31m20%%\033[0m\r\n'; exit 3", 1, ["failed: exit status 3: 20%"]),
    (r"yes 0123456789 | head -c 10000000; printf '\rdev_acc=0.5'", 1, [(1, 0.5)]),
    (r"head -c 10000000 /dev/zero; printf '\rdev_acc=0.5\n'", 1, [(1, 0.5)]),
])  # fmt: skip
def test_output_is_read_as_a_terminal_shows_it(command: str, epochs: int, reported: list[Any], tmp_path: Path) -> None:
    assert reports(command, tmp_path, epochs=epochs) == reported


def test_the_output_is_read_as_it_grows(tmp_path: Path) -> None:
    log = tmp_path / LOG
    log.write_text("dev_acc=0.1 of an earlier process\n")
    output = OutputReadings(log, line_pattern("dev_acc", None), start=log.stat().st_size, before=2)
    parts = [
        (" 10%|#\r 20%|##\rdev_acc=0.2\n30%|#\rdev_a", [(3, 0.2)]),
        ("cc=0.3\r\n", [(3, 0.2), (4, 0.3)]),
        ("epoch 7/9 dev_acc=0.4", [(3, 0.2), (4, 0.3)]),
    ]
    for text, readings in parts:
        with log.open("a") as file:
            file.write(text)
        assert [reading[:2] for reading in output.read(ended=False)] == readings
    assert [reading[:2] for reading in output.read(ended=True)] == [(3, 0.2), (4, 0.3), (7, 0.4)]
    again = OutputReadings(log, line_pattern("dev_acc", None), output.readings[0].end, before=3)
    assert again.read(ended=True) == output.readings[1:]


def test_a_pattern_may_name_the_epoch(tmp_path: Path) -> None:
    (tmp_path / LOG).touch()
    output = OutputReadings(tmp_path / LOG, line_pattern("x", r"step (?P<epoch>\d+) .* acc (?P<value>\S+)"), start=0)
    (tmp_path / LOG).write_text("step 4 of epoch 9: acc 0.5\n")
    assert [reading[:2] for reading in output.read(ended=False)] == [(4, 0.5)]
    (tmp_path / LOG).write_text("step 4 of epoch 9: acc 0.5\nstep 5 is acc high\n")
    with pytest.raises(DataError, match="the metric is 'high', but must be a number"):
        output.read(ended=True)
    output = OutputReadings(tmp_path / LOG, line_pattern("x", r"(?P<epoch>\S+) acc (?P<value>\S+)"), start=0)
    with pytest.raises(DataError, match="the epoch is '9:', but must be a whole number"):
        output.read(ended=True)


@pytest.mark.parametrize(("text", "readings"), [
    ('{"dev_acc": 0.5, "epoch": 3}', [(3, 0.5)]),
    ('{"dev_acc": 0.5}', [(1, 0.5)]),
    ('[{"dev_acc": 0.5}, {"loss": 2}, {"dev_acc": 0.6}]', [(1, 0.5), (2, 0.6)]),
    ('{"epoch": 0, "dev_acc": 0.5}\n\n{"epoch": 1, "dev_acc": 0.6}\n{"epo', [(0, 0.5), (1, 0.6)]),
    ('{"loss": 1}', []),
])  # fmt: skip
def test_a_json_file_has_the_metric(text: str, readings: list[tuple[int, float]], tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    read = FileReadings(tmp_path / "m.json", "dev_acc").read(ended=True)
    assert [reading[:2] for reading in read] == readings


@pytest.mark.parametrize("text", ['{"dev', "3", '{"dev_acc": true}', '{"dev_acc": "high"}', ""])
def test_a_json_file_without_numbers_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DataError, match=r"must be a number|is not JSON"):
        FileReadings(tmp_path / "m.json", "dev_acc").read(ended=True)
    assert FileReadings(tmp_path / "absent.json", "dev_acc").read(ended=True) == []


def reports(command: str, out: Path, **fields: Any) -> list[Any]:
    """Run a shell command as the program; return the value of each report, or the kind and reason of its failure."""
    program = run(f"sh -c {shlex.quote(command)}", **fields)
    found = payloads(program, str(out), 1, threading.Event())
    return [
        ": ".join(report["failure"].values()).partition(" (see")[0]
        if "failure" in report
        else (report["epoch"], report["objective"])
        for report in found
    ]


@pytest.mark.parametrize(("command", "epochs", "reported"), [
    ("for e in 0 1 2 3; do echo epoch $e: dev_acc=0.$e; done", 3, [(1, 0.0), (2, 0.1), (3, 0.2)]),
    ("echo dev_acc=0.3; echo dev_acc=0.5; echo dev_acc=0.4", 1, [(1, 0.5)]),
    ("echo dev_acc=0.3 >&2; exit 3", 2, [(1, 0.3), "failed: exit status 3: dev_acc=0.3"]),
    ("echo one; echo two; kill -9 $$", 1, ["failed: killed by signal 9: one | two"]),
    ("echo dev_acc=nan; sleep 60", 2, ["diverged: The value of dev_acc is nan at epoch 1"]),
    ("echo CUDA out of memory; exit 1", 1, ["out_of_memory: exit status 1: CUDA out of memory"]),
    ("echo nothing", 1, ["failed: `dev_acc` never appeared in the output, which must have a line such as dev_acc=0.5; "
                                         "its last lines: nothing"]),
])  # fmt: skip
def test_a_run_reports_its_epochs_or_why_it_failed(
    command: str, epochs: int, reported: list[Any], tmp_path: Path
) -> None:
    assert reports(command, tmp_path, epochs=epochs) == reported


def test_a_program_that_cannot_start_is_a_failed_run(tmp_path: Path) -> None:
    (failure,) = payloads(run("/absent/program"), str(tmp_path), 1, threading.Event())
    assert failure["failure"]["reason"].startswith(
        "exit status 127: /absent/program: cannot be started (No such file or directory)"
    )


def test_a_run_that_ended_reports_again_without_running(tmp_path: Path) -> None:
    command = "echo ran >> runs; for e in 1 2; do echo dev_acc=0.$e; done"
    assert [reports(command, tmp_path, epochs=2) for _ in range(2)] == 2 * [[(1, 0.1), (2, 0.2)]]
    assert (tmp_path / "runs").read_text() == "ran\n"


@pytest.mark.parametrize("resumes", [True, False])
def test_an_interrupted_run_resumes_or_starts_again(resumes: bool, tmp_path: Path) -> None:
    epoch = "{ echo epoch $e dev_acc=$last.$e; echo $e > state; sleep $1; }"
    command = f'last=$(cat "$0" || echo 0); for e in 1 2 3; do [ $e -le $last ] || {epoch}; done'
    flag = "{checkpoint}" if resumes else None
    words = f"sh -c {shlex.quote(command)} {{file}} {{wait}}"
    settings: dict[str, Any] = {"epochs": 3, "checkpoint": "stat*", "resume_flag": flag}
    first = run(words, values={"file": "absent", "wait": 60}, **settings)
    reported = payloads(first, str(tmp_path), 1, threading.Event())
    assert next(reported)["objective"] == 0.1
    reported.close()
    second = run(words, values={"file": "state" if resumes else "absent", "wait": 0}, **settings)
    again = [report["objective"] for report in payloads(second, str(tmp_path), 1, threading.Event())]
    assert again == ([0.1, 1.2, 1.3] if resumes else [0.1, 0.2, 0.3])


def test_a_stop_ends_the_whole_process_group(tmp_path: Path) -> None:
    """The program asks for it to be killed: it ignores SIGTERM, but its children do not."""
    script = "trap 'touch told' TERM; sleep 300 & echo $! > child; while true; do sleep 0.1; done"
    with (tmp_path / "held").open("w") as held:
        lock(held)
        process = Process(["sh", "-c", script], tmp_path, tmp_path / LOG, 1, held=held.fileno(), grace=0.5)
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().endswith("\n"))
    child = psutil.Process(int((tmp_path / "child").read_text()))
    with (tmp_path / "held").open() as held, pytest.raises(BlockingIOError):
        lock(held)
    begun = time.monotonic()
    process.stop()
    assert time.monotonic() - begun < 5
    with (tmp_path / "held").open() as held:
        lock(held)
    assert (tmp_path / "told").exists()
    assert process.status() == 128 + 9
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_progress_is_json_without_nan(tmp_path: Path) -> None:
    reports("echo dev_acc=0.5; echo dev_acc=inf", tmp_path, epochs=2)
    assert json.loads((tmp_path / "progress.json").read_text())["values"] == {"1": 0.5}


def test_a_stopped_search_of_values_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="has only one value to search"):
        parsed("--search", "lr=0.1")
