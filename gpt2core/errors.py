"""Errors that a user can act on: one line that names the value, the rule and the way out.

Every class takes only a message, so that Ray can pickle it.
"""

import re
from typing import Any
from urllib.parse import unquote


class UserError(Exception):
    """Bad input. Command lines print it as one line and exit with status 2."""


class UnknownNameError(UserError):
    """An unknown name; the message names the nearest valid one."""


class ConfigError(UserError):
    """A configuration value that breaks a rule."""


class DataError(UserError):
    """A missing or malformed data file; the message has its path, line and rule."""


class WeightsError(UserError):
    """A model folder with missing, truncated or misshapen files."""


class HubError(UserError):
    """The model hub is unreachable; the message says how to run offline."""


class CheckpointError(UserError):
    """A training checkpoint that cannot be used."""


class StorageError(UserError):
    """Remote storage did not answer, or refused; another attempt may succeed."""


class DivergedError(Exception):
    """The loss is NaN or diverges. The run ends, but other runs continue."""


SHORTEST = 4  # characters of a secret that is removed from texts; shorter ones would also occur in words
REDACTED = "..."  # replaces user, password and query of a URL
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]*://)(\S+)")
_ALONE = re.compile(r"((?:--[\w-]+=)?[A-Za-z][\w+.-]*://)(.+)", re.DOTALL)
_OF_FILES = re.compile(r"\b(sqlite[\w+]*|file)://$")  # URLs without host and user
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^@:/?#\[\]]*)(:\d{1,5})?")
_AFTER = "\"'`)]}>,.;:"  # characters that may follow a URL in a sentence


def without_passwords(text: str, address: str = "") -> str:
    """Redact users, passwords and queries of all URLs in a text, and the secrets of the URL `address` everywhere in it."""
    for secret in sorted(_secrets(address), key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return _ADDRESS.sub(lambda url: url[1] + _without_secrets(*url.groups()), text)


def without_password(address: str) -> str:
    """Redact a single URL, or a flag with one, whose password may contain white space."""
    match = _ALONE.fullmatch(address)
    return match[1] + _without_secrets(*match.groups()) if match else without_passwords(address)


def _secrets(address: str) -> set[str]:
    """Return the secret parts of a URL, whole and in pieces, percent-encoded and decoded."""
    scheme, mark, rest = address.partition("://")
    user = "" if _OF_FILES.search(scheme + mark) else rest.rpartition("@")[0]
    parts = {user, *user.split(":"), address.partition("?")[2]}
    return {secret for word in parts for secret in (word, unquote(word)) if len(secret) >= SHORTEST}


def _without_secrets(scheme: str, rest: str) -> str:
    """Return the redacted part of a URL after its scheme: host and path, or nothing if a password could be mistaken for them."""
    after = rest[len(rest.rstrip(_AFTER)) :]
    if not _OF_FILES.search(scheme):
        _, at, rest = rest.rpartition("@")
        host = re.split(r"[/?#]", rest, maxsplit=1)[0].rstrip(_AFTER)
        if not _HOST.fullmatch(host):
            return REDACTED + after
        rest = REDACTED + at + rest if at else rest
    shown, query, _ = rest.partition("?")
    return shown + query + REDACTED + after if query else shown


#: Characters that control a terminal, are invalid in XML or reverse a line: control characters except line end and tab, direction
#: marks, separators, surrogates and noncharacters.
_UNSEEN = re.compile(
    r"[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)


def visible(text: str, most: int | None = None) -> str:
    """Return text with control characters escaped, safe to show anywhere, and cut to `most` characters."""
    seen = _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)
    return seen if most is None or len(seen) <= most else f"{seen[:most]}..."


def all_visible(value: Any) -> Any:
    """Apply `visible` to all texts within a value."""
    if isinstance(value, dict):
        return {all_visible(key): all_visible(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [all_visible(item) for item in value]
    return visible(value) if isinstance(value, str) else value


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shown(value: object) -> str:
    """Return the shortened repr of a value."""
    return visible(repr(value), 60)
