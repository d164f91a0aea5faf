"""The command `promote`: writes a trial as a model folder with its card, and registers it in MLflow."""

import argparse
import re
import sys
from pathlib import Path

from gpt2core.adapters import ADAPTERS, peft_config
from gpt2core.config import RunConfig
from gpt2core.errors import CheckpointError, ConfigError, UserError, visible
from gpt2core.files import atomic_folder
from gpt2core.model_folder import CARD, Format, check_format, export, is_place, read_run, write_run
from gpt2core.storage import address, fetch, local, send
from gpt2core.tasks import TASKS
from gpt2core.weights import EMBEDDED
from searches.places import trial_folder
from searches.programs.models import check_has_model
from searches.promoting.card import model_card
from searches.promoting.registry import ALIAS, NotRegisteredError, register
from searches.promoting.selection import Chosen, Promotion, StoredSearch, choose, load_search
from searches.result_files import PROMOTED

FORMATS: dict[Format, str] = {"adapter": "an adapter", "model": "a whole model"}


def promote(options: argparse.Namespace) -> int:
    """Run the command; return 0, or 1 if the folder is complete but MLflow refused it. Raises UserError."""
    name = options.registered_name
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,199}", name):
        raise ConfigError(
            f"The value of `--registered-name` is {name!r}, but must consist of letters, digits, spaces, dots, dashes and "
            "underscores, and begin with a letter or digit"
        )
    search = load_search(options.storage, options.name)
    chosen = choose(search, options.trial)
    check_has_model(chosen.trial.run, search.folder, chosen.trial.name)
    config = RunConfig.of(chosen.trial.run)
    if parts := TASKS[config.task].parts(config):
        raise ConfigError(
            f"Trial {chosen.trial.name} has a model for each of the tasks {', '.join(parts)}, so it cannot be promoted as one; "
            f"write them by `gpt2-search export --checkpoint {trial_folder(search.folder, chosen.trial.name)} --out FOLDER`"
        )
    format = _format(options.format, config)
    out = local(options.out) if options.out else search.folder / PROMOTED
    fetch(out)
    before = _replaceable(out, search)
    promotion = write(search, chosen, config, format, out, name)
    send(out)
    print(visible(f"{chosen.why}. Trial {chosen.trial.name}, epoch {promotion.epoch}: {address(out)}"))
    print(visible(f"Answer: {search.answer_text}"))
    if before not in (None, (chosen.trial.name, format)):
        print(f"It replaces trial {before[0]} as {FORMATS[before[1]]}, which was promoted before.")
    name = name or promotion.name
    try:
        version = register(promotion, out, name, options.tracking_uri)
    except NotRegisteredError as error:
        warning = f"warning: the folder is complete, but not registered: {error}; the same command tries again"
        print(visible(warning), file=sys.stderr)
        return 1
    print(f"MLflow: version {version.version} of {name}, alias {ALIAS}: models:/{name}@{ALIAS}")
    return 0


def write(
    search: StoredSearch, chosen: Chosen, config: RunConfig, format: Format, out: Path, name: str | None
) -> Promotion:
    """Write weights, card and run.json into `out`, all or nothing. Raises UserError."""
    trial = chosen.trial
    try:
        with atomic_folder(out) as part:
            epoch = export(config, trial_folder(search.folder, trial.name), part, format)
            if epoch not in trial.reports:
                raise CheckpointError(
                    f"Trial {trial.name} is running and has just reached epoch {epoch}; promote it again"
                )
            promotion = Promotion(search=search, chosen=chosen, config=config, format=format, epoch=epoch)
            about = {"search": search.name, "trial": trial.name, "epoch": epoch, "data": promotion.digest}
            write_run(part, config, about)
            model_card(promotion, name or promotion.name).save(part / CARD)
    except OSError as error:
        raise ConfigError(f"{out}: must be a folder that can be written to ({error.strerror})") from None
    return promotion


def _format(requested: str, config: RunConfig) -> Format:
    """Return the format of `--format`; raise ConfigError if the model lacks it.

    The default is LoRA alone if the hub has its base model, as its users expect, else the whole model.
    """
    if requested == "huggingface":
        return "model"
    if requested == "adapter":
        check_format(config, "adapter", instead="huggingface")
        return "adapter"
    has_base = config.model not in EMBEDDED and not is_place(config.model)
    return "adapter" if ADAPTERS[config.adapter].peft_format and config.first_task is None and has_base else "model"


def _replaceable(out: Path, search: StoredSearch) -> tuple[str, Format] | None:
    """Return which trial of the search `out` holds and how, None if `out` is empty; raise UserError for other contents."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        run = read_run(out)
    except CheckpointError:
        run = {}
    if run.get("search") != search.name:
        raise UserError(
            f"{out}: exists already and was not promoted from {search.name}; choose another --out, or remove it"
        )
    return str(run.get("trial")), "adapter" if (out / peft_config.NAME).is_file() else "model"
