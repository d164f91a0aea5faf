"""Run the search of `poems.py` by `Trainer.hyperparameter_search(backend="ray")` and peft, as transformers documents it.

python -m tests.benchmarks.trainer_search FOLDER EXAMPLES EPOCHS AT_ONCE writes FOLDER/outcomes.json.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from ray import tune
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

from cluster.connect import connect
from gpt2core.config import RunConfig
from gpt2core.data.tokens import Tokens
from gpt2core.weights import model_folder
from tests.benchmarks.poems import ALPHA, BATCH, RANKS, RATES, SEARCH
from trainables.worker_cache import task_data

SPLIT = 3 / 2  # rank of one pair for all of c_attn, in units of that of three pairs, where as many parameters train


def model_of(trial: Mapping[str, Any] | None) -> Any:
    """A trial's model; its base for None, which a Trainer asks for when it is made."""
    zero = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    model = GPT2LMHeadModel.from_pretrained(model_folder("gpt2-nano"), **zero)
    if trial is None:
        return model
    rank = round(SPLIT * trial["rank"])
    adapter = LoraConfig(
        r=rank, lora_alpha=ALPHA * trial["rank"], lora_dropout=0.0, target_modules=["c_attn"], fan_in_fan_out=True
    )
    return get_peft_model(model, adapter)


def rows(tokens: Tokens) -> list[dict[str, torch.Tensor]]:
    """Examples as a Trainer takes them. It counts all labels for the mean loss, so the first, which nothing predicts, is none."""
    ids = [torch.from_numpy(tokens[number].astype(np.int64)) for number in range(len(tokens))]
    return [{"input_ids": row, "labels": torch.cat([torch.tensor([-100]), row[1:]])} for row in ids]


def trainer(folder: Path, examples: int, epochs: int) -> Trainer:
    data = task_data(RunConfig.of({**SEARCH.fixed, "task": "poems", "model": "gpt2-nano"}))
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
        train_dataset=rows(data.splits["train"].sample(examples)),
        eval_dataset=rows(data.splits["dev"]),
    )


def search(folder: Path, examples: int, epochs: int, at_once: int) -> list[dict[str, Any]]:
    """Search; return of each trial its point, the optimizer's steps, the parameters that trained and the dev loss at the end."""
    connect()
    space = {"rank": tune.grid_search(RANKS), "learning_rate": tune.grid_search(RATES)}
    found = trainer(folder, examples, epochs).hyperparameter_search(
        hp_space=lambda _: space,
        n_trials=1,  # of each point
        direction="minimize",
        backend="ray",
        resources_per_trial={"cpu": 1},
        max_concurrent_trials=at_once,
        storage_path=str(folder),
        verbose=0,
    )
    outcomes = []
    for trial in found.run_summary.trials:
        (saved,) = Path(trial.checkpoint.path).glob("checkpoint-*")
        trainable = sum(p.numel() for p in model_of(trial.config).parameters() if p.requires_grad)
        point = {"rank": trial.config["rank"], "lr": trial.config["learning_rate"]}
        steps, loss = int(saved.name.removeprefix("checkpoint-")), trial.last_result["eval_loss"]
        outcomes.append({**point, "steps": steps, "trainable": trainable, "loss": loss})
    return outcomes


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "outcomes.json").write_text(json.dumps(search(place, *map(int, sys.argv[2:]))), encoding="utf-8")
