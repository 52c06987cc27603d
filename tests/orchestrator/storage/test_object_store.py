"""orchestrator/storage/object_store.py against a real S3 server on loopback."""

import contextlib
import resource
import threading
from pathlib import Path

import pytest

from orchestrator.storage import object_store as module
from orchestrator.storage.object_store import StorageError, Store, insist, is_remote, parse_place


def test_places_are_folders_or_uris():
    assert parse_place("runs/one") == Path("runs/one")
    assert parse_place(Path("a")) == Path("a")
    assert parse_place("file:///data/chexpert") == Path("/data/chexpert")
    assert parse_place("s3://bucket//folder/sub/") == "s3://bucket/folder/sub"
    assert parse_place("gs://bucket/folder") == "gs://bucket/folder"
    assert is_remote("gs://bucket/folder")
    assert not is_remote(Path("s3:/bucket/folder"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s4://bucket/run", "starts with s4://. Give a folder, or one of: file://, s3://, gs://"),
        ("s3:/bucket/run", "Did you mean s3://bucket/run?"),
        ("s3://bucket", "has no folder"),
        ("s3:///run", "has no bucket"),
        ("file://data", "names no file of this machine"),
    ],
)
def test_a_typo_is_told(text, says):
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        parse_place(text)


def test_objects_are_written_read_listed_and_deleted(storage):
    store = Store(storage.uri).check()
    assert store.list() == {}
    store.write("a/one.json", b"1")
    store.write("a/two.json", b"22")
    assert store.read("a/two.json")[0] == b"22"
    assert {name: entry.size for name, entry in store.list("a").items()} == {"a/one.json": 1, "a/two.json": 2}
    store.delete(["a/one.json", "a/never.json"])
    assert list(store.list()) == ["a/two.json"]
    with pytest.raises(FileNotFoundError):
        store.read("a/one.json")


def test_a_large_file_goes_and_comes_in_parts(storage, tmp_path, monkeypatch):
    part = 5 * 2**20  # the smallest that S3 takes
    monkeypatch.setattr(module, "PART_BYTES", part)
    content = bytes(range(256)) * (2 * part // 256) + b"the end"
    source, goal = tmp_path / "source", tmp_path / "goal"
    source.write_bytes(content)
    store = Store(storage.uri)
    tag = store.write("large", source)
    entry = store.list()["large"]
    assert entry.size == len(content)
    assert entry.tag == tag
    store.download("large", goal, entry)
    assert goal.read_bytes() == content
    store.write("large", b"another")
    with pytest.raises(StorageError, match="was replaced while it was read"):
        store.download("large", goal, entry)


def test_a_disk_that_takes_half_of_what_it_is_given_is_no_download(storage, tmp_path):
    """The limit on a file's size is met in the middle of a write: its first half is written, without an error."""
    store, content = Store(storage.uri), bytes(range(256)) * 40
    store.write("object", content)
    entry, limits = store.list()["object"], resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.download("object", tmp_path / "object", entry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.download("object", tmp_path / "object", entry)
    assert (tmp_path / "object").read_bytes() == content


def test_an_answer_that_is_cut_off_loses_no_line(storage):
    """What was there before would be written back by half."""
    store = Store(storage.uri)
    store.append("log", b"first\n")
    storage.cut = "/log"
    with contextlib.suppress(StorageError):
        store.append("log", b"second\n")
    assert storage.cut == ""
    assert store.read("log")[0] in (b"first\n", b"first\nsecond\n")


def test_of_two_who_create_one_does_and_replacing_needs_the_last_tag(storage):
    store = Store(storage.uri)
    first = store.create("claim", b"mine")
    assert first
    assert store.create("claim", b"yours") is None
    second = store.replace("claim", b"mine again", first)
    assert second != first
    assert store.replace("claim", b"late", first) is None
    assert store.replace("absent", b"late", first) is None
    assert store.read("claim")[0] == b"mine again"


def test_lines_that_several_append_are_all_kept(storage):
    store = Store(storage.uri)
    writers = [threading.Thread(target=store.append, args=("log", f"{one}\n".encode())) for one in range(6)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert sorted(store.read("log")[0].split()) == [str(one).encode() for one in range(6)]


def test_a_wrong_bucket_is_one_sentence(storage):
    with pytest.raises(StorageError, match=f"There is no bucket 'elsewhere' at {storage.endpoint}. Correct the URI"):
        Store("s3://elsewhere/run").check()
    with pytest.raises(StorageError, match="There is no bucket 'elsewhere'"):
        Store("s3://elsewhere/run").write("a", b"")


def test_missing_credentials_are_one_sentence(storage, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # in the place of a cloud's own
    with pytest.raises(StorageError, match="No credentials for s3://house. Set AWS_ACCESS_KEY_ID and"):
        Store(storage.uri, patience=0.5).list()


def test_a_storage_that_does_not_answer_is_told_and_waited_for(storage, monkeypatch):
    store = Store(storage.uri, patience=0.2)
    storage.away = True
    with pytest.raises(StorageError, match=f"{storage.endpoint} does not answer for s3://house"):
        store.write("a", b"1")

    def back(seconds: float) -> None:
        storage.away = False

    monkeypatch.setattr(module.time, "sleep", back)
    insist(lambda: store.write("a", b"1"), 60)
    assert store.read("a")[0] == b"1"
