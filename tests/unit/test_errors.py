"""Errors, records and commands show the place of a URL, but no user and no secret."""

import os
import shlex
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings, strategies

from gpt2core.cli import command_text
from gpt2core.errors import DataError, without_password, without_passwords
from gpt2core.files import json_object, read_json

many = settings(derandomize=True, max_examples=300, deadline=None)
secrets = strategies.text(
    strategies.characters(min_codepoint=33, max_codepoint=0x17F, exclude_categories=("C", "Z")), min_size=1, max_size=20
)


@pytest.mark.parametrize(("address", "shown"), [
    ("http://u:p@h", "http://...@h"), ("http://u:p@ss@h/x", "http://...@h/x"),
    ("http://u:p/w@h:5000/x", "http://...@h:5000/x"), ("http://u:p?w@h", "http://...@h"),
    ("postgresql+psycopg://u:p#w@h/db", "postgresql+psycopg://...@h/db"),
    ("https://TOKEN@h", "https://...@h"), ("HTTPS://:secret@H:1", "HTTPS://...@H:1"),
    ("http://h/x?password=abc", "http://h/x?..."),
    ("postgresql:///db?user=me&password=abc", "postgresql:///db?..."),
    ("s3://KEY:SECRET/bucket/x", "s3://..."), ("s3://KEY:SEC/RET@bucket", "s3://...@bucket"),
    ("http://[::1]:5000/x", "http://[::1]:5000/x"),
    ("http://127.0.0.1:5000/#/experiments/1", "http://127.0.0.1:5000/#/experiments/1"),
    ("sqlite:////home/me@x/mlflow.db", "sqlite:////home/me@x/mlflow.db"),
    ("s3://bucket/folder", "s3://bucket/folder"), ("/home/me@x/a:b", "/home/me@x/a:b"),
    ("http:///u:p@h", "http://...@h"),
])  # fmt: skip
def test_an_address_is_shown_by_where_it_is_alone(address: str, shown: str) -> None:
    assert without_password(address) == without_passwords(address) == shown
    assert without_passwords(f"MLflow at '{address}', or ({address}): no answer.") == (
        f"MLflow at '{shown}', or ({shown}): no answer."
    )


def test_a_password_with_white_space_is_left_out_of_a_command() -> None:
    flags = ["--tracking-uri", "http://u:one two@h", "--storage=s3://KEY:a 'b@c", "--prompt", "see http://h and a@b"]
    assert shlex.split(command_text(flags)) == [
        "--tracking-uri", "http://...@h", "--storage=s3://...@c", "--prompt", "see http://h and a@b",
    ]  # fmt: skip


def test_what_a_library_says_of_an_address_holds_nothing_of_its_secrets() -> None:
    address = "http://user:p%40ss wd@h:5000/?token=abcd"
    said = f"Invalid url: {address}/api; Max retries exceeded with url: /?token=abcd/api as user, p@ss wd"
    shown = without_passwords(said, address)
    assert [word for word in ("user", "p%40ss", "p@ss", "wd", "abcd") if word in shown] == []
    assert "Max retries exceeded" in shown


@many
@given(secrets, secrets, strategies.sampled_from(["{0}:{1}@", "{0}@", ":{1}@", "{0}:{1}:{0}@"]))
def test_no_secret_is_shown_however_it_is_written(user: str, password: str, form: str) -> None:
    for one, two in ((user, password), (quote(user, safe=""), quote(password, safe=""))):
        address = f"http://{form.format(one, two)}host:5000/path"
        assert without_password(address) == "http://...@host:5000/path"
        for text in ("at {} no", "--tracking-uri={}", "({})"):
            assert without_passwords(text.format(address)) == text.format("http://...@host:5000/path")


DAMAGED = [b"", b"[]", b"3", b"null", b"{", b"\xff\xfe", b'{"a":' * 100_000]
DAMAGED += [b'{"a": ' + b"9" * 5000 + b"}", b'{"a": "' + b"x" * 2000]


@pytest.mark.parametrize("written", DAMAGED, ids=range(len(DAMAGED)))
def test_a_json_file_that_is_damaged_is_one_line_with_its_place(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(written)
    with pytest.raises(DataError, match=r"summary.json: (is|has) [^\n]+$"):
        read_json(path, 1000 if written.endswith(b"x") else 2**20)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path, tmp_path / "pipe.json"):
        with pytest.raises(DataError, match="is not a file"):
            read_json(path)


@many
@given(
    strategies.binary(max_size=40) | strategies.text('{}[]":,1e.-\\u0 \x00nulltruefasN', max_size=40).map(str.encode)
)
def test_any_bytes_are_an_object_or_one_line(written: bytes) -> None:
    try:
        found = json_object(written, 30)
    except DataError as error:
        found = {"why": str(error)}
    assert "\n" not in found.get("why", "")
