"""What a trial runs: a training run of this project, or a program of the user's."""

from collections.abc import Collection, Mapping
from typing import Any

from gpt2core.config import RunConfig
from trainables.programs.run import ProgramRun

Run = RunConfig | ProgramRun


def run_of(values: Mapping[str, Any]) -> Run:
    """Return the run with these values, the inverse of `model_dump`. Raises ConfigError."""
    if "command" in values:
        return ProgramRun.of(values)
    if values.keys() - RunConfig.model_fields.keys():
        import gpt2core.identity  # noqa: F401 (the tables that declare the other keys; PyTorch takes a second)

    return RunConfig.of(values)


def identity_of(run: Run) -> dict[str, Any]:
    """Return all that decides the result of a run."""
    if isinstance(run, ProgramRun):
        return run.model_dump(exclude={"folder"})
    from gpt2core.identity import identity  # PyTorch takes a second to import

    return identity(run)


def keys_of(run: Run) -> Collection[str]:
    """Return the keys that a run reads."""
    if isinstance(run, ProgramRun):
        return run.values.keys()
    from gpt2core.identity import keys_read  # PyTorch takes a second to import

    return keys_read(run)


def parameters(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run by name, as the ledger has them, with the values of a program's placeholders among them."""
    return {**run.get("values", {}), **{key: value for key, value in run.items() if key != "values"}}
