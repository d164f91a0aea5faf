"""Files behind an address: what is sent is what is fetched, in an order that a kill may cut, and no name leads out."""

import os
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from gpt2core import storage
from gpt2core.config import RunConfig
from gpt2core.data.own import load_own
from gpt2core.errors import ConfigError, DataError, StorageError
from gpt2core.lease import Lease
from gpt2core.storage import OvertakenError, address, fetch, folders, is_copy, local, read, remove, send, size, write
from tests.services import BUCKET, Store, started


@pytest.fixture
def folder(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The copy, on a machine of its own, of a folder that has nothing yet."""
    for key, value in store.environment.items():
        monkeypatch.setenv(key, value)
    become(monkeypatch, tmp_path / "one")
    return local(f"s3://{BUCKET}/{tmp_path.name}")


def become(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("GPT2_SEARCH_CACHE", str(cache))
    monkeypatch.setattr(storage, "_in_storage", {})


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def texts(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("[!.]*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def elsewhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = address(folder)
    become(monkeypatch, tmp_path / "two")
    return local(place)


def test_another_machine_mirrors_the_storage(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder / "a", "first")
    written(folder / "below" / "b", "second")
    written(folder / ".part", "being written")
    send(folder)
    (folder / "a").unlink()
    written(folder / "below" / "b", "SECOND")  # of the same length
    send(folder)
    there = elsewhere(folder, tmp_path, monkeypatch)
    written(there / "old", "of an earlier life")
    fetch(there)
    assert texts(there) == {"below/b": "SECOND"}
    assert (folders(there), size(there)) == (["below"], 6)


def test_a_file_with_two_names_takes_its_bytes_once(tmp_path: Path) -> None:
    written(tmp_path / "a", "first")
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    written(tmp_path / "below" / "c", "second")
    assert size(tmp_path) == 11


def test_a_file_removed_during_fetch_is_absent(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder / "a", "stays")
    written(folder / "b", "goes")
    send(folder)
    there = elsewhere(folder, tmp_path, monkeypatch)
    whole, fetched = storage._download, []

    def download(file: Path) -> None:
        if not fetched:
            storage._remove(there / "b")
        fetched.append(file.name)
        whole(file)

    monkeypatch.setattr(storage, "_download", download)
    monkeypatch.setattr(storage, "AT_ONCE", 1)
    fetch(there)
    assert texts(there) == {"a": "stays"}
    assert fetched == ["a", "b", "a"]


def test_files_alone_leave_folders_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder / "a", "first")
    written(folder / "below" / "b", "second")
    send(folder)
    there = elsewhere(folder, tmp_path, monkeypatch)
    written(there / "below" / "mine", "kept")
    fetch(there, recursive=False)
    assert texts(there) == {"a": "first", "below/mine": "kept"}
    fetch(there / "below" / "b")
    assert texts(there)["below/b"] == "second"


def test_what_a_kill_leaves_is_what_was_here_a_moment_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    upload = storage._upload

    def note(file: Path) -> None:
        sent.append(file.name)
        upload(file)

    monkeypatch.setattr(storage, "_upload", note)
    for name in ("weights", "optimizer", "a-state"):
        written(folder / name, name)
    send(folder)
    assert sent == ["weights", "optimizer", "a-state"]
    written(folder / "weights", "newer")
    send(folder)
    send(folder)
    assert sent[3:] == ["weights"], "what the storage has is not sent again"


def test_a_folder_of_this_machine_is_left_as_it_is(tmp_path: Path) -> None:
    file = written(tmp_path / "a", "mine")
    fetch(tmp_path)
    send(tmp_path)
    assert (file.read_text(), is_copy(file), address(file)) == ("mine", False, str(file))
    assert local(str(file)) == local(file.as_uri()) == file


@pytest.mark.parametrize("place", [
    "s3://", "s3://bucket//x", "s3://bucket/../x", "s3://bucket/.hidden", "s3://key:secret@bucket/x",
    "ftp://host/x", "s3://b/x?y",
])  # fmt: skip
def test_an_address_that_leads_elsewhere_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match=r"must be s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"):
        local(place)
    with pytest.raises(ConfigError) as refused:
        local(place)
    assert "secret" not in str(refused.value)


def test_a_storage_that_is_away_or_refuses_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(local("s3://no-such-bucket/x/a"), "lost")
    with pytest.raises(StorageError) as refused:
        send(file)
    assert str(refused.value) == (
        "s3://no-such-bucket/x/a: cannot be sent (The specified bucket does not exist); check AWS_ENDPOINT_URL and your "
        "permissions"
    )
    with pytest.raises(StorageError, match=r"cannot be fetched \(The specified bucket does not exist\)"):
        fetch(file.parent)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    with pytest.raises(StorageError, match=r"cannot be fetched \(Connection refused\)"):
        fetch(folder)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "s3", "http://", "http://a b", "ftp://host"])
def test_an_impossible_storage_path_is_refused(folder: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    words = f"The value of AWS_ENDPOINT_URL is '{endpoint}', but must be http://HOST:PORT"
    with pytest.raises(ConfigError, match=words):
        fetch(folder)


def test_a_variable_that_is_empty_is_as_none(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")
    send(written(folder / "a", "there"))
    assert read(folder / "a") is not None


def test_google_cloud_storage_without_credentials_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, tmp_path / "one")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere")
    with pytest.raises(StorageError) as refused:
        fetch(local("gs://bucket/x"))
    assert str(refused.value) == (
        "gs://bucket/x: cannot be fetched (No such file or directory); check GOOGLE_APPLICATION_CREDENTIALS and your "
        "permissions"
    )


def test_a_large_file_travels_in_parts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = written(folder / "weights", "")
    large.write_bytes(os.urandom(12_000_000))
    send(folder)
    there = elsewhere(folder, tmp_path, monkeypatch)
    fetch(there)
    assert (there / "weights").read_bytes() == large.read_bytes()
    stored = read(there / "weights")
    assert "-" in stored[1]["e_tag"], "S3's mark of an object of several parts"


def test_an_object_is_written_over_the_version_that_was_read_alone(folder: Path) -> None:
    file = folder / "owner"
    assert read(file) is None
    first = write(file, b"one", None)
    with pytest.raises(OvertakenError, match=f"{address(file)}: another machine has written it in the meantime"):
        write(file, b"two", None)
    second = write(file, b"three", first)
    with pytest.raises(OvertakenError):
        write(file, b"four", first)
    assert read(file) == (b"three", second)
    remove(file)
    with pytest.raises(OvertakenError):
        write(file, b"five", second)
    assert read(file) is None


@pytest.mark.parametrize("kind", ["ignores", "refuses"])
def test_a_store_needs_conditional_writes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, tmp_path / "one")
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    with started(lambda: Store(tmp_path, kind)) as store:
        for key, value in store.environment.items():
            monkeypatch.setenv(key, value)
        owner = local(f"s3://{BUCKET}/owner")
        line = r"owner: the storage lacks conditional writes \(If-None-Match, If-Match\).* choose a store that has them"
        with pytest.raises(StorageError, match=line), (tmp_path / "lock").open("w") as lock:
            Lease(owner, lock, owner, print).claim("{}")


def test_keys_may_be_those_of_a_profile(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    team = "[team]\naws_access_key_id = a-key-of-a-file\naws_secret_access_key = secret\n"
    keys = written(tmp_path / "credentials", team)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_PROFILE", "team")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    storage._bucket.cache_clear()
    bucket, _ = storage._place(folder)
    provider = bucket.credential_provider
    assert provider is not None
    assert provider()["access_key_id"] == "a-key-of-a-file"
    send(written(folder / "a", "sent with it"))
    storage._bucket.cache_clear()


def test_the_mark_of_a_folder_that_a_web_console_made_is_no_file(folder: Path, store: Store, tmp_path: Path) -> None:
    put(store, f"{tmp_path.name}/", "")
    put(store, f"{tmp_path.name}/below/", "")
    put(store, f"{tmp_path.name}/below/empty", "")
    fetch(folder)
    assert texts(folder) == {"below/empty": ""}


def put(store: Store, key: str, text: str = "x") -> None:
    client = boto3.client(
        "s3",
        endpoint_url=store.environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="x",
        aws_secret_access_key="x",
        region_name=store.environment["AWS_REGION"],
    )
    client.put_object(Bucket=BUCKET, Key=key, Body=text.encode())


@pytest.mark.parametrize("name", [
    "../../../../outside", "below/../../outside", "./a", "below//b", "back\\slash", "..\\outside", "bell\x07",
    "right\u202eleft", "n" * 201,
])  # fmt: skip
def test_a_name_that_leaves_the_storage_is_refused(folder: Path, store: Store, tmp_path: Path, name: str) -> None:
    put(store, f"{tmp_path.name}/kept", "x")
    put(store, f"{tmp_path.name}/{name}", "poison")
    with pytest.raises(StorageError, match="a name must not contain"):
        fetch(folder)
    assert "poison" not in {path.read_text() for path in tmp_path.rglob("*") if path.is_file()}


def test_names_that_one_disk_would_take_for_another_are_refused(folder: Path, store: Store, tmp_path: Path) -> None:
    put(store, f"{tmp_path.name}/Notes", "one")
    put(store, f"{tmp_path.name}/notes", "two")
    with pytest.raises(StorageError, match="differ from another one only in case"):
        fetch(folder)


def test_a_folder_of_the_storage_that_leads_elsewhere_is_refused(folder: Path, store: Store, tmp_path: Path) -> None:
    put(store, f"{tmp_path.name}/../x")
    with pytest.raises(StorageError, match="a name must not contain"):
        folders(folder)


def test_names_with_spaces_and_letters_of_any_language_are_fetched(folder: Path, store: Store, tmp_path: Path) -> None:
    put(store, f"{tmp_path.name}/B\u00fccher/a b (1).txt", "x")
    fetch(folder)
    assert texts(folder) == {"B\u00fccher/a b (1).txt": "x"}


@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    strategies.lists(strategies.text(strategies.sampled_from("aB./\\\n\x00~ -\u202e\ud800"), max_size=8), max_size=6)
)
def test_whatever_a_storage_lists_stays_inside(folder: Path, keys: list[str]) -> None:
    place = "/".join(folder.relative_to(storage._copies()).parts[2:])
    try:
        found = storage._local_paths(folder, [f"{place}/{key}" for key in keys])
    except StorageError:
        return
    assert len({str(path).casefold() for path in found}) == len(found)
    for path in found:
        assert path.is_relative_to(folder)
        assert path != folder
        assert ".." not in path.parts


def test_own_data_is_read_from_the_storage(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(folder / "plays.txt", "\n\n".join(f"Speech {number}" for number in range(20)))
    send(folder)
    place = f"{address(folder)}/plays.txt"
    elsewhere(folder, tmp_path, monkeypatch)
    corpus = load_own(RunConfig(task="text", train=place))
    assert {split: len(rows) for split, rows in corpus.splits.items()} == {"train": 16, "dev": 2, "test": 2}
    with pytest.raises(DataError, match=r"^s3://.*/plays.csv: there is no such file or folder$"):
        load_own(RunConfig(task="text", train=place.replace("txt", "csv")))
