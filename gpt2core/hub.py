"""Downloads from the Hugging Face hub, with one-line errors."""

from collections.abc import Sequence
from pathlib import Path

from gpt2core.errors import HubError, WeightsError, first_line


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
