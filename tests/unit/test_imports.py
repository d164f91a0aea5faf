"""Imports go one way: searches -> trainables -> gpt2core; commands alone import cluster; no files import each other."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

# No room imports peft, which takes three seconds of each process; it loads what is exported, and is what tests compare with.
ROOMS = {
    "gpt2core": {"peft", "ray", "optuna", "mlflow", "searches", "trainables", "cluster"},
    "trainables": {"peft", "optuna", "searches"},
    "cluster": {"peft", "optuna", "mlflow", "searches", "trainables"},
    "searches": {"peft", "torch", "sacrebleu"},
}
ONLY_HERE = {
    "sacrebleu": ("gpt2core/metrics",),
    "transformers": ("gpt2core/distill/critics",),
    "sentence_transformers": ("gpt2core/distill/critics",),
    "mlflow": ("searches", "trainables/tracking.py", "trainables/candidates/mlflow_run.py"),
    "optuna": ("searches",),
    "pytest": ("gpt2core/testing", "searches/testing.py"),
    "cluster": ("cluster", "searches", "trainables/candidates/__main__.py"),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def files_of(root: Path) -> dict[str, Path]:
    paths = [path for room in ROOMS for path in (root / room).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(path: Path) -> Iterator[str]:
    """What a file imports, wherever in the file: of `from a import b`, both a and a.b, which may be a file too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name.name}" for name in node.names]
            yield from (node.module, *names)


def circle(files: dict[str, Path]) -> list[str]:
    graph = {name: {other for other in imported(path) if other in files} - {name} for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_no_two_files_import_each_other(root: Path) -> None:
    """Neither directly nor around; imports for types alone and within functions count."""
    found = circle(files_of(root))
    assert not found, " -> ".join(found)


def test_a_circle_is_printed_from_file_to_file(tmp_path: Path) -> None:
    texts = {
        "gpt2core/a.py": "from gpt2core import b",
        "gpt2core/b.py": "if TYPE_CHECKING:\n    from trainables.c import x",
        "trainables/c.py": "def f():\n    import gpt2core.a",
        "trainables/d.py": "from gpt2core.a import y",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = circle(files_of(tmp_path))
    start = found.index("gpt2core.a")
    assert found[0] == found[-1]
    assert [*found[start:-1], *found[:start], "gpt2core.a"] == [
        "gpt2core.a", "gpt2core.b", "trainables.c", "gpt2core.a",
    ]  # fmt: skip


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_room_imports_what_lies_above_it(room: str, root: Path) -> None:
    files = sorted((root / room).rglob("*.py"))
    assert files
    for path in files:
        assert not imports(path) & ROOMS[room], path


@pytest.mark.parametrize("package", sorted(ONLY_HERE))
def test_a_package_is_imported_in_one_place(package: str, root: Path) -> None:
    files = (path for room in ROOMS for path in (root / room).rglob("*.py"))
    users = [path.relative_to(root) for path in files if package in imports(path)]
    assert users
    assert all(str(path).startswith(ONLY_HERE[package]) for path in users), users


def test_no_code_from_elsewhere_is_run_and_nothing_is_unpickled(root: Path) -> None:
    for room in ROOMS:
        for path in (root / room).rglob("*.py"):
            text = path.read_text()
            assert "trust_remote_code" not in text
            assert text.count("torch.load(") == text.count("weights_only=True"), path
            assert set(re.findall(r"\bpickle\.\w+", text)) <= {"pickle.UnpicklingError"}, path
            assert "pickle" not in imports(path) or "weights_only=True" in text, path
