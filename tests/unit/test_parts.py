"""Own parts: entry points of installed packages, and modules of --import."""

import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.connect import runtime_environment
from gpt2core.__main__ import main as gpt2core
from gpt2core.adapters import ADAPTERS, Adapter
from gpt2core.component import TABLES, Table, own_parts
from gpt2core.config import RunConfig
from gpt2core.errors import ConfigError, UnknownNameError
from gpt2core.parts import GROUPS, IMPORTS, import_modules, require
from searches.__main__ import main as searches
from searches.domains import Choice
from searches.options import parse, parse_for_user
from searches.question import search_of
from searches.search_file import read, search_from
from searches.showing.facts import commands
from searches.showing.parts import ALL
from tests import plugins
from tests.runs import python, status

GROUP = "[gpt2_search.adapters]\n"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Table[Adapter]]:
    """Return a function that makes the table of adapters as in a process that has just begun."""
    monkeypatch.setitem(TABLES, "adapter", ADAPTERS)  # restored at the end
    built_in = {name: ADAPTERS[name] for name in ADAPTERS if ADAPTERS.origins[name] == "built in"}
    return lambda: Table("adapter", Adapter, built_in)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which packages and modules are imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [
        name for name, module in sys.modules.items() if str(tmp_path) in (getattr(module, "__file__", "") or "")
    ]:
        del sys.modules[name]


def test_each_table_has_a_group_of_entry_points() -> None:
    assert {table.kind for table in ALL} == GROUPS.keys()


def test_an_installed_part_is_a_component_like_any_other(site: Path, fresh: Callable[[], Table[Adapter]]) -> None:
    plugins.install(site, "toplib", plugins.TOP, f"{GROUP}top = toplib:TOP")
    table = fresh()
    assert "toplib" not in sys.modules, "it is imported once a table is read"
    assert table["top"].meaning == "the last blocks train"
    assert (table.origins["top"], table.origins["lora"]) == ("toplib 1.5", "built in")
    assert own_parts() == {"adapter top": "toplib 1.5"}
    assert RunConfig.of({"adapter": "top", "top_blocks": "2"}).model_dump()["top_blocks"] == 2


@pytest.mark.parametrize(("code", "entry", "reason"), [
    ("import missing_module", "top = toplib:TOP", "toplib:TOP: ModuleNotFoundError: No module named 'missing_module'"),
    ("raise SystemError('no\\nGPU')", "top = toplib:TOP", "toplib:TOP: SystemError: no"),
    ("", "top = toplib:TOP", "toplib:TOP: AttributeError: module 'toplib' has no attribute 'TOP'"),
    ("TOP = max", "top = toplib:TOP", "it is <built-in function max>, but must be an instance of gpt2core.adapters.base.Adapter"),
    (plugins.TOP, "lora = toplib:TOP", "the name `lora` is taken (built in)"),
    (plugins.TOP, "a,b = toplib:TOP", "the name 'a,b' must be letters, digits, dots, dashes and underscores"),
])  # fmt: skip
def test_an_installed_part_that_cannot_be_used_is_explained_when_it_is_named(
    site: Path, fresh: Callable[[], Table[Adapter]], code: str, entry: str, reason: str
) -> None:
    plugins.install(site, "toplib", code, GROUP + entry)
    table, name = fresh(), entry.partition(" = ")[0]
    assert set(table) == {"full", "freeze", "frozen", "last-linear", "lora", "adalora", "nested"}
    assert table["full"].trains, "other components can be used"
    with pytest.raises(ConfigError) as error:
        table[name]
    line = f"The adapter `{name}` of toplib 1.5 cannot be used: {reason}; repair or uninstall toplib"
    assert str(error.value) == line
    with pytest.raises(ConfigError, match=r"^Unknown key `top_blocks`: .*; The adapter `"):
        RunConfig.of({"top_blocks": 1})


def test_a_name_that_two_packages_claim_is_that_of_neither(site: Path, fresh: Callable[[], Table[Adapter]]) -> None:
    for package in ("onelib", "twolib"):
        plugins.install(site, package, plugins.TOP, f"{GROUP}top = {package}:TOP")
    with pytest.raises(
        ConfigError, match=r"the name `top` is taken \((one|two)lib 1.5\); repair or uninstall (one|two)lib"
    ):
        fresh()["top"]


def test_an_unknown_name_says_how_own_parts_are_given() -> None:
    with pytest.raises(UnknownNameError, match="a part of your own needs its package installed, or --import MODULE"):
        RunConfig.of({"adapter": "bitfit", "biases": 3})


def test_a_module_registers_components(
    site: Path, fresh: Callable[[], Table[Adapter]], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = fresh()
    monkeypatch.setattr("gpt2core.adapters.ADAPTERS", table)
    (site / "my_parts.py").write_text(f'{plugins.TOP}\nADAPTERS["top"] = TOP\n')
    import_modules(["my_parts", "my_parts"])
    assert "top" in table
    assert table.origins["top"].startswith("module my_parts, SHA-256 ")
    (site / "more_parts.py").write_text('from my_parts import ADAPTERS, TOP\nADAPTERS["lora"] = TOP\n')
    with pytest.raises(
        ConfigError, match=r"`more_parts` of --import cannot be imported: the name `lora` is taken \(built in\)$"
    ):
        import_modules(["more_parts"])


def test_workers_import_the_modules_that_the_driver_names(
    site: Path, fresh: Callable[[], Table[Adapter]], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = fresh()
    monkeypatch.setattr("gpt2core.adapters.ADAPTERS", table)
    monkeypatch.setenv(IMPORTS, "my_parts")
    with pytest.raises(ConfigError, match="module `my_parts` of --import cannot be imported: ModuleNotFoundError"):
        table["top"]
    (site / "my_parts.py").write_text(f'{plugins.TOP}\nADAPTERS["top"] = TOP\n')
    assert table["top"].meaning == "the last blocks train"


@pytest.mark.parametrize(("name", "message"), [
    ("my/parts.py", "The value of `--import` is 'my/parts.py', but must be the name of a module"),
    ("no_such_module", "The module `no_such_module` of --import cannot be imported: ModuleNotFoundError: No module named"),
    ("my_parts.py", "The value of `--import` is 'my_parts.py', but must be the name of a module: my_parts for my_parts.py"),
    ("brocken_parts", "The module `brocken_parts` of --import cannot be imported: ModuleNotFoundError: No module named "
     "'brocken_parts'; did you mean `broken_parts`, which is in this folder?"),
    ("broken_parts", "The module `broken_parts` of --import cannot be imported: SyntaxError: "),
    ("leaving_parts", "The module `leaving_parts` of --import cannot be imported: SystemExit: 3"),
])  # fmt: skip
def test_wrong_modules_are_one_line(site: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "broken_parts.py").write_text("def")
    (site / "leaving_parts.py").write_text("import sys\nsys.exit(3)\n")
    for main, command in ((gpt2core, "keys"), (searches, "parts")):
        assert status(lambda main=main, command=command: main([command, "--import", name])) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {message}")


def test_flags_of_a_ledger_import_nothing(site: Path) -> None:
    (site / "ran_parts.py").write_text("raise SystemError('ran')")
    flags = ["--import", "ran_parts"]
    with pytest.raises(
        ConfigError, match=r"uses the module `ran_parts`, whose code would run: give --import ran_parts if"
    ):
        parse(search_of("lora_rank"), flags)
    with pytest.raises(ConfigError, match="SystemError: ran"):
        parse_for_user(lambda: search_of("lora_rank"), flags)
    require(["json"])


FILE = """\
name = "own"
question = "How many of the last blocks must train?"
imports = ["file_parts"]
[fixed]
adapter = "top"
[scientific]
top_blocks = [1, 2]
[reference]
top_blocks = 1
[tasks.sonnet]
[profiles.quick]
model = "gpt2-nano"
trials = 4
replicates = 0
"""


def test_a_search_file_names_modules(site: Path, request: pytest.FixtureRequest) -> None:
    """They are imported if the user runs the file, not if a ledger holds its content."""
    (site / "file_parts.py").write_text(f'{plugins.TOP}\nADAPTERS["top"] = TOP\n')
    (site / "own.toml").write_text(FILE)
    with pytest.raises(
        ConfigError, match=r"^own.toml: This search uses the module `file_parts`, whose code would run: give"
    ):
        search_from(tomllib.loads(FILE), "own.toml")
    request.addfinalizer(lambda: ADAPTERS.pop("top"))
    search = read("own.toml")
    assert (search.imports, search.scientific["top_blocks"]) == (["file_parts"], Choice(1, 2))
    options = parse(search, [])
    assert options.imports == ["file_parts"]
    assert commands(options)["promote the chosen trial"].endswith(" --import file_parts")


def test_ray_sends_modules_that_are_not_installed_to_its_machines(site: Path) -> None:
    (site / "my_parts.py").write_text("")
    (site / "folder_parts").mkdir()
    (site / "folder_parts" / "__init__.py").write_text("")
    modules = ["my_parts", "folder_parts.top", "json", "pytest"]
    environment = runtime_environment(modules)
    assert environment["env_vars"] == {IMPORTS: ",".join(modules)}
    assert environment["py_modules"] == [str(site / "my_parts.py"), str(site / "folder_parts")]
    assert runtime_environment([]) == {}


def test_all_parts_are_listed(site: Path) -> None:
    """Those of packages and of modules too; the status says that one cannot be used."""
    plugins.install(site, "toplib", plugins.TOP, f"{GROUP}top = toplib:TOP\nlora = toplib:TOP")
    (site / "my_parts.py").write_text('from toplib import ADAPTERS, TOP\nADAPTERS["mine"] = TOP\nprint("hello")\n')
    done = python("-m", "searches", "parts", "--json", "--import", "my_parts", cwd=site, PYTHONPATH=str(site))
    assert done.returncode == 1, done.stderr
    listed = json.loads(done.stdout)
    rows = {(row["kind"], row["name"]): row for row in listed["parts"]}
    assert {kind for kind, _ in rows} == GROUPS.keys()
    assert rows["adapter", "top"] == {
        "kind": "adapter", "name": "top", "origin": "toplib 1.5", "meaning": "Train the last blocks", "keys": ["top_blocks"],
    }  # fmt: skip
    assert rows["adapter", "mine"]["origin"].startswith("module my_parts, SHA-256")
    assert ("adapter", "lora") not in rows
    assert listed["problems"] == [
        "The adapter `lora` of toplib 1.5 cannot be used: the name `lora` is taken (built in); repair or uninstall toplib"
    ]
    assert all(row["meaning"] for row in rows.values())
