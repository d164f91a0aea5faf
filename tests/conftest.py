"""Fixtures that all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.services import Store, started

os.environ.pop("RAY_ADDRESS", None)
os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",  # threads of a trial that wait for each other leave the cores to other tests
    RAY_worker_niceness="0",  # Ray gives its workers the lowest priority; they would wait for other tests
    RAY_USAGE_STATS_ENABLED="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",  # else Tune keeps Ctrl-C for itself after its run
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    HF_HUB_OFFLINE="1",
)

#: Random input is the same in every run. For a long hunt by hand: HYPOTHESIS_PROFILE=long python -m pytest -n 0 FILE
settings.register_profile("default", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("long", derandomize=False, deadline=None, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tokens in a folder of the session, so that no test depends on what an earlier session left."""
    os.environ["GPT2_SEARCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=2,  # that nobody has: what runs on them computes on CPUs
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        runtime_env={"env_vars": {"GPT2_SEARCH_CACHE": os.environ["GPT2_SEARCH_CACHE"]}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def root() -> Path:
    return Path(__file__).parent.parent


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with started(lambda: Store(tmp_path_factory.mktemp("store"))) as store:
        yield store
