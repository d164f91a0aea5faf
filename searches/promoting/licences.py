"""The licences of a promoted model: those of its base model and of its training texts. Unknown ones are never guessed."""

from gpt2core.config import MODELS, RunConfig
from gpt2core.data.origin import GENERATED, SHAKESPEARE, UNKNOWN, DataOrigin, Licence
from gpt2core.weights import EMBEDDED, hub_name

APACHE = ("distilgpt2",)  # base models under Apache 2.0; the others are under MIT
#: The texts of a first task. No search records whether its poems were the package's.
FIRST = {"pretraining": SHAKESPEARE, "rewriting": GENERATED}


def base_terms(config: RunConfig) -> str:
    """Return what is known of the base model's licence."""
    if config.model in EMBEDDED:
        return f"`{config.model}` ships with gpt2-search under the MIT licence; it was trained on Shakespeare's plays alone."
    if config.model in MODELS:
        terms = "Apache 2.0" if config.model in APACHE else "MIT"
        return f"`{hub_name(config.model)}` is under the {terms} licence, as its page on the Hugging Face hub says."
    return "The licence of the base model is not known; see its source."


def text_licences(config: RunConfig, origin: DataOrigin) -> dict[str, Licence]:
    """Return the licence of each set of training texts, by name; `origin` is that of the task's own data."""
    licences = {"Data": origin.licence}
    if config.first_task is not None:
        licences[f"Data: Trained first on `{config.first_task}`"] = FIRST.get(config.first_task, UNKNOWN)
    if config.task == "paraphrase" and config.learns_from_pairs and config.added_pairs == "generated":
        licences["Data: Generated pairs as well"] = GENERATED
    return licences


def licence(config: RunConfig, origin: DataOrigin) -> dict[str, str]:
    """Return the licence keys of a model card: that of the base if base and texts are free, else a link to the card's text."""
    if config.model not in (*EMBEDDED, *MODELS):
        return {"license": "unknown"}
    if all(terms.free for terms in text_licences(config, origin).values()):
        return {"license": "apache-2.0" if config.model in APACHE else "mit"}
    return {"license": "other", "license_name": "terms-of-base-model-and-data", "license_link": "README.md#licences"}
