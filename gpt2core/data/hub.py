"""Data sets of the Hugging Face hub, through the library `datasets`, which takes a second to import."""

from collections.abc import Iterable, Mapping
from typing import Any

from gpt2core.errors import HubError


def load_hub(repository: str, config: str | None, files: str) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    """Return the rows of each split of a data set, downloaded once.

    Raises HubError, which says how to do without: `files` are what --data-dir must hold then.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        splits: Mapping[str, Iterable[Mapping[str, Any]]] = load_dataset(repository, config)
    except (DatasetsError, OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise HubError(
            f"Could not fetch the data set {repository} from the Hugging Face hub ({reason}); without a network, "
            f"give --data-dir a folder with {files}"
        ) from None
    return splits
