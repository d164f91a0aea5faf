"""A search as a TOML or YAML file is the search that a script states, and invalid files are refused in one line."""

import copy
import json
import shutil
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gpt2core.errors import UserError
from searches.__main__ import main
from searches.options import parse
from searches.plan import make_plan
from searches.question import scripts, search_of
from searches.running.ledger import Ledger, read_state
from searches.running.resume import stated_search
from searches.search_file import definition_of, read, search_at, search_from
from searches.search_schema import schema
from searches.search_text import content
from searches.showing.facts import commands
from tests.runs import ROOT, status

EXAMPLE = "examples/weight_decay.toml"
RULE = "but must be a file that ends in .toml, .yaml or .yml, or a script of this project:"
VALIDATOR = jsonschema.Draft202012Validator(schema())
Values = dict[str, Any]


def toml(value: Any) -> str:
    """Write a value in the inline form of TOML, in which none is text."""
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps("none" if value is None else value)


def write(definition: Values, path: Path) -> str:
    """Write a search file in the format of its name, in YAML with values in the form of JSON; return its path."""
    if path.suffix == ".toml":
        lines = [f"{key} = {toml(value)}" for key, value in definition.items()]
    else:
        lines = [f"{key}: {json.dumps(value)}" for key, value in definition.items()]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(params=[".toml", ".yaml", ".yml"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The path of a search file in each format."""
    return tmp_path / f"my{request.param}"


@pytest.mark.parametrize("script", scripts())
def test_a_script_as_a_file_has_the_same_digests(script: str, path: Path) -> None:
    search = search_of(script)
    again = read(write(definition_of(search), path))
    assert (again.command, again.source) == (f"gpt2-search run {path}", str(path))
    VALIDATOR.validate(dict(again.definition))
    for task in search.tasks:
        for profile in search.profiles:
            settings = {"task": task, **({"pairs": "/pairs"} if search.learns_from_pairs else {})}
            plans = [make_plan(one, profile, settings=settings) for one in (search, again)]
            assert plans[0].digest == plans[1].digest
            assert plans[0].profile == plans[1].profile


def test_the_example_is_valid_and_takes_all_flags() -> None:
    search = read(str(ROOT / EXAMPLE))
    VALIDATOR.validate(dict(search.definition))
    options = parse(search, ["--search", "dropout=0,0.1", "--set", "rank=8", "--trials", "12"])
    assert options.plan.space.keys() == {"weight_decay", "lr", "alpha", "dropout"}
    assert options.name == "weight_decay-quick"
    assert [level.name for level in options.plan.levels] == ["weight decay 0", "weight decay 0.01", "weight decay 0.1"]


def changed(*path: str, to: Any) -> Callable[[Values], None]:
    def change(definition: Values) -> None:
        for name in path[:-1]:
            definition = definition[name]
        if to is None:
            del definition[path[-1]]
        else:
            definition[path[-1]] = to

    return change


#: Changes of the example that both the schema and the reader accept.
VALID = [
    changed("nuisance", "rank", to=[8, 16]), changed("fixed", "clip_norm", to=1), changed("costs", to=["train_seconds"]),
    changed("fixed", "clip_norm", to="none"), changed("fixed", "attention", to="dense,logsparse"),
    changed("nuisance", "lr", to=[1e-5, 1e-3, 1]), changed("nuisance", "lr", to="1e-5 .. 0.1"), changed("tasks", "sonnet", to={}),
    changed("nuisance", "rank", to="4..32:int:log"), changed("profiles", "quick", "until_decided", to=True),
]  # fmt: skip
#: Changes that both refuse, with what the reader says.
INVALID = [
    (changed("nuisence", to={}), ": Unknown key `nuisence`: did you mean `nuisance`?"),
    (changed("question", to=None), ": The key `question` is missing"),
    (changed("question", to=""), ": The value of `question` is '', but must have 1 or more characters"),
    (changed("name", to="a/b"), ": The value of `name` is 'a/b', but must match the pattern"),
    (changed("profiles", to={}), ": The value of `profiles` is {}, but must have 1 or more entries"),
    (changed("nuisance", "lrr", to=[1, 2]), ", [nuisance]: Unknown key `lrr`: did you mean `lr`?"),
    (changed("nuisance", "seed", to=[1, 2]), ", [nuisance]: The key `seed` cannot be searched"),
    (changed("nuisance", "dropout", to=[0, 2]), ", [nuisance]: The value of `dropout` is 2, but must be < 1"),
    (changed("nuisance", "lr", to=["1e-3", 1]), ", [nuisance]: The value of `lr` is '1e-3', but must be a number"),
    (changed("nuisance", "lr", to=[0.1]), ", [nuisance]: The key `lr` has only one value to search, 0.1"),
    (changed("nuisance", "lr", to=[0.1, 0.1]), ", [nuisance]: The key `lr` has the value 0.1 twice"),
    (changed("nuisance", "lr", to=0.1), ", [nuisance]: The values of `lr` are 0.1, but must be a list, or a range such as"),
    (changed("nuisance", "lr", to="1e-3,1e-2"), ", [nuisance]: The values of `lr` are '1e-3,1e-2', but must be a list"),
    (changed("nuisance", "lr", to="1..2:lg"), ", [nuisance]: Unknown kind of range `lg`: did you mean `log`?"),
    (changed("nuisance", "alpha", to=["3r", "r"]), ", [nuisance]: The value of `alpha` is '3r', but must be "),
    (changed("nuisance", "dora", to="0..1"), ", [nuisance]: The key `dora` has no numbers to search"),
    (changed("fixed", "adapter", to="lorra"), ", [fixed]: Unknown adapter `lorra`: did you mean `lora`?"),
    (changed("fixed", "task", to="sonnet"), ", [fixed]: The key `task` cannot be fixed here: name it in [tasks.NAME]"),
    (changed("fixed", "data_dir", to="/data"), ", [fixed]: The key `data_dir` cannot be fixed here: paths differ"),
    (changed("reference", "rank", to=0), ", [reference]: The value of `rank` is 0, but must be >= 1"),
    (changed("tasks", "sonet", to={}), ", [tasks.sonet]: Unknown task `sonet`: did you mean `sonnet`?"),
    (changed("own_tasks", to=["txt"]), ": Unknown task on own data `txt`: did you mean `text`?"),
    (changed("tasks", "sonnet", to={"studies": []}), ", [tasks.sonnet]: Unknown key `studies`: did you mean `study`?"),
    (changed("tasks", "sonnet", to={"study": [{"lrr": 1}]}), ", [tasks.sonnet]: Unknown key `lrr`: did you mean `lr`?"),
    (changed("profiles", "quick", "trails", to=3), ", [profiles.quick]: Unknown key `trails`: did you mean `trials`?"),
    (changed("profiles", "quick", "trials", to=0), ", [profiles.quick]: The value of `trials` is 0, but must be >= 1"),
    (changed("profiles", "quick", "model", to=None), ", [profiles.quick]: The key `model` is missing"),
    (changed("profiles", "quick", "run", to={"epochs": 0}), ", [profiles.quick]: The value of `epochs` is 0, but must be "),
]  # fmt: skip
#: Changes that only the reader can refuse.
CONTRADICTORY = [
    (changed("factor", to=["rank"]), ": The factor has `rank`, but its keys must be scientific keys"),
    (changed("fixed", "lr", to=0.1), ": The key `lr` has two roles, but must be scientific, nuisance or fixed"),
    (changed("reference", "lr", to=None), ": The reference lacks a value of the searched key `lr`"),
    (changed("reference", "batch_size", to=8), ": The reference has `batch_size`, which is not searched: leave it out"),
    (changed("reference", "rank", to=64), ": The value of `rank` is 64 in the reference, but must be 4 to 32"),
    (changed("tasks", "sonnet", to={"study": [{"rank": 64}]}),
     ": The value of `rank` is 64 in the study's points of sonnet, but must be 4 to 32"),
    (changed("nuisance", "lr", to="1e-2..1e-5"), ", [nuisance]: The range of `lr` is '1e-2..1e-5', but must go from a lower"),
    (changed("fixed", "adapter", to="full"), ": The key `rank` has no effect: it needs adapter lora"),
]  # fmt: skip


def example() -> Values:
    return copy.deepcopy(tomllib.loads((ROOT / EXAMPLE).read_text()))


@pytest.mark.parametrize("change", VALID)
def test_schema_and_reader_accept_the_same(change: Callable[[Values], None]) -> None:
    definition = example()
    change(definition)
    VALIDATOR.validate(definition)
    search_from(definition, "my.toml")


@pytest.mark.parametrize(("change", "message", "is_valid"), [
    *((change, message, False) for change, message in INVALID), *((change, message, True) for change, message in CONTRADICTORY),
])  # fmt: skip
def test_schema_and_reader_refuse_the_same(change: Callable[[Values], None], message: str, is_valid: bool) -> None:
    definition = example()
    change(definition)
    assert VALIDATOR.is_valid(definition) == is_valid
    with pytest.raises(UserError) as error:
        search_from(definition, "my.toml")
    assert str(error.value).startswith(f"my.toml{message}")
    assert "\n" not in str(error.value)


def test_wrong_keys_are_refused_with_file_and_section(path: Path) -> None:
    for change, message in (
        (changed("profiles", "quick", "model", to="gpt2-nan"), ", [profiles.quick]: There is no model `gpt2-nan`"),
        (changed("question", to=" "), ": The value of `question` is ' ', but must not be empty"),
        (changed("nuisance", "lrr", to=[1, 2]), ", [nuisance]: Unknown key `lrr`: did you mean `lr`?"),
    ):
        definition = example()
        change(definition)
        with pytest.raises(UserError) as error:
            read(write(definition, path))
        assert str(error.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(("name", "text", "message"), [
    ("my.toml", b"name = ", ": is not TOML (Invalid value (at end of document))"),
    ("my.toml", b"name = '\xff'", ": is not UTF-8, or nested too deep"),
    ("my.toml", b"name = 2026-01-01", ": has a date, or a number that is not finite"),
    ("my.toml", b"a = " + b"[" * 5000, ": is not UTF-8, or nested too deep"),
    ("my.toml", b"#" * (2**20 + 1), ": is longer than 1,048,576 bytes"),
    ("my.yaml", b"name: a\nfixed: [1\nb: 2", ", line 3: is not YAML (expected ',' or ']', but got ':')"),
    ("my.yaml", b"name: \xff", ": is not UTF-8, or nested too deep"),
    ("my.yaml", b"\nname: \x07", ", line 2: is not YAML (special characters are not allowed)"),
    ("my.yaml", b"name: 2026-01-01", ": has a date, or a number that is not finite"),
    ("my.yaml", b"a: " + b"[" * 5000, ": is not UTF-8, or nested too deep"),
    ("my.yaml", b"name: a\nname: b", ", line 2: is not YAML (`name` occurs twice)"),
    ("my.yaml", b"a: &a [1]\nb: [*a, *a]", ", line 2: is not YAML (it has an alias)"),
    ("my.yaml", b"a: !!python/object:os.system x", ", line 1: is not YAML (could not determine a constructor for the tag "
     "'tag:yaml.org,2002:python/object:os.system')"),
    ("my.yml", b"- a", ": is ['a'], but must be keys with their values"),
    ("my.yml", b"", ": is None, but must be keys with their values"),
    ("my.yml", b"1: a", ": Unknown key `1`: valid: "),
])  # fmt: skip
def test_unreadable_files_are_refused(
    name: str, text: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(text)
    assert status(main, ["run", str(path), "--plan"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}{message}")


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.e-3", ".1e-2", "+1e-03", "0.001"])
def test_every_way_to_write_a_number_is_a_number_in_yaml(number: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(f"lr: {number}")
    assert content(str(path)) == {"lr": 0.001}


@pytest.mark.parametrize(("words", "message"), [
    (["run"], "error: the following arguments are required: SEARCH"),
    (["run", "--plan", EXAMPLE], f"error: The file must stand before the flags: gpt2-search run {EXAMPLE} --plan"),
    (["run", "--trials", "3"], "error: The file must stand before the flags: gpt2-search run FILE --trials 3"),
    (["--plan", "run", EXAMPLE], f"error: The flag `--plan` must follow the command: gpt2-search run {EXAMPLE} --plan"),
    (["--bogus", "list"], "error: Unknown flag `--bogus`: valid: --help, -h"),
    (["run", "lora_rnk"], f"error: The search to run is 'lora_rnk', {RULE} did you mean `lora_rank`?"),
    (["run", "lora_rank", "--trials", "x"], "error: The value of `--trials` is 'x', but must be a whole number"),
    (["run", "/nowhere.toml"], "error: /nowhere.toml: No such file or directory"),
    (["run", EXAMPLE, "--trails", "3"], "error: Unknown flag `--trails`: did you mean `--trials`?"),
])  # fmt: skip
def test_wrong_words_are_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(main, words) == 2
    assert capsys.readouterr().err.splitlines() == [message]


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(main, ["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_a_search_is_reopened_with_the_flags_that_it_needs(tmp_path: Path) -> None:
    flags = ["--set", "adapter=lora", "--search", "rank=4,8"]
    plan = parse(search_of("learning_rate"), flags).plan
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        ledger.begin(plan.digest, plan.search.name, plan.seed)
        ledger.record({"event": "started", "argv": flags, "file": "x.py", "definition": definition_of(plan.search)})
    state = read_state(tmp_path / "ledger.jsonl")
    assert parse(stated_search(state), state.argv).plan.digest == plan.digest


def test_a_search_is_reopened_from_its_ledger_alone(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    shutil.copy(ROOT / EXAMPLE, path)
    search = read(str(path))
    plan = parse(search, ["--search", "dropout=0,0.1"]).plan
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        ledger.begin(plan.digest, search.name, plan.seed)
        ledger.record({"event": "started", "argv": [], "file": search.file, "definition": search.definition})
    path.unlink()
    state = read_state(tmp_path / "ledger.jsonl")
    again = stated_search(state)
    assert again == search
    assert parse(again, ["--search", "dropout=0,0.1"]).plan.digest == state.digest
    assert commands(parse(again, ["--smoke"]))["go on with it"] == f"gpt2-search run {path} --smoke"


def test_a_search_is_found_by_name_by_script_or_by_file(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text("from searches.lora_rank import SEARCH\n")
    assert search_at("lora_rank") is search_of("lora_rank")
    assert (search_at(str(script)).scientific, search_at(str(script)).file) == (
        search_of("lora_rank").scientific,
        str(script),
    )
    assert search_at(str(ROOT / EXAMPLE)) == read(str(ROOT / EXAMPLE))


@pytest.mark.parametrize(("text", "words"), [
    ("x = 1\n", "mine.py: defines no SEARCH"),
    ("SEARCH = 1\n", "mine.py: SEARCH has the type int, but must be a Search"),
    ("import nothing\n", r"mine.py: cannot be run \(ModuleNotFoundError: No module named 'nothing'\)"),
    ("raise SystemExit('no')\n", r"mine.py: cannot be run \(SystemExit: no\)"),
    ("SEARCH =\n", r"mine.py: cannot be run \(SyntaxError"),
])  # fmt: skip
def test_a_script_that_states_no_search_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=words):
        search_at(str(tmp_path / "mine.py"))
