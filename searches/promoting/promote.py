"""Promote a trial of a search: a model folder with its card, registered in MLflow."""

import argparse
import re
import sys
from pathlib import Path

from gpt2core.adapters import ADAPTERS
from gpt2core.checkpoints import whole_folder
from gpt2core.config import RunConfig
from gpt2core.errors import CheckpointError, ConfigError, UserError, visible
from gpt2core.model_folder import Format, check_format, export, is_place, read_run, write_run
from gpt2core.storage import address, fetch, local, send
from gpt2core.weights import EMBEDDED
from searches.options import trial_folder
from searches.promoting.card import model_card
from searches.promoting.registry import ALIAS, NotRegisteredError, register
from searches.promoting.selection import Chosen, Promotion, StoredSearch, choose, load_search


def promote(options: argparse.Namespace) -> int:
    """Do what the flags say; return 0, or 1 where the folder is whole but MLflow did not take it. Raises UserError."""
    if options.registered_name is not None:
        _check_name(options.registered_name)
    found = load_search(options.storage, options.name)
    chosen = choose(found, options.trial)
    config = RunConfig.of(chosen.trial.run)
    format = _format(options.format, config)
    out = local(options.out) if options.out else found.folder / "promoted"
    fetch(out)
    before = _replaceable(out, found)
    promotion = write(found, chosen, config, format, out, options.registered_name)
    send(out)
    print(visible(f"{chosen.why}. Trial {chosen.trial.name}, epoch {promotion.epoch}: {address(out)}"))
    print(visible(f"Answer: {found.answer_text}"))
    if before not in (None, chosen.trial.name):
        print(f"It has taken the place of trial {before}, which was promoted before.")
    name = options.registered_name or promotion.name
    try:
        version = register(promotion, out, name, options.tracking_uri)
    except NotRegisteredError as error:
        print(
            visible(f"warning: the folder is whole, but not registered: {error}; the same command tries again"),
            file=sys.stderr,
        )
        return 1
    print(f"MLflow: version {version.version} of {name}, alias {ALIAS}: models:/{name}@{ALIAS}")
    return 0


def write(
    found: StoredSearch, chosen: Chosen, config: RunConfig, format: Format, out: Path, name: str | None
) -> Promotion:
    """Write weights, card and run.json into `out`, which is whole or as it was. Raises UserError."""
    trial = chosen.trial
    weights = trial_folder(found.folder, trial.name)
    try:
        with whole_folder(out) as part:
            epoch = export(config, weights, part, format)
            if epoch not in trial.reports:
                raise CheckpointError(
                    f"Trial {trial.name} is still running, and its epoch {epoch} came in between; promote it again"
                )
            promotion = Promotion(found=found, chosen=chosen, config=config, format=format, epoch=epoch)
            about = {"search": found.name, "trial": trial.name, "epoch": epoch, "data": promotion.digest}
            write_run(part, config, about)
            model_card(promotion, name or promotion.name).save(part / "README.md")
    except OSError as error:
        raise ConfigError(f"{out}: must be a folder that can be written to ({error.strerror})") from None
    return promotion


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,199}", name):
        raise ConfigError(
            f"The value of `--registered-name` is {name!r}, but must be letters, digits, spaces, dots, dashes and underscores"
        )


def _format(asked: str, config: RunConfig) -> Format:
    """The form of `--format`. What people of the hub expect of LoRA is LoRA alone, as long as they can have its base model.

    Raises ConfigError where it has no such form.
    """
    if asked == "huggingface":
        return "model"
    if asked == "adapter":
        _check_adapter(config)
        return "adapter"
    has_base = config.model not in EMBEDDED and not is_place(config.model)
    return "adapter" if ADAPTERS[config.adapter].peft_format and config.first_task is None and has_base else "model"


def _check_adapter(config: RunConfig) -> None:
    try:
        check_format(config, "adapter")
    except ConfigError as error:
        raise ConfigError(str(error).replace("--format model", "--format huggingface")) from None


def _replaceable(out: Path, found: StoredSearch) -> str | None:
    """Return the trial of the search that `out` holds, None where nothing is there; raise UserError for anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        run = read_run(out)
    except CheckpointError:
        run = {}
    if run.get("search") != found.name:
        raise UserError(
            f"{out}: is there already and was not promoted from {found.name}; choose another --out, or remove it"
        )
    return str(run.get("trial"))
