"""Errors that a user can act on: one line each, naming the value, the rule and the way out.

Every class takes the message alone, so that Ray can pickle it between processes.
"""

import re
from typing import Any
from urllib.parse import unquote


class UserError(Exception):
    """Bad input. Entry points print it as one line and exit with status 2."""


class UnknownNameError(UserError):
    """A name that no table has; the message names the nearest one."""


class ConfigError(UserError):
    """A configuration value that breaks a rule."""


class DataError(UserError):
    """A data file that is missing or malformed; the message holds its path, line and rule."""


class WeightsError(UserError):
    """A model folder whose files are missing, truncated or of the wrong shape."""


class HubError(UserError):
    """The model hub could not be reached; the message says what was tried and how to run offline."""


class CheckpointError(UserError):
    """A training checkpoint that cannot be resumed from."""


class StorageError(UserError):
    """Remote storage did not answer or refused; another attempt may succeed."""


class DivergedError(Exception):
    """The loss is NaN or diverges: this run ends, others go on."""


SHORTEST = 4  # letters of a secret that is left out of other texts; shorter ones would leave holes in words
LEFT_OUT = "..."  # stands for what an address says of who asks, and for what it asks
_ADDRESS = re.compile(r"([A-Za-z][\w+.-]*://)(\S+)")
_ALONE = re.compile(r"((?:--[\w-]+=)?[A-Za-z][\w+.-]*://)(.+)", re.DOTALL)
_OF_FILES = re.compile(r"\b(sqlite[\w+]*|file)://$")  # no host, and nobody who asks
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^@:/?#\[\]]*)(:\d{1,5})?")
_AFTER = "\"'`)]}>,.;:"  # what may follow an address in a sentence


def without_passwords(text: str, address: str = "") -> str:
    """Return a text without the users, passwords and queries of its URLs, for whatever is printed, stored or shared.

    The secrets of `address` are removed wherever they stand.
    """
    for secret in sorted(_secrets(address), key=len, reverse=True):
        text = text.replace(secret, LEFT_OUT)
    return _ADDRESS.sub(lambda found: found[1] + _place(*found.groups()), text)


def without_password(address: str) -> str:
    """The same for a single URL, or a flag with one: there, a password may contain white space."""
    match = _ALONE.fullmatch(address)
    return match[1] + _place(*match.groups()) if match else without_passwords(address)


def _secrets(address: str) -> set[str]:
    """The secret parts of a URL, whole and in pieces, both percent-encoded and decoded."""
    scheme, mark, rest = address.partition("://")
    user = "" if _OF_FILES.search(scheme + mark) else rest.rpartition("@")[0]
    parts = {user, *user.split(":"), address.partition("?")[2]}
    return {secret for word in parts for secret in (word, unquote(word)) if len(secret) >= SHORTEST}


def _place(scheme: str, rest: str) -> str:
    """What may be shown of a URL after its scheme: its host and path; nothing if they cannot be told from a password."""
    after = rest[len(rest.rstrip(_AFTER)) :]
    if not _OF_FILES.search(scheme):
        _, at, rest = rest.rpartition("@")
        host = re.split(r"[/?#]", rest, maxsplit=1)[0].rstrip(_AFTER)
        if not _HOST.fullmatch(host):
            return LEFT_OUT + after
        rest = LEFT_OUT + at + rest if at else rest
    shown, query, _ = rest.partition("?")
    return shown + query + LEFT_OUT + after if query else shown


#: What a terminal obeys, XML forbids, or turns the order of a line around: control characters but line end and tab, marks of
#: direction, separators, surrogates and what is no character.
_UNSEEN = re.compile(
    r"[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)


def visible(text: str, most: int | None = None) -> str:
    """Return foreign text with control characters escaped, so that it is safe to show anywhere; cut to `most` characters."""
    seen = _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)
    return seen if most is None or len(seen) <= most else f"{seen[:most]}..."


def all_visible(value: Any) -> Any:
    """The same for all texts within a value."""
    if isinstance(value, dict):
        return {all_visible(key): all_visible(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [all_visible(one) for one in value]
    return visible(value) if isinstance(value, str) else value


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shown(value: object) -> str:
    """The repr of a foreign value, shortened."""
    return visible(repr(value), 60)
