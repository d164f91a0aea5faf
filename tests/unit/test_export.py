"""Runs as Hugging Face folders: what transformers and peft make of them has the same logits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from gpt2core.__main__ import main
from gpt2core.adapters import ADAPTERS
from gpt2core.adapters.folder import load_adapter
from gpt2core.builders import build_model, build_optimizer
from gpt2core.checkpoints.saving import save
from gpt2core.config import RunConfig
from gpt2core.data.batches import collate
from gpt2core.errors import ConfigError, WeightsError
from gpt2core.model import GPT2, TrunkInput, trainable_parameters
from gpt2core.model_folder import export
from gpt2core.tasks import TASKS
from gpt2core.testing import toys
from gpt2core.weights import hub_name, load_model
from tests.contracts.test_adapters import VARIANTS
from tests.runs import status

# peft 0.21 asks transformers 5 by an old name when it puts an adapter on a model.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CPU = torch.device("cpu")
IDS = torch.arange(30).view(2, 15)
LORA = toys.RUN.but(adapter="lora", rank=3)
PAIRED = {name: LORA.but(adapter=name) for name in ("lora", "adalora", "nested")}
LORAS = PAIRED | {name: LORA.but(**keys) for name, keys in VARIANTS.items()}
#: All that has no head of its own. last-linear is nothing without one.
LANGUAGE = {name: toys.RUN.but(adapter=name) for name in ADAPTERS if name not in ("last-linear", "frozen")} | LORAS
PLACES = {
    "qkv": {"targets": "qkv"},
    "qkv+dense on block 1": {"targets": "qkv+dense", "blocks": "1"},
    "all": {"targets": "all", "alpha": "2r"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.folder(tmp_path_factory.mktemp("base"))


def trained(config: RunConfig, folder: Path) -> GPT2:
    """A model of `config` whose parameters moved, and its checkpoint in `folder`."""
    model = build_model(config, load_model(config.model), CPU).train(False)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in trainable_parameters(model).items():
        size = 2.0 if name.endswith(".lora_E") else 0.02  # singular vectors start small
        parameter.data += size * torch.randn(parameter.shape, generator=generator)
    optimizer = build_optimizer(model, config, CPU)
    save(folder, config, model, optimizer, [{"epoch": 1}], best=True)
    return model


def logits(model: GPT2) -> Tensor:
    return model.logits(model(IDS))


def same(theirs: Tensor, ours: Tensor, base: Tensor) -> None:
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    assert (ours - base).abs().max() > 0.05, "what this test is about"


@pytest.mark.parametrize("config", LANGUAGE.values(), ids=LANGUAGE.keys())
@torch.no_grad()
def test_transformers_gives_the_same_logits(config: RunConfig, base: Path, tmp_path: Path) -> None:
    config = config.but(model=str(base), targets="all")
    ours = trained(config, tmp_path / "run")
    assert export(config, tmp_path / "run", tmp_path / "model") == 1
    untouched = logits(load_model(str(base)))
    same(GPT2LMHeadModel.from_pretrained(tmp_path / "model").train(False)(IDS).logits, logits(ours), untouched)
    same(logits(load_model(str(tmp_path / "model"))), logits(ours), untouched)


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("config", LORAS.values(), ids=LORAS.keys())
@torch.no_grad()
def test_peft_gives_the_same_logits(config: RunConfig, places: dict[str, str], base: Path, tmp_path: Path) -> None:
    config = config.but(model=str(base), **places)
    ours = trained(config, tmp_path / "run")
    assert export(config, tmp_path / "run", tmp_path / "adapter", "adapter") == 1
    untouched = load_model(str(base))
    theirs = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), tmp_path / "adapter").train(False)
    same(theirs(IDS).logits, logits(ours), logits(untouched))
    again = load_adapter(tmp_path / "adapter", load_model(str(base)))
    assert set(again.state_dict()) == set(untouched.state_dict())
    same(logits(again), logits(ours), logits(untouched))


@torch.no_grad()
def test_an_adapter_that_peft_wrote_is_read(base: Path, tmp_path: Path) -> None:
    """Its pair for query, key and value has one A, and its scale is of the root of the rank."""
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 6, "use_rslora": True, "alpha_pattern": {"mlp.c_fc": 3}, "use_dora": True}
    theirs = get_peft_model(
        GPT2LMHeadModel.from_pretrained(base),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, **settings),
    )
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    theirs.save_pretrained(tmp_path)
    again = load_adapter(tmp_path, load_model(str(base)))
    same(theirs.train(False)(IDS).logits, logits(again), logits(load_model(str(base))))


@pytest.mark.parametrize("task", ["sst", "cfimdb", "paraphrase"])
@pytest.mark.parametrize("adapter", sorted(ADAPTERS.keys() - {"frozen"}))
@torch.no_grad()
def test_a_head_of_classes_becomes_transformers_own(adapter: str, task: str, base: Path, tmp_path: Path) -> None:
    config = toys.RUN.but(model=str(base), task=task, adapter=adapter)
    ours = trained(config, tmp_path / "run")
    export(config, tmp_path / "run", tmp_path / "model")
    theirs = GPT2ForSequenceClassification.from_pretrained(tmp_path / "model").train(False)
    names = TASKS[task].class_names(RunConfig(task=task))
    assert theirs.config.id2label == dict(enumerate(names))
    assert theirs.config.num_labels == len(names)
    assert theirs.config.architectures == ["GPT2ForSequenceClassification"]
    batch = collate(toys.data().splits["train"], range(5), CPU)
    lengths = batch.lengths - 1  # without the EOS of the toy texts
    real = torch.arange(batch.input_ids.shape[1]) < lengths[:, None]
    padded = batch.input_ids.where(real, theirs.config.pad_token_id)
    expected = ours.head(ours.run_trunk(TrunkInput(batch.input_ids, lengths=lengths)))  # type: ignore[misc]
    torch.testing.assert_close(theirs(padded, attention_mask=real.long()).logits, expected, atol=1e-5, rtol=0)
    assert len(set(lengths.tolist())) > 1, "what this test is about"
    torch.testing.assert_close(load_model(str(tmp_path / "model"))(IDS), ours(IDS), atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_adapter_takes_its_head_along(base: Path, tmp_path: Path) -> None:
    config = LORA.but(model=str(base), task="sst")
    ours = trained(config, tmp_path / "run")
    export(config, tmp_path / "run", tmp_path / "adapter", "adapter")
    trunk = GPT2ForSequenceClassification.from_pretrained(base, num_labels=5)
    theirs = PeftModel.from_pretrained(trunk, tmp_path / "adapter").train(False)
    expected = ours.head(ours.run_trunk(TrunkInput(IDS[:1], lengths=torch.tensor([15]))))  # type: ignore[misc]
    torch.testing.assert_close(theirs(IDS[:1]).logits, expected, atol=1e-5, rtol=0)
    again = load_adapter(tmp_path / "adapter", load_model(str(base)))
    torch.testing.assert_close(again.head(again(IDS)), ours.head(ours(IDS)), atol=1e-5, rtol=0)  # type: ignore[misc]


@pytest.mark.parametrize(("config", "message"), [
    (
        toys.RUN.but(adapter="freeze"),
        "The adapter `freeze` cannot be written in the format of peft; use --format model",
    ),
    (LORA.but(pretrain="poems"), "peft cannot find the first stage `poems` of the run; use --format model"),
])  # fmt: skip
def test_what_peft_has_no_form_for_says_the_way_out(config: RunConfig, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        export(config, tmp_path, tmp_path / "out", "adapter")
    assert not list(tmp_path.iterdir())


def _configure(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _rename(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name.replace(".h.1.", ".h.7."): t for name, t in tensors.items()}, folder / "adapter_model.safetensors")


def _narrow(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: tensor[:, :9].clone() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json: no such file"),
    (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json: is not JSON"),
    (lambda folder: (folder / "adapter_config.json").write_text("[3]"), "adapter_config.json: is not a JSON object"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: no such file"),
    (_configure(peft_type="IA3"), "must describe a LoRA adapter without biases"),
    (_configure(bias="all"), "must describe a LoRA adapter without biases"),
    (_configure(init_lora_weights="pissa"), "`init_lora_weights` 'pissa' changes the base weights"),
    (_rename, r"the pair of `transformer.h.1.attn.c_attn` is incomplete"),
    (_narrow, r"the pair of `transformer.h.0.attn.c_attn` does not fit a weight of \(32, 32\)"),
])  # fmt: skip
def test_a_broken_adapter_is_named(damage: Callable[[Path], None], message: str, base: Path, tmp_path: Path) -> None:
    config = LORA.but(model=str(base))
    trained(config, tmp_path / "run")
    export(config, tmp_path / "run", tmp_path / "adapter", "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(WeightsError, match=f"{tmp_path / 'adapter'}.*{message}"):
        load_adapter(tmp_path / "adapter", load_model(str(base)))


def test_what_an_adapter_belongs_to_is_named_as_transformers_does(base: Path) -> None:
    assert hub_name("gpt2-large") == "openai-community/gpt2-large"
    assert hub_name("distilgpt2") == "distilbert/distilgpt2"
    assert hub_name("someone/model") == "someone/model"
    assert hub_name(str(base)) == str(base)
    assert Path(hub_name("gpt2-nano")).is_dir()


def command(*argv: str) -> int:
    return status(main, ["export", *argv])


def test_the_command_says_how_to_load_them(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    trained(LORA.but(model=str(base), task="sst", attention="logsparse"), run)
    assert command("--checkpoint", str(run), "--out", str(out), "--format", "adapter") == 0
    said = capsys.readouterr().out
    model = f"GPT2ForSequenceClassification.from_pretrained({str(base)!r}, num_labels=5)"
    assert f"PeftModel.from_pretrained({model}, {str(out)!r})" in said
    assert "this run has `logsparse` attention, but transformers uses dense attention" in said
    assert {path.name for path in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert command("--checkpoint", str(run), "--out", str(out)) == 0
    assert f"GPT2ForSequenceClassification.from_pretrained({str(out)!r})" in capsys.readouterr().out


def test_an_impossible_export_leaves_nothing(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(toys.RUN.but(model=str(base)), tmp_path / "run")
    assert command("--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--format", "adapter") == 2
    assert "The adapter `full` cannot be written in the format of peft; use --format model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
