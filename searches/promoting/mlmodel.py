"""The file MLmodel, by which `mlflow.pyfunc` and `mlflow.transformers` load a registered model.

It names transformers' own classes, so loading runs no code of the model and reads no pickle.
"""

import shutil
from pathlib import Path
from platform import python_version

from mlflow.models import Model

from gpt2core.config import RunConfig
from gpt2core.model_folder import RUN, Format
from gpt2core.tasks import TASKS
from gpt2core.weights import hub_name, model_folder

#: Task, pipeline and model of transformers.
CLASSIFIES = ("text-classification", "TextClassificationPipeline", "GPT2ForSequenceClassification")
GENERATES = ("text-generation", "TextGenerationPipeline", "GPT2LMHeadModel")
TOKENIZER = "components/tokenizer"  # the folder where MLflow looks for it


def write_mlmodel(out: Path, folder: Path, config: RunConfig, format: Format, run: str, model: str) -> None:
    """Write the MLmodel of a promoted `folder` into `out`, with a copy of the tokenizer.

    `run` and `model` are MLflow's ids of the trial's run and of the logged model. An adapter names its base model, which is not
    copied. An adapter with a classification head gets no MLmodel: MLflow gives the base model two classes.
    """
    classifies = bool(TASKS[config.task].classes(config))
    if classifies and format == "adapter":
        return
    task, pipeline, network = CLASSIFIES if classifies else GENERATES
    description = Model(run_id=run, model_id=model)
    description.add_flavor(
        "transformers",
        task=task,
        instance_type=pipeline,
        pipeline_model_type=network,
        source_model_name=hub_name(config.model),
        components=["tokenizer"],
        tokenizer_type="AutoTokenizer",
        **(_on_base(config) if format == "adapter" else {"model_binary": "."}),
    )
    description.add_flavor("python_function", loader_module="mlflow.transformers", python_version=python_version())
    description.save(str(out / "MLmodel"))
    (out / TOKENIZER).mkdir(parents=True)
    for file in (model_folder(config.model) if format == "adapter" else folder).iterdir():
        if file.suffix in (".json", ".txt") and file.name != RUN:  # not the weights and the card
            shutil.copy(file, out / TOKENIZER)


def _on_base(config: RunConfig) -> dict[str, str]:
    """Return what tells MLflow to put the adapter of its folder on the base model: a folder, or a commit of the hub."""
    base, name = model_folder(config.model), hub_name(config.model)
    if base == Path(name):
        return {"peft_adaptor": ".", "local_base_model_path": name}
    commit = base.name  # the hub's library names the folder of a download so
    return {
        "peft_adaptor": ".",
        "source_model_revision": commit,
        "tokenizer_name": name,
        "tokenizer_revision": commit,
    }
