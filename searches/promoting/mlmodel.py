"""The file MLmodel, by which `mlflow.pyfunc` and `mlflow.transformers` load a registered model.

It names transformers' own classes, so loading runs no code of the model and reads no pickle.
"""

import shutil
from pathlib import Path
from platform import python_version

from mlflow.models import Model

from gpt2core.config import RunConfig
from gpt2core.model_folder import RUN
from gpt2core.tasks import TASKS
from gpt2core.weights import hub_name

#: Task, pipeline and model of transformers.
CLASSIFIES = ("text-classification", "TextClassificationPipeline", "GPT2ForSequenceClassification")
GENERATES = ("text-generation", "TextGenerationPipeline", "GPT2LMHeadModel")
TOKENIZER = "components/tokenizer"  # the folder where MLflow looks for it


def write_mlmodel(out: Path, folder: Path, config: RunConfig, run: str, model: str) -> None:
    """Write the MLmodel of a whole model in `folder` into `out`, with a copy of its tokenizer.

    `run` and `model` are MLflow's ids of the trial's run and of the logged model.
    """
    task, pipeline, network = CLASSIFIES if TASKS[config.task].classes(config) else GENERATES
    description = Model(run_id=run, model_id=model)
    description.add_flavor(
        "transformers",
        task=task,
        instance_type=pipeline,
        pipeline_model_type=network,
        model_binary=".",
        source_model_name=hub_name(config.model),
        components=["tokenizer"],
        tokenizer_type="AutoTokenizer",
    )
    description.add_flavor("python_function", loader_module="mlflow.transformers", python_version=python_version())
    description.save(str(out / "MLmodel"))
    (out / TOKENIZER).mkdir(parents=True)
    for file in folder.iterdir():
        if file.suffix in (".json", ".txt") and file.name != RUN:  # not the weights and the card
            shutil.copy(file, out / TOKENIZER)
