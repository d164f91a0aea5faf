"""Imports go one way: searches -> trainables -> gpt2core; cluster is imported by what is run from the command line alone."""

import ast
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
    "cluster": ("cluster", "searches", "trainables/candidates/__main__.py"),
}


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_room_imports_what_lies_above_it(room: str, root: Path) -> None:
    files = sorted((root / room).rglob("*.py"))
    assert files
    for path in files:
        assert not imports(path) & ROOMS[room], path


@pytest.mark.parametrize("package", sorted(ONLY_HERE))
def test_a_package_is_imported_in_one_place(package: str, root: Path) -> None:
    users = [
        path.relative_to(root) for room in ROOMS for path in (root / room).rglob("*.py") if package in imports(path)
    ]
    assert users
    assert all(str(path).startswith(ONLY_HERE[package]) for path in users), users


def test_no_code_from_elsewhere_is_run_and_nothing_is_unpickled(root: Path) -> None:
    for room in ROOMS:
        for path in (root / room).rglob("*.py"):
            text = path.read_text()
            assert "trust_remote_code" not in text
            assert "torch.load" not in text
            assert "pickle" not in imports(path)
