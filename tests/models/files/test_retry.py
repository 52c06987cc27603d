"""models/files/retry.py: writes to file systems that really fail, for a while or for good."""

import errno
import logging
import os
import subprocess

import pytest

from models.files.layout import append_json_line, read_json_lines, write_bytes
from models.files.retry import Retry, StorageFailed

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False)
    if done.returncode:
        pytest.skip("this machine does not let anybody mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def remount(place, option):
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True)


class Later:
    """Does something when it is called the second time."""

    def __init__(self, action):
        self.action, self.calls = action, 0

    def __call__(self):
        self.calls += 1
        if self.calls == 2:
            self.action()


@root_only
def test_a_full_disk_is_waited_for_until_there_is_room(small_disk):
    path = small_disk / "file"
    write_bytes(path, b"old")
    meanwhile = Later(lambda: remount(small_disk, "size=2m"))
    data = bytes(500_000)
    Retry(seconds=60, meanwhile=meanwhile).write(lambda: write_bytes(path, data), path, len(data))
    assert path.read_bytes() == data
    assert meanwhile.calls >= 2
    assert os.listdir(small_disk) == ["file"]


@root_only
def test_a_disk_that_stays_full_is_named_with_what_it_takes(small_disk):
    path = small_disk / "file"
    write_bytes(path, b"old")
    with pytest.raises(StorageFailed, match=r"file could not be written for 0\.0 minutes: No space left") as caught:
        Retry(seconds=0.1).write(lambda: write_bytes(path, bytes(500_000)), path, 500_000)
    assert "500,000 bytes are needed, 2" in str(caught.value)
    assert "are free" in str(caught.value)
    assert "Make room and give the same command again" in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["file"]


@root_only
def test_storage_that_goes_away_and_comes_back(small_disk, caplog):
    path = small_disk / "file"
    remount(small_disk, "ro")
    meanwhile = Later(lambda: remount(small_disk, "rw"))
    with caplog.at_level(logging.WARNING):
        Retry(seconds=60, meanwhile=meanwhile).write(lambda: write_bytes(path, b"new"), path)
    assert path.read_bytes() == b"new"
    assert "Read-only file system; trying again" in caplog.text


@root_only
def test_a_line_is_appended_whole_or_not_at_all(small_disk):
    """A disk that fills up takes the first half of a line, and says so only by the number of bytes."""
    path = small_disk / "lines.jsonl"
    append_json_line(path, {"a": 1})
    with pytest.raises(OSError, match="No space left"):
        append_json_line(path, {"long": "x" * 400_000})
    remount(small_disk, "size=2m")
    append_json_line(path, {"b": 2})
    assert read_json_lines(path) == [{"a": 1}, {"b": 2}]
    assert path.read_text() == '{"a": 1}\n{"b": 2}\n'


def test_what_is_no_storage_trouble_is_raised_at_once(tmp_path):
    def absent():
        raise FileNotFoundError(errno.ENOENT, "gone")

    with pytest.raises(FileNotFoundError):
        Retry(seconds=60).write(absent, tmp_path)


def test_the_waiting_can_be_ended_from_outside(tmp_path):
    def full():
        raise OSError(errno.ENOSPC, "full")

    def end():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Retry(seconds=60, meanwhile=end).write(full, tmp_path)
