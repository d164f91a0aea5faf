"""Names and folders of searches in a storage."""

import re
from pathlib import Path

from gpt2core.component import nearest
from gpt2core.errors import ConfigError, UserError
from gpt2core.storage import address, fetch, folders, is_copy, local
from searches.result_files import LEDGER, SEARCHES, TRIALS
from searches.running.remote_ledger import refresh

LONGEST_NAME = 100  # characters of a search's name


def storage_path(storage: str | None) -> Path:
    """Return the local folder of a `--storage` value; raise ConfigError for an invalid address."""
    from cluster.connect import default_storage

    return default_storage() if storage is None else local(storage)


def existing_storage(storage: str | None) -> Path:
    """Return the local folder of a `--storage` value; raise UserError if it does not exist, unless it is an address."""
    folder = storage_path(storage)
    if not (folder.is_dir() or is_copy(folder)):
        raise UserError(f"There is no folder {folder} with searches; give the --storage of the searches")
    return folder


def search_name(name: str, given_as: str = "name of the search") -> str:
    """Return the name if it is safe as a folder name; raise ConfigError otherwise, with what the name is `given_as`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or len(name) > LONGEST_NAME:
        shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}... of {len(name)} characters"
        raise ConfigError(
            f"The {given_as} is {shown!r}, but must be letters, digits, dots, dashes and underscores, starting with a "
            f"letter or digit, and at most {LONGEST_NAME} characters"
        )
    return name


def default_name(script: str, data: str, profile: str) -> str:
    """Return the name of a search that is given none; `data` is the name of the user's own data, empty without."""
    words = re.findall(r"[A-Za-z0-9]+", data)
    return "-".join([script, *(["_".join(words)[:30]] if words else []), profile])


def search_folder(storage: str | None, name: str, given_as: str = "name of the search") -> Path:
    """Return the results folder of an existing search; raise UserError if there is none of that name."""
    name = search_name(name, given_as)
    searches = existing_storage(storage) / SEARCHES
    folder = searches / name
    refresh(folder)
    if not (folder / LEDGER).is_file():
        existing = folders(searches)
        hint = nearest(name, existing) if existing else "it has no searches"
        raise UserError(f"There is no search `{name}` in {address(searches)}: {hint}; see --storage")
    return folder


def trial_folder(search: Path, name: str) -> Path:
    """Return a trial's checkpoint folder, with its best weights fetched; raise UserError if it is missing."""
    folder = search / TRIALS / name
    fetch(folder / "best")
    if not folder.is_dir():
        raise UserError(
            f"{address(folder)}: the folder with the weights of trial {name} is missing; restore it, or promote another trial: "
            f"gpt2-search promote {search.name} --trial NUMBER"
        )
    return folder
