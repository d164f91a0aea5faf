"""Models of the Hugging Face hub, downloaded once; errors are one clear line."""

from collections.abc import Sequence
from pathlib import Path

from gpt2core.errors import HubError, WeightsError, first_line


def download(repository: str, patterns: Sequence[str], offline: str) -> Path:
    """Return the local folder of a repository's files that match some patterns.

    Raises HubError if the hub cannot be reached and there is no copy, with `offline` as advice; WeightsError for an invalid
    repository name.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except HFValidationError as error:
        raise WeightsError(f"`{repository}` cannot be the name of a model: {first_line(error)}") from None
    except LocalEntryNotFoundError:
        raise HubError(
            f"Could not fetch {repository} from the Hugging Face hub, and the local cache has no copy; {offline}"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise HubError(
            f"Could not fetch {repository} from the Hugging Face hub ({first_line(error)}); {offline}"
        ) from None
