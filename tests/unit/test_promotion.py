"""Which trial is promoted, what is said of licences and of decoding, and what a folder must hold to be loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from gpt2core.config import RunConfig
from gpt2core.data import quora
from gpt2core.data.origin import DataOrigin
from gpt2core.data.shakespeare import EDITION, PACKAGE
from gpt2core.decoding import DECODERS
from gpt2core.errors import CheckpointError, UserError, WeightsError
from gpt2core.model_folder import RUN, load_folder, portable, write_run
from gpt2core.tasks import TASKS
from gpt2core.testing import toys
from gpt2core.weights import load_model, save_model
from searches.__main__ import COMMANDS, main
from searches.promoting.licences import licence, text_licences
from searches.promoting.promote import _format
from searches.promoting.selection import choose, load_search
from searches.promoting.usage import generation, python_code
from searches.running.ledger import read_state
from tests.runs import status

SCORES = {"0000": 20.0, "0001": 30.0, "0002": 25.0}
ABOUT = {"search": "s", "trial": "0001", "epoch": 1, "data": "d"}


def ledger(storage: Path, scores: dict[str, float], objective: str = "chrf_continuation") -> Path:
    """A search's ledger of trials with these scores; the last of them is still running."""
    config = RunConfig(task="sonnet", objective=objective)
    lines: list[dict[str, object]] = []
    for name, score in scores.items():
        trial = {"name": name, "point": {}, "run": config.model_dump(), "origin": "sampler"}
        metrics = {objective: score}
        lines += [{"event": "proposed", "trial": trial}]
        lines += [{"event": "report", "trial": name, "epoch": 1, "metrics": metrics}]
        lines += [{"event": "ended", "trial": name, "status": "completed"}]
    folder = storage / "searches" / "s"
    folder.mkdir(parents=True)
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    return folder


def summarised(folder: Path, winner: str | None, statuses: dict[str, str]) -> None:
    rows = [{"id": name, "status": status} for name, status in statuses.items()]
    answer = {"winner": winner, "chosen": winner or "0001", "text": "told", "rows": [{"trial": "0001", "mean": 4.0}]}
    (folder / "summary.json").write_text(json.dumps({"trials": rows, "answer": answer}))


RAN = {"0000": "completed", "0001": "completed", "0002": "running"}


@pytest.mark.parametrize(("winner", "statuses", "expected", "answer"), [
    ("0000", RAN, "0000", "told"),
    (None, RAN, "0001", "told"),
    ("0000", RAN | {"0001": "running"}, "0001", "not known yet: the search has not come to its end"),
    ("0000", {"0000": "completed"}, "0001", "not known yet: the search has not come to its end"),
], ids=["named", "none named", "one has ended since", "trials were added since"])  # fmt: skip
def test_the_answer_names_the_trial_as_long_as_it_is_of_these_trials(
    winner: str | None, statuses: dict[str, str], expected: str, answer: str, tmp_path: Path
) -> None:
    summarised(ledger(tmp_path, SCORES), winner, statuses)
    found = load_search(str(tmp_path), "s")
    chosen = choose(found, None)
    named = answer == "told" and winner is not None
    assert (chosen.trial.name, chosen.named, found.answer_text) == (expected, named, answer)
    assert choose(found, "0002").trial.name == "0002"


def test_less_is_better_where_it_is(tmp_path: Path) -> None:
    ledger(tmp_path, SCORES, objective="dev_loss")
    assert choose(load_search(str(tmp_path), "s"), None).trial.name == "0000"


def test_a_trial_without_a_score_is_not_promoted(tmp_path: Path) -> None:
    ledger(tmp_path, {"0000": float("nan"), "0001": float("nan")})
    found = load_search(str(tmp_path), "s")
    with pytest.raises(UserError, match="No trial of s has a score: none has ended an epoch"):
        choose(found, None)
    with pytest.raises(UserError, match="The trial 0000 has no score, so it cannot be promoted; it is completed"):
        choose(found, "0000")


def test_a_ledger_is_read_while_its_last_line_is_written_and_left_as_it_is(tmp_path: Path) -> None:
    path = ledger(tmp_path, SCORES) / "ledger.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"event": "ended", "tri')
    assert read_state(path).trials["0002"].status == "running"
    assert path.read_text() == whole + '{"event": "ended", "tri'
    path.write_text("{\n" + whole)
    with pytest.raises(UserError, match=r"ledger.jsonl, line 1: is not JSON"):
        read_state(path)


@pytest.mark.parametrize(("config", "origin", "name"), [
    (RunConfig(), PACKAGE, "mit"),
    (RunConfig(model="gpt2"), PACKAGE, "mit"),
    (RunConfig(pretrain="pretraining"), PACKAGE, "mit"),
    (RunConfig(pretrain="poems"), PACKAGE, "other"),
    (RunConfig(), DataOrigin(source="the course's files in data", licence=EDITION), "other"),
    (RunConfig(task="paraphrase"), DataOrigin(source="GLUE", licence=quora.LICENCE), "other"),
    (RunConfig(model="someone/model"), PACKAGE, "unknown"),
])  # fmt: skip
def test_a_licence_is_mit_only_if_base_and_texts_are_free(config: RunConfig, origin: DataOrigin, name: str) -> None:
    assert licence(config, origin)["license"] == name
    if config.task == "paraphrase":
        assert "non-commercial" in " ".join(one.terms for one in text_licences(config, origin).values())


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_transformers_takes_the_arguments_of_every_decoder(decoder: str) -> None:
    values, same = generation(RunConfig(decoder=decoder, no_repeat_ngram=3, repetition_penalty=1.2))
    GenerationConfig(**values).validate(strict=True)
    assert values["no_repeat_ngram_size"] == 3
    beware = "which transformers does not have" in python_code(RunConfig(decoder=decoder), "model")
    own = {"mirostat", "contrastive", "top-k-p-study", "edt", "form", "best-form", "best-likelihood"}
    assert beware == (not same) == (decoder in own)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_code_of_every_task_and_form_is_python(task: str) -> None:
    for form in ("model", "adapter"):
        for head in ("binary", "cloze"):
            compile(python_code(RunConfig(task=task, paraphrase_head=head), form), task, "exec")


def test_lora_alone_is_the_form_where_its_base_can_be_had(tmp_path: Path) -> None:
    lora = RunConfig(model="gpt2", adapter="lora")
    forms = [lora, lora.but(model="a/b"), lora.but(model="gpt2-nano"), lora.but(model=str(tmp_path))]
    forms += [lora.but(adapter="full"), lora.but(pretrain="poems")]
    assert [_format("auto", config) for config in forms] == ["adapter", "adapter", "model", "model", "model", "model"]


@torch.no_grad()
def test_a_folder_keeps_the_attention_it_was_trained_with(tmp_path: Path) -> None:
    toys.folder(tmp_path)
    config = toys.RUN.but(model="gpt2-nano", attention="logsparse", attention_window=2)
    ids = torch.arange(30).view(1, 30)
    dense = load_model(str(tmp_path))
    write_run(tmp_path, config, ABOUT)
    found = load_folder(tmp_path)
    assert found.config.model == str(tmp_path)
    assert found.model.attention == config.attention_config
    assert (found.model(ids) - dense(ids)).abs().max() > 0.01


def test_a_run_is_told_without_the_places_of_its_machine(tmp_path: Path) -> None:
    config = RunConfig(model=str(tmp_path), data_dir=str(tmp_path), pairs=str(tmp_path))
    assert str(tmp_path) not in json.dumps(portable(config))
    assert RunConfig.of(portable(config.but(model="gpt2"))).model == "gpt2"


def test_a_folder_of_transformers_from_elsewhere_is_taken_as_it_is(tmp_path: Path) -> None:
    save_model(toys.model(classes=3), tmp_path, class_names=("a", "b", "c"))
    found = load_folder(tmp_path)
    assert found.model.head.out_features == 3
    assert found.description == str(tmp_path)


def _text(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(("damage", "error", "message"), [
    (_text(RUN, "{"), CheckpointError, "run.json: is not JSON"),
    (_text(RUN, "{}"), CheckpointError, "run.json: must have a `config`, the values of a run"),
    (_text(RUN, '{"config": {"lrr": 1}}'), CheckpointError, "run.json: Unknown key `lrr`: did you mean `lr`?"),
    (_text("config.json", "{"), WeightsError, "config.json: is not JSON"),
    (_text("model.safetensors", ""), WeightsError, "model.safetensors: is truncated"),
    (_text("adapter_config.json", '{"peft_type": "LORA"}'), WeightsError, "`base_model_name_or_path` must name"),
])  # fmt: skip
def test_a_broken_folder_fails(damage: Callable[[Path], None], error: type, message: str, tmp_path: Path) -> None:
    toys.folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(error, match=message) as caught:
        load_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_commands_are_named_where_one_is_wrong_or_missing(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (([], f"A command is missing; valid: {', '.join(COMMANDS)}"), (["promot"], "`promote`?")):
        assert status(main, argv) == 2
        assert message in capsys.readouterr().err
