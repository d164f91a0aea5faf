"""The contract of critics, for each of CRITICS; a new entry needs a line in MODELS, and fails without."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from gpt2core.distill.critics import CRITICS
from gpt2core.testing import CriticContract
from gpt2core.testing.contract import Settings
from gpt2core.testing.critics import made
from tests import critics

#: What each critic judges by: an empty folder -> the model's name or folder.
MODELS: dict[str, Callable[[Path], str | None]] = {
    "overlap": lambda _: None,
    "embedding": lambda _: None,
    "classifier": lambda path: str(critics.run_folder(path)),
    "nli": lambda path: str(critics.nli_folder(path)),
}


def settings_of(critic: str, folder: Path) -> Settings:
    model = MODELS[critic](folder)
    return {"critic": critic} | ({} if model is None else {"critic_model": model})


class TestCritics(CriticContract):
    cases: ClassVar = {name: {"critic": name} for name in sorted(CRITICS)}

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, case: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
        return settings_of(case["critic"], tmp_path_factory.mktemp("critic"))


def test_every_critic_is_tested() -> None:
    assert sorted(MODELS) == sorted(CRITICS)


@pytest.mark.parametrize("name", ["nli"])
def test_the_identity_does_not_depend_on_the_folder(name: str, tmp_path: Path) -> None:
    one, other = (made(settings_of(name, tmp_path / place)).identity["digest"] for place in ("one", "other"))
    assert one == other
