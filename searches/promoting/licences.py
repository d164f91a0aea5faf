"""Under which terms a promoted model can be used: those of its base model and of the texts that it learnt from.

What is not known is said to be so: a licence is never guessed.
"""

from gpt2core.config import MODELS, RunConfig
from gpt2core.data.origin import GENERATED, SHAKESPEARE, UNKNOWN, DataOrigin, Licence
from gpt2core.weights import EMBEDDED

#: The texts of a first task. Which poems they were, the package's or others, no search records.
FIRST = {"pretraining": SHAKESPEARE, "rewriting": GENERATED}


def base_terms(config: RunConfig) -> str:
    """What is known of the base model's licence."""
    if config.model in EMBEDDED:
        return f"`{config.model}` ships with gpt2-search under the MIT licence; it has read Shakespeare's plays alone."
    if config.model in MODELS:
        return f"`openai-community/{config.model}` is under the MIT licence, as its page on the Hugging Face hub says."
    return "The licence of the base model is not known here; see where it is from."


def text_licences(config: RunConfig, origin: DataOrigin) -> dict[str, Licence]:
    """The licence of each text that the run learnt from, by what it is; `origin` is that of its own task's data."""
    found = {"Data": origin.licence}
    if config.first_task is not None:
        found[f"Data: Trained first on `{config.first_task}`"] = FIRST.get(config.first_task, UNKNOWN)
    if config.task == "paraphrase" and config.learns_from_pairs:
        found["Data: Generated pairs beside them"] = GENERATED
    return found


def licence(config: RunConfig, origin: DataOrigin) -> dict[str, str]:
    """The keys of a model card that name its licence: `mit` where base and texts are free, else what the text says."""
    if config.model not in (*EMBEDDED, *MODELS):
        return {"license": "unknown"}
    if all(one.free for one in text_licences(config, origin).values()):
        return {"license": "mit"}
    return {"license": "other", "license_name": "terms-of-base-model-and-data", "license_link": "README.md#licences"}
