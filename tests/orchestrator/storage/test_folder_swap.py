"""orchestrator/storage/folder_swap.py: a folder is the old one or the new one, whatever ends the process that
makes it anew.
"""

import json
import subprocess
import sys

import pytest

from orchestrator.storage.folder_swap import building, recover
from tests.conftest import PROJECT

# Makes `goal` anew in a child that ends by SIGKILL at its n-th line of the module, for every n; tells what it left.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from orchestrator.storage import folder_swap

goal, exchange, found = Path(sys.argv[1]), sys.argv[2] == "exchange", []
os.fsync = lambda descriptor: None  # a kill is no power cut, and a disk that others use is slow
if not exchange:
    folder_swap._exchange = lambda one, other: False

def write(folder, text):
    (folder / "weights").mkdir()
    for name in ("weights/a", "bundle.json"):
        (folder / name).write_text(text)

def texts(folder):
    return sorted((folder / name).read_text() for name in ("weights/a", "bundle.json"))

def child(last):
    seen = 0
    def trace(frame, event, word):
        nonlocal seen
        if frame.f_code.co_filename != folder_swap.__file__:
            return None
        seen += event == "line"
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    with folder_swap.building(goal) as build:
        write(build, "new")
    sys.settrace(None)

for last in range(1, 10_000):
    with folder_swap.building(goal) as build:  # the next command: it finds what a kill left
        write(build, "old")
    beside = sorted(path.name for path in goal.parent.iterdir())
    pid = os.fork()
    if pid == 0:
        child(last)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    at_once = goal.is_dir()
    folder_swap.recover(goal)  # as every reader does
    found.append({"texts": texts(goal), "at_once": at_once, "beside": beside, "killed": status != 0})
    if status == 0:
        break
print(json.dumps(found))
"""


def fill(folder, text):
    (folder / "bundle.json").write_text(text)


@pytest.mark.parametrize("way", ["exchange", pytest.param("two renames", marks=pytest.mark.slow)])
def test_killed_at_any_line_the_old_or_the_new_one_is_there(tmp_path, way):
    """`two renames`: as on a file system that cannot exchange two folders, where a reader puts the old one back."""
    goal = tmp_path / "place" / "bundle"
    words = [sys.executable, "-c", KILLED, str(goal), way]
    found = json.loads(subprocess.run(words, cwd=PROJECT, check=True, capture_output=True, text=True).stdout)
    assert len(found) > 40
    assert [one["killed"] for one in found] == [True] * (len(found) - 1) + [False]
    assert {tuple(one["texts"]) for one in found} == {("old", "old"), ("new", "new")}
    assert found[-1]["texts"] == ["new", "new"]
    assert all(one["beside"] == ["bundle"] for one in found)  # what killed builds left is gone with the next one
    assert all(one["at_once"] for one in found) == (way == "exchange")


def test_a_failure_leaves_what_was_there_and_nothing_beside(tmp_path):
    goal = tmp_path / "bundle"
    with building(goal) as build:
        fill(build, "old")
        assert not goal.exists()
    with pytest.raises(FileExistsError), building(goal) as build:
        build.mkdir()
    assert (goal / "bundle.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [goal]


def test_a_living_build_is_not_swept_away(tmp_path):
    goal = tmp_path / "my.bundle"
    with building(goal) as slow:
        fill(slow, "slow")
        with building(goal) as quick:
            fill(quick, "quick")
        assert (goal / "bundle.json").read_text() == "quick"
    assert (goal / "bundle.json").read_text() == "slow"
    assert list(tmp_path.iterdir()) == [goal]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "v1").mkdir()
    (tmp_path / "current").symlink_to("v1")
    with building(tmp_path / "current") as build:
        fill(build, "new")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "bundle.json").read_text() == "new"


def test_places_where_no_folder_can_be_swapped_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file. Give a folder"), building(tmp_path / "file"):
        pass
    with pytest.raises(ValueError, match="is a mount point"), building("/proc"):
        pass
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="was given in it"), building("."):
        pass
    recover(tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here"]
