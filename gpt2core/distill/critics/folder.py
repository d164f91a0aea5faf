"""Folders of models that critics read: found or downloaded, without pickles and code of their own, named by a digest."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2core.errors import DataError, WeightsError, first_line
from gpt2core.files import NoObjectError, read_json
from gpt2core.hub import download

#: What is read of a model: weights, configurations and tokenizers. So that is what is downloaded, and what the digest is of.
FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
OFFLINE = "to run offline, give --critic-model a folder, or take a critic that needs no download"


def critic_folder(name: str) -> Path:
    """Return the local folder of a critic's model: a path, or a download of `FILES` from the Hugging Face hub.

    Raises HubError where the hub cannot be reached; WeightsError where there is no such model, or it has no weights as
    safetensors, or it brings code of its own, which is never run.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise WeightsError(f"There is no critic's model `{name}`: it is no folder; one of the hub is owner/name")
        path = download(name, FILES, OFFLINE)
    if not any(path.rglob("*.safetensors")):
        raise WeightsError(
            f"{path}: there is no safetensors file, and no other weights are read; load the model with transformers, "
            "save_pretrained it to a folder, and give --critic-model that"
        )
    for file in sorted(path.rglob("*.json")):
        if _names_code(file):
            raise WeightsError(f"{file}: has an `auto_map`, which names code of the model's own; that is never run")
    return path


def _names_code(file: Path) -> bool:
    try:
        return "auto_map" in read_json(file)
    except NoObjectError:  # a list of modules, say
        return False
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror})") from None
    except DataError as error:
        raise WeightsError(str(error)) from None


def model_digest(folder: Path) -> str:
    """SHA-256 over the names in the folder and contents of all `FILES`: which label is which decides scores as weights do."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in FILES for file in folder.rglob(pattern) if file.is_file()}):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Load with transformers without its progress bar; raise WeightsError in one line where the folder does not fit it."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (ImportError, OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder}: cannot be loaded ({first_line(error)})") from None
    finally:
        if shown:
            logging.enable_progress_bar()
