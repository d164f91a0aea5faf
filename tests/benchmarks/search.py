"""A whole search beside transformers' own, and warm trials beside a TorchTrainer for each: python -m tests.benchmarks.search.

The search: 16 short LoRA trials of gpt2-nano on the narrative poems, two at once, one CPU each, every point of a grid of rank
and learning rate, an evaluation and a checkpoint after each epoch. Here it is a search script's whole way, with plan, ledger,
MLflow and report; beside it `Trainer.hyperparameter_search(backend="ray")` with peft, as it is documented. Each is a process of
its own, timed from its start to its end. What is saved is the start of each trial: the longer trials are, the less that matters.

The same are the weights, tokens, points, epochs, batch size, steps, optimizer, and what is scored. Not the same: peft adapts
transformers' c_attn as one matrix, where here queries, keys and values have a pair each. So its rank is half as large again, at
the same alpha, and as many parameters train. The order of batches and the first values of the pairs are each side's own. So dev
losses are compared: before training they agree to a millionth, after it to a hundredth or two.

The trials: the same four runs by this project's two executors, of which one is a Tune function in processes that stay, the other
a TorchTrainer for each trial, as Ray documents it. Their losses are the same.

Both are run once, without a turn that does not count: a start is a part of what is timed.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from transformers.utils import logging

from cluster.connect import connect
from gpt2core.config import RunConfig
from gpt2core.data.tokens import Tokens
from gpt2core.tasks import TASKS
from gpt2core.tasks.base import loss_statistics, mean_loss
from gpt2core.weights import model_folder
from searches.options import parse
from searches.question import Case, Choice, Profile, Search
from searches.runner import run
from tests.benchmarks.compare import CONSOLE, Comparison, differs, show
from trainables.trial import TrialSpec, function_trial, group_trial
from trainables.warm import inputs, task_data

ROOT = Path(__file__).parents[2]
AT_ONCE = 2
RANKS, RATES = (4, 8, 16, 32), (3e-4, 1e-3, 3e-3, 1e-2)
ALPHA = 2  # in units of the rank here
SPLIT = 3 / 2  # rank of one pair for all of c_attn, in units of that of three pairs, where as many parameters train
EXAMPLES, DEV, EPOCHS, BATCH = 16, 8, 2, 4  # examples of 256 tokens
CLOSE_BEFORE, CLOSE_AFTER = 1e-6, 0.02  # relative differences of dev losses

SEARCH = Search(
    name="benchmark",
    question="Which rank and learning rate of LoRA suit the poems?",
    tasks={"poems": Case()},
    scientific={"rank": Choice(*RANKS)},
    nuisance={"lr": Choice(*RATES)},
    fixed={
        **{"adapter": "lora", "targets": "qkv", "alpha": f"{ALPHA}r", "lora_dropout": 0.0, "dropout": 0.0},
        **{"batch_size": BATCH, "train_examples": EXAMPLES, "dev_examples": DEV, "cross_documents": True},
    },
    baseline={"rank": 8, "lr": 1e-3},
    profiles={"quick": Profile(model="gpt2-nano", trials=len(RANKS) * len(RATES), replicates=0)},
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial came to: its point, the optimizer's steps, the parameters that trained and the dev loss at the end."""

    rank: int
    lr: float
    steps: int
    trainable: int
    loss: float


def config_of(rank: int, lr: float, epochs: int) -> RunConfig:
    """The run of a point."""
    fixed = {**SEARCH.fixed, "task": "poems", "model": "gpt2-nano"}
    return RunConfig.of({**fixed, "rank": rank, "lr": lr, "epochs": epochs})


def ours(folder: Path, epochs: int) -> list[Outcome]:
    """Search as a script does; return what each trial came to."""
    method = ["--sampler", "grid", "--scheduler", "none", "--set", f"epochs={epochs}"]
    if run(parse(SEARCH, ["--storage", str(folder), "--max-concurrent", str(AT_ONCE), *method])):
        raise SystemExit("the search has failed")
    summary = json.loads((folder / "searches" / "benchmark-quick" / "summary.json").read_text(encoding="utf-8"))
    found = []
    for row in summary["trials"]:
        last = row["curve"][-1]
        steps = sum(math.ceil(epoch["train_examples"] / BATCH) for epoch in row["curve"])
        found.append(
            Outcome(**row["point"], steps=steps, trainable=last["trainable_parameters"], loss=last["dev_loss"])
        )
    return found


def model_of(trial: dict[str, Any] | None) -> Any:
    """A trial's model in transformers; its base for None, which a Trainer asks for when it is made."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    zero = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    model = GPT2LMHeadModel.from_pretrained(model_folder("gpt2-nano"), **zero)
    if trial is None:
        return model
    rank = round(SPLIT * trial["rank"])
    adapter = LoraConfig(
        r=rank, lora_alpha=ALPHA * trial["rank"], lora_dropout=0.0, target_modules=["c_attn"], fan_in_fan_out=True
    )
    return get_peft_model(model, adapter)


def theirs(folder: Path, epochs: int) -> list[Outcome]:
    """Search as transformers does; return what each trial came to."""
    connect()
    space = {"rank": tune.grid_search(RANKS), "learning_rate": tune.grid_search(RATES)}
    found = trainer(folder, epochs).hyperparameter_search(
        hp_space=lambda _: space,
        n_trials=1,  # of each point
        direction="minimize",
        backend="ray",
        resources_per_trial={"cpu": 1},
        max_concurrent_trials=AT_ONCE,
        storage_path=str(folder),
        verbose=0,
    )
    outcomes = []
    for trial in found.run_summary.trials:
        rank, lr = trial.config["rank"], trial.config["learning_rate"]
        (saved,) = Path(trial.checkpoint.path).glob("checkpoint-*")
        trainable = sum(p.numel() for p in model_of(trial.config).parameters() if p.requires_grad)
        steps, loss = int(saved.name.removeprefix("checkpoint-")), trial.last_result["eval_loss"]
        outcomes.append(Outcome(rank=rank, lr=lr, steps=steps, trainable=trainable, loss=loss))
    return outcomes


def trainer(folder: Path, epochs: int) -> Any:
    """A Trainer on the same tokens."""
    from transformers import Trainer, TrainingArguments

    data = task_data(config_of(8, 1e-3, epochs))
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=16,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="adamw_torch_fused",
        eval_strategy="epoch",
        save_strategy="epoch",
        prediction_loss_only=True,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    return Trainer(
        args=arguments,
        model_init=model_of,
        train_dataset=rows(data.splits["train"].sample(EXAMPLES)),
        eval_dataset=rows(data.splits["dev"]),  # which is DEV of them
    )


def rows(tokens: Tokens) -> list[dict[str, torch.Tensor]]:
    """Examples as a Trainer takes them. It counts all labels for the mean loss, so the first, which nothing predicts, is none."""
    ids = [torch.from_numpy(tokens[number].astype(np.int64)) for number in range(len(tokens))]
    return [{"input_ids": row, "labels": torch.cat([torch.tensor([-100]), row[1:]])} for row in ids]


def search(way: str, epochs: int, found: dict[str, list[Outcome]]) -> None:
    """One way of the whole search as a process; what its trials came to goes into `found`, and must be as the other's."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.search", "--epochs", str(epochs), "--only", way, folder]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        outcomes = json.loads((Path(folder) / "outcomes.json").read_text(encoding="utf-8"))
    found[way] = sorted((Outcome(**outcome) for outcome in outcomes), key=lambda outcome: (outcome.rank, outcome.lr))
    if len(found) == 2:
        same(found["ours"], found["theirs"])


def same(here: Sequence[Outcome], beside: Sequence[Outcome]) -> None:
    """Say how far the dev losses are apart; end the benchmark where the work was not the same."""
    if [replace(one, loss=0) for one in here] != [replace(two, loss=0) for two in beside]:
        raise differs("search")
    apart = max(abs(one.loss / two.loss - 1) for one, two in zip(here, beside, strict=True))
    CONSOLE.print(f"{len(here)} trials of {here[0].steps} steps; dev losses at the end differ by at most {apart:.2%}")
    if apart > CLOSE_AFTER:
        raise differs("search")


def same_start() -> None:
    """Compare the dev losses before training; end the benchmark where they differ."""
    config = config_of(8, 1e-3, 1)
    base, data = inputs(config)
    here = float(mean_loss(loss_statistics(TASKS["poems"], base, data, config, "dev").sum(axis=0)))
    model, held_out = model_of(None).train(False), rows(data.splits["dev"])
    with torch.inference_mode():
        losses = [model(row["input_ids"][None], labels=row["labels"][None]).loss for row in held_out]
    beside = float(np.mean(losses))
    if abs(here / beside - 1) > CLOSE_BEFORE:
        raise differs("a model before training")


def trials(way: str, found: dict[str, list[float]]) -> None:
    """Four runs by one executor; their dev losses go into `found`, and must be as the other's."""
    with tempfile.TemporaryDirectory() as folder:
        specs = [
            TrialSpec(name=f"{lr:g}", run=config_of(8, lr, EPOCHS), folder=f"{folder}/{lr:g}").to_dict() for lr in RATES
        ]
        function, resources = (function_trial, {"cpu": 1}) if way == "ours" else (group_trial, {"memory": 1})
        tuner = tune.Tuner(
            tune.with_resources(function, resources),
            param_space={"spec": tune.grid_search(specs)},
            tune_config=tune.TuneConfig(max_concurrent_trials=AT_ONCE, reuse_actors=way == "ours"),
            run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0),
        )
        found[way] = [result.metrics["objective"] for result in tuner.fit() if result.metrics]
    if len(found) == 2 and not (
        len(found["ours"]) == len(RATES) and np.allclose(found["ours"], found["theirs"], rtol=1e-5)
    ):
        raise differs("trials")


def comparisons(epochs: int) -> list[Comparison]:
    """The rows."""
    searched: dict[str, list[Outcome]] = {}
    ran: dict[str, list[float]] = {}
    return [
        Comparison(
            what=f"a search of {len(RANKS) * len(RATES)} trials, {EXAMPLES} x 256 tokens, {epochs} epochs",
            peer='Trainer.hyperparameter_search(backend="ray")',
            ours=partial(search, "ours", epochs, searched),
            theirs=partial(search, "theirs", epochs, searched),
            check=same_start,
            reach=4,
        ),
        Comparison(
            what=f"{len(RATES)} trials of {EPOCHS} epochs in warm processes",
            peer="a TorchTrainer for each",
            ours=partial(trials, "ours", ran),
            theirs=partial(trials, "theirs", ran),
            check=partial(connect, dashboard=True),
        ),
    ]


def main() -> None:
    """Print the table; or be one way of the search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each trial of the search")
    parser.add_argument("--only", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.only:
        way, folder = chosen.only
        outcomes = {"ours": ours, "theirs": theirs}[way](Path(folder), chosen.epochs)
        (Path(folder) / "outcomes.json").write_text(json.dumps([vars(one) for one in outcomes]), encoding="utf-8")
    else:
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune then prints no more than the table does
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        show("searches and trials from start to end", comparisons(chosen.epochs), 1, warm=False)


if __name__ == "__main__":
    main()
