"""Own parts: components from installed packages, and from modules that `--import` names.

An installed package names its components as entry points, in one group for each kind::

    [project.entry-points."gpt2_search.adapters"]
    bitfit = "my_package:BITFIT"

A module registers its components when it is imported, as in `ADAPTERS["bitfit"] = BITFIT`. Both are loaded when a table is first
read, so every process has them: the driver, and Ray's workers, which find the names of the modules in the variable IMPORTS.
"""

import difflib
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpt2core.errors import ConfigError, UserError, first_line, shown

#: Kind of a component -> group of its entry points.
GROUPS = {
    "task": "gpt2_search.tasks",
    "combination": "gpt2_search.combinations",
    "adapter": "gpt2_search.adapters",
    "attention": "gpt2_search.attention",
    "decoder": "gpt2_search.decoders",
    "critic": "gpt2_search.critics",
    "sampler": "gpt2_search.samplers",
    "scheduler": "gpt2_search.schedulers",
}
IMPORTS = "GPT2_SEARCH_IMPORTS"  # variable with the names of modules, separated by commas
BUILT_IN = "built in"
PROGRAM = "this program"  # origin of a component that no module of `--import` registers

_MODULE = re.compile(r"[A-Za-z]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_importing: list[str] = []


@dataclass(frozen=True)
class InstalledPart:
    """An entry point of an installed package."""

    entry_point: EntryPoint

    @property
    def name(self) -> str:
        """The name of the component."""
        return self.entry_point.name

    @property
    def package(self) -> str:
        """The name of the package."""
        return self.entry_point.dist.name if self.entry_point.dist else "?"

    @property
    def origin(self) -> str:
        """The package with its version."""
        return f"{self.package} {self.entry_point.dist.version}" if self.entry_point.dist else self.package

    def load(self) -> Any:
        """Import and return the component; raise ConfigError if this fails."""
        try:
            with redirect_stdout(sys.stderr):  # standard output is for results, perhaps JSON
                return self.entry_point.load()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{self.entry_point.value}: {type(error).__name__}: {first_line(error)}") from None


def installed(kind: str) -> list[InstalledPart]:
    """Return the components of a kind that installed packages name, without importing them."""
    return [InstalledPart(point) for point in entry_points(group=GROUPS[kind])] if kind in GROUPS else []


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register components, from the working folder or installed. Raises ConfigError."""
    for name in names:
        if name not in sys.modules:
            _import(name)


def import_named() -> None:
    """Import the modules that the driver of this worker has imported. Raises ConfigError."""
    import_modules(filter(None, os.environ.get(IMPORTS, "").split(",")))


def _import(name: str) -> None:
    if not _MODULE.fullmatch(name) or name.endswith(".py"):
        raise ConfigError(
            f"The value of `--import` is {shown(name)}, but must be the name of a module: my_parts for my_parts.py in this folder"
        )
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    path = module_file(name)
    try:
        with (
            redirect_stdout(sys.stderr),
            _registering(f"module {name}" + (f", SHA-256 {digest(path)}" if path else "")),
        ):
            importlib.import_module(name)
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            reason += _similar_module(name)
        raise ConfigError(f"The module `{name}` of --import cannot be imported: {reason}") from None


def _similar_module(name: str) -> str:
    """Return a hint that names the module of the working folder with the most similar name, or nothing."""
    modules = [path.stem for path in Path.cwd().glob("*") if path.suffix == ".py" or (path / "__init__.py").is_file()]
    close = difflib.get_close_matches(name, modules, n=1)
    return f"; did you mean `{close[0]}`, which is in this folder?" if close else ""


@contextmanager
def _registering(origin: str) -> Iterator[None]:
    _importing.append(origin)
    try:
        yield
    finally:
        _importing.pop()


def registering() -> str:
    """Return the origin of a component that is registered now."""
    return _importing[-1] if _importing else PROGRAM


def require(names: Iterable[str]) -> None:
    """Raise ConfigError unless these modules are imported. A file or a ledger may name them, but only the user imports code."""
    if missing := [name for name in names if name not in sys.modules]:
        flags = " ".join(f"--import {name}" for name in missing)
        raise ConfigError(
            f"This search uses the module `{missing[0]}`, whose code would run: give {flags} if you trust it, in the folder that "
            "has it"
        )


def module_file(name: str) -> Path | None:
    """Return the file or folder of a module's top-level module; None if it is installed, has no file, or is missing."""
    top = name.partition(".")[0]
    spec = None if top in sys.stdlib_module_names else find_spec(top)
    if spec is None or not spec.has_location or not spec.origin:
        return None
    path = Path(spec.origin).resolve()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return None
    return path.parent if path.name == "__init__.py" else path


def digest(path: Path) -> str:
    """Return the first 12 digits of the SHA-256 of a Python file, or of all Python files in a folder."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
