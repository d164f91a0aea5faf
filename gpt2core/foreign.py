"""Read files from other sources within limits, and download them; errors are one line that names the file and the rule."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from gpt2core import files
from gpt2core.errors import DataError, HubError, WeightsError, first_line, shown
from gpt2core.files import readable

if TYPE_CHECKING:  # PyTorch takes a second to import
    from torch import Tensor

#: Errors of safetensors for invalid files, besides OSError.
NO_TENSORS = (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, AttributeError)
FLOATS = ("float16", "bfloat16", "float32", "float64")


def read_json(path: Path, missing: str = "") -> dict[str, Any]:
    """Return the object in a JSON file; raise WeightsError otherwise, with an addition about a `missing` file."""
    try:
        return files.read_json(path)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file{missing}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as error:
        raise WeightsError(str(error)) from None


def check_values(path: Path, values: Mapping[str, Any], rules: Mapping[str, Sequence[Any]], place: str = "") -> None:
    """Raise WeightsError if a key of a JSON object has an unsupported value; `place` is the path of the object in the file."""
    for key, allowed in rules.items():
        if key in values and values[key] not in allowed:
            must = " or ".join(repr(value) for value in allowed)
            raise WeightsError(f"{path}: `{place}{key}` is {shown(values[key])}, but must be {must}")


def is_there(path: Path) -> bool:
    """Return whether a file exists; raise WeightsError if that cannot be determined."""
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        raise WeightsError(f"{shown(str(path))}: cannot be read ({first_line(error)})") from None


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Return the tensors of a safetensors file in float32; raise WeightsError if it is damaged or has other types than floats."""
    tensors = {}
    try:
        with safe_open(readable(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                if (kind := kind_of(tensor)) not in FLOATS:
                    raise WeightsError(f"{path}: the tensor `{name}` is {kind}, but must be one of {', '.join(FLOATS)}")
                tensors[name] = tensor.float()
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; for weights in another format, see `gpt2-search convert`") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except NO_TENSORS as error:
        raise WeightsError(f"{path}: is truncated or not a safetensors file ({first_line(error)})") from None
    return tensors


def kind_of(tensor: "Tensor") -> str:
    """Return the type of a tensor's numbers, such as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def download(repository: str, patterns: Sequence[str], offline: str) -> Path:
    """Download the files of a repository that match `patterns`, once, and return their local folder.

    Raises HubError, with `offline` as advice, if the hub is unreachable and nothing is cached; WeightsError for an invalid name.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise WeightsError(f"`{repository}` is not a valid model name: {first_line(error)}") from None
    except LocalEntryNotFoundError:
        reason = ", and the local cache has no copy"
    except (HfHubHTTPError, OSError) as error:
        reason = f" ({first_line(error)})"
    raise HubError(f"Could not fetch {repository} from the Hugging Face hub{reason}; {offline}")
