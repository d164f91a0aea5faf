"""Files that came from elsewhere, or were damaged: a result, or one of the project's own errors, in one line."""

import copy
import io
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies

from gpt2core.builders import build_model, build_optimizer
from gpt2core.checkpoints.best import load_best, run_config
from gpt2core.checkpoints.layout import BEST, OPTIMIZER, STATE
from gpt2core.checkpoints.resuming import resume
from gpt2core.checkpoints.saving import save
from gpt2core.component import lookup
from gpt2core.config import RunConfig
from gpt2core.distill.dataset import load_pairs
from gpt2core.distill.manifest import MANIFEST
from gpt2core.distill.shards import PAIRS, read
from gpt2core.errors import DataError, UserError
from gpt2core.files import json_object
from gpt2core.model import trainable_parameters
from gpt2core.model_folder import RUN, load_folder, read_run, write_run
from gpt2core.tasks import TASKS
from gpt2core.testing import toys
from gpt2core.training import train
from gpt2core.weights import save_model
from searches import replay
from searches.deciding.replay_backend import Curve
from searches.promoting.selection import choose, load_search
from searches.question import search_of
from tests import generated
from tests.unit.test_promotion import RAN, SCORES, ledger, summarised
from trainables.candidates.folder import manifest

WRONG = (None, True, -1, 10**30, 1.5, float("nan"), "", "\x1b[2J", "../../x", [], {}, [None], {"x": []}, "x" * 10_000)
FEW = settings(
    max_examples=settings().max_examples * 2 // 5, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def places(value: Any) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in items for found in ((key,), *((key, *rest) for rest in places(one)))]


@strategies.composite
def damaged(draw: strategies.DrawFn, whole: bytes) -> bytes:
    """The bytes of a JSON file of which something is lost, or another thing than it was."""
    if draw(strategies.integers(0, 3)) == 0:
        middle = draw(strategies.integers(0, len(whole) - 1))
        rest = draw(strategies.sampled_from([b"", b"\xff", b"[" * 200, b"9" * 5000, whole[middle + 1 :]]))
        return whole[:middle] + rest
    value = copy.deepcopy(json.loads(whole))
    *above, key = draw(strategies.sampled_from(places(value)))
    inner = value
    for step in above:
        inner = inner[step]
    if draw(strategies.booleans()):
        inner[key] = draw(strategies.sampled_from(WRONG))
    else:
        del inner[key]
    return json.dumps(value).encode()


def survives(path: Path, read_it: Callable[[], object]) -> None:
    """Read each of many damaged files at `path`; there is a result, or an error of the project's."""
    whole, said = path.read_bytes(), list[str]()

    @FEW
    @given(damaged(whole))
    def check(spoilt: bytes) -> None:
        path.write_bytes(spoilt)
        try:
            read_it()
        except UserError as error:
            said.append(str(error))

    check()
    assert not [text for text in said if "\n" in text or len(text) > 2000]
    path.write_bytes(whole)
    read_it()


def test_what_is_told_of_a_model_folder(tmp_path: Path) -> None:
    save_model(toys.model(), toys.folder(tmp_path))
    write_run(tmp_path, RunConfig(task="sonnet"), {"search": "s", "trial": "0001", "epoch": 1, "data": "d" * 64})
    survives(tmp_path / RUN, lambda: load_folder(tmp_path))
    (tmp_path / RUN).write_text(json.dumps({"config": {}, "search": "a\n\x1b[2J" + "b" * 999}))
    words = load_folder(tmp_path).description
    assert r"search a \x1b[2Jbbb" in words
    assert len(words) < 400
    (tmp_path / RUN).write_text(json.dumps({"config": {}, "epoch": ["x"]}))
    with pytest.raises(UserError, match=r"run.json: `epoch` is \['x'\], but must be a whole number"):
        read_run(tmp_path)


def test_the_state_of_a_checkpoint(tmp_path: Path) -> None:
    run = toys.RUN.but(adapter="lora", rank=2, epochs=1)
    list(train(run, toys.model(), toys.data(), folder=tmp_path))

    def again() -> None:
        folder = tmp_path.parent / f"{tmp_path.name}-copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path, folder)
        load_best(folder, build_model(run_config(folder), toys.model(), torch.device("cpu")))
        list(train(run, toys.model(), toys.data(), folder=folder))

    survives(tmp_path / BEST / STATE, again)
    survives(tmp_path / "epoch-0001" / STATE, again)


def test_the_optimizer_of_another_model_is_refused(tmp_path: Path) -> None:
    run = toys.RUN.but(adapter="lora", rank=2)
    model = build_model(run, toys.model(), torch.device("cpu"))
    optimizer = build_optimizer(model, run, torch.device("cpu"))
    sum(one.sum() for one in trainable_parameters(model).values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    save(tmp_path, run, model, optimizer, [{"epoch": 1}], best=True)
    path = tmp_path / "epoch-0001" / OPTIMIZER
    whole = path.read_bytes()
    for spoilt in (whole.replace(b"exp_avg_sq", b"exp_avg_xx"), whole.replace(b"lora", b"loro")):
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=r"epoch-0001: (does not fit|lacks)"):
            resume(tmp_path, run, model, optimizer)


def test_the_summary_of_a_search(tmp_path: Path) -> None:
    folder = ledger(tmp_path, SCORES)
    summarised(folder, "0000", RAN)
    survives(folder / "summary.json", lambda: choose(load_search(str(tmp_path), "s"), None))
    summary = json.loads((folder / "summary.json").read_text())
    summary["answer"]["rows"].append({"trial": None, "mean": None, "low": None, "high": None, "runs": []})
    (folder / "summary.json").write_text(json.dumps(summary | {"test": None}))
    answer = load_search(str(tmp_path), "s").answer
    assert [row.trial for row in answer.rows] == ["0001", None], "a value that has no trial with a score"


def test_the_manifest_of_a_set_of_candidates(tmp_path: Path) -> None:
    folder = generated.folder(tmp_path)
    survives(folder / MANIFEST, lambda: load_pairs(RunConfig(pairs=str(folder), negatives=0.5)))
    values = json.loads((folder / MANIFEST).read_text())
    values["rounds"][0]["shards"]["pairs"][0] = "../../elsewhere.parquet"
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"manifest.json: round 1: `shards.pairs.0` is '../../elsewhere.parquet'"):
        load_pairs(RunConfig(pairs=str(folder)))
    with pytest.raises(UserError, match=r"manifest.json: is damaged; remove it"):
        manifest(folder)


@FEW
@given(strategies.data())
def test_the_shards_of_a_set_of_candidates(tmp_path: Path, data: strategies.DataObject) -> None:
    path = tmp_path / "x.parquet"
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(generated.contexts(5), PAIRS), file, compression="zstd")
    whole = bytearray(file.getvalue())
    for _ in range(data.draw(strategies.integers(1, 4))):
        whole[data.draw(strategies.integers(0, len(whole) - 1))] = data.draw(strategies.integers(0, 255))
    cut = data.draw(strategies.booleans())
    path.write_bytes(whole[: data.draw(strategies.integers(1, len(whole)))] if cut else whole)
    with suppress(DataError):
        assert read(path, PAIRS).column_names == PAIRS.names


@pytest.mark.parametrize(("change", "message"), [
    (lambda table: table.drop_columns("critic"), "must have one column `critic` of type double"),
    (lambda table: table.append_column("id", table["id"]), "must have one column `id`"),
    (
        lambda table: table.set_column(0, "id", pa.array([None] * len(table), pa.string())),
        "the column `id` must have a value in each row",
    ),
    (lambda table: table.set_column(0, "id", pa.array(range(len(table)))), "must have one column `id` of type string"),
])  # fmt: skip
def test_a_shard_must_have_its_columns(change: Callable[[pa.Table], pa.Table], message: str, tmp_path: Path) -> None:
    pq.write_table(change(pa.Table.from_pylist(generated.contexts(5), PAIRS)), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "x.parquet", PAIRS)


def test_a_record_of_learning_curves(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    points = [{"rank": 4, "lr": 10 ** -random.uniform(2, 4), "alpha": "r", "batch_size": 8} for _ in range(3)]
    curves = [Curve(metrics=[{"chrf_continuation": 3.0 + epoch} for epoch in range(2)], seconds=[1.0, 1.0])] * 3
    record = replay.Record(
        search="lora_rank",
        task="sonnet",
        objective="chrf_continuation",
        epochs=2,
        model="toy",
        data="",
        margin=0.0,
        points=points,
        curves=curves,
    )
    replay.save(record, tmp_path / "x.json")

    def again() -> None:
        replay.compare(replay.read(tmp_path / "x.json"), [replay.RANDOM], seeds=1, workers=2)

    survives(tmp_path / "x.json", again)


@pytest.mark.parametrize("levels", [101, 900, 100_000])
def test_json_that_is_nested_too_deep_is_refused(levels: int) -> None:
    with pytest.raises(DataError, match="nested too deep"):
        json_object(b'{"x":' + b"[" * levels + b"]" * levels + b"}", 2**20)
    assert json_object(b'{"x":' + b"[" * 99 + b"]" * 99 + b"}", 2**20)


@pytest.mark.parametrize(("refused", "message"), [
    (lambda: RunConfig.of({"seed": 10**30}), "The value of `seed` is 1000"),
    (lambda: RunConfig.of({"pretrain_seed": 2**63}), "The value of `pretrain_seed` is 9223372036854775808"),
    (lambda: lookup(TASKS, "x" * 10_000, "task"), "Unknown task `xxxx"),
    (lambda: search_of("x" * 10_000), "There is no search script `xxxx"),
], ids=["seed", "first seed", "name", "script"])  # fmt: skip
def test_what_is_too_large_is_refused_in_a_short_line(refused: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as error:
        refused()
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 300


def test_names_of_files_and_columns_that_nobody_can_have_are_refused(tmp_path: Path) -> None:
    folder = generated.folder(tmp_path)
    values = json.loads((folder / MANIFEST).read_text())
    values["rounds"][0]["shards"]["pairs"][0] = "x" * 300
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"manifest.json: round 1: `shards.pairs.0` is 'xxx"):
        load_pairs(RunConfig(pairs=str(folder)))
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"identity": ["a"]}), path, compression="none", store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"identity", b"\x80dentity"))
    with pytest.raises(DataError, match=r"x.parquet: is not a complete Parquet file"):
        read(path)
