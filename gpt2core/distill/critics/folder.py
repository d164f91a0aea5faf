"""Model folders of critics: local or downloaded, without pickles or custom code, identified by a digest."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2core.errors import DataError, WeightsError, first_line
from gpt2core.files import NoObjectError, read_json
from gpt2core.foreign import download

#: The files that are downloaded, loaded and digested: weights, configurations and tokenizers.
FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
OFFLINE = "to run offline, give --critic-model a folder, or choose a critic that needs no download"


def critic_folder(name: str) -> Path:
    """Return the local folder of a critic's model: `name` itself, or a download of `FILES` from the Hugging Face hub.

    Raises HubError if the hub cannot be reached, and WeightsError if the model does not exist, has no safetensors weights, or
    needs custom code, which is never run.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise WeightsError(f"There is no critic model `{name}`: give a folder, or owner/name of the hub")
        path = download(name, FILES, OFFLINE)
    if not any(path.rglob("*.safetensors")):
        raise WeightsError(
            f"{path}: has no safetensors file, and no other weights are read; load the model with transformers, save it to a "
            "folder with save_pretrained, and give that folder to --critic-model"
        )
    for file in sorted(path.rglob("*.json")):
        if _names_code(file):
            raise WeightsError(
                f"{file}: has an `auto_map`, but custom code of a model is never run; choose another model"
            )
    return path


def _names_code(file: Path) -> bool:
    try:
        return "auto_map" in read_json(file)
    except NoObjectError:  # such as a list of modules
        return False
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror})") from None
    except DataError as error:
        raise WeightsError(str(error)) from None


def model_digest(folder: Path) -> str:
    """Return the SHA-256 of the relative names and contents of all `FILES`: labels decide scores as much as weights do."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in FILES for file in folder.rglob(pattern) if file.is_file()}):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Hide the progress bar of transformers; raise a one-line WeightsError if the folder cannot be loaded."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (ImportError, OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder}: cannot be loaded ({first_line(error)})") from None
    finally:
        if enabled:
            logging.enable_progress_bar()
