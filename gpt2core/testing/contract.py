"""The base of contracts: tests that run for each case of a component."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from gpt2core.component import Entry, declared_keys
from gpt2core.config import RunConfig

Settings = Mapping[str, Any]  # keys of a run and their values, which name the component


class Contract:
    """Base of contracts. A subclass whose name begins with `Test` runs all tests for each of its `cases`, by their names."""

    cases: ClassVar[Mapping[str, Settings]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test that takes `case`, itself or by a fixture, for each case."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", list(self.cases.values()), ids=list(self.cases), indirect=True, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, request: pytest.FixtureRequest) -> Settings:
        """The settings of a case."""
        settings: Settings = request.param
        return settings


def check_keys(entry: Entry) -> None:
    """Assert that each key of a component is new, or means what it means to others: same type, default and rules."""
    shared = {
        name: entry.keys.model_fields[name] for name in entry.keys.model_fields.keys() & RunConfig.model_fields.keys()
    }
    for name, field in shared.items():
        other = RunConfig.model_fields[name]
        for what in ("annotation", "default", "metadata"):
            assert getattr(field, what) == getattr(other, what), f"the key `{name}` is known, with another {what}"
    for name in entry.keys.model_fields.keys() - shared.keys():
        owner = declared_keys(*RunConfig.kinds).get(name, entry.keys)
        assert owner.model_fields[name].annotation == entry.keys.model_fields[name].annotation, (
            f"the key `{name}` is taken"
        )
