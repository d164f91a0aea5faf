"""Ray's token on this machine, readable by its owner alone: whoever reads it can run code as the owner."""

import os
import secrets
import stat
import sys
from pathlib import Path

from gpt2core.errors import UserError
from gpt2core.files import home, locked

OTHERS = stat.S_IRWXG | stat.S_IRWXO  # the permissions of all but the owner
WAS_OPEN = (
    "warning: other users of this machine could read Ray's token until now; to get a new one, stop Ray and remove {}"
)


def default_token() -> Path:
    """Return the file where Ray looks for a token by default."""
    return home() / ".ray" / "auth_token"


def keep_token_private(*, draw: bool) -> None:
    """Make sure that no other user can read or replace the token that Ray will use; with `draw`, create a missing token.

    Ray would create it with the permissions of the umask, which lets others read it. Raises UserError.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else default_token()
    if named and path.exists():  # a cluster may mount it as a file of root
        _close(path, mounted=True)
    elif draw:
        private_token(path)
    else:
        _close(path, mounted=False)


def private_token(path: Path) -> str:
    """Return the token in a file that no other user can read, created if it is missing. Raises UserError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(path.with_name(f".{path.name}.lock")):
            _close(path, mounted=False)
            if not path.exists() or not path.read_text(encoding="utf-8").strip():
                _draw(path)
            return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: Ray's token cannot be kept there ({error}); set HOME to a folder of yours") from None


def _close(path: Path, *, mounted: bool) -> None:
    """Remove the permissions of others from a token and its folder; raise UserError if this user cannot."""
    for place, rights in ((path.parent, stat.S_IWGRP | stat.S_IWOTH), (path, OTHERS)):
        try:
            status = place.stat()
            if status.st_uid == os.getuid():
                if status.st_mode & rights:
                    place.chmod(stat.S_IMODE(status.st_mode) & ~rights)
                    if place == path:
                        print(WAS_OPEN.format(path), file=sys.stderr, flush=True)
            elif not mounted:
                raise UserError(f"{place}: belongs to another user, who can read or replace Ray's token; remove it")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(
                f"{place}: other users may read or replace Ray's token, and this cannot be changed ({error.strerror}); run "
                f"`chmod go-rwx {path}`"
            ) from None


def _draw(path: Path) -> None:
    """Write a new token atomically, never readable by others."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32))
    part.replace(path)
