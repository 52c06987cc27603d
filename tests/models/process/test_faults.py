"""Faults from outside, each one real, and the table of them all in docs/faults.md."""

import ast
import datetime
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from models.files.layout import TargetPaths, read_json
from models.process.job import run_job
from tests.conftest import PROJECT
from tests.models.process.test_job import CHILD, prepare_target, undisturbed_weights
from tests.processes import wait_for

SETTINGS = {"epochs": 3, "dropout": 0.2}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    return undisturbed_weights(dataset, tmp_path_factory.mktemp("undisturbed") / "t", **SETTINGS)


@pytest.fixture
def disk(tmp_path):
    """A file system of 6 MiB: one checkpoint fits, its successor beside it does not."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], check=False).returncode:
        pytest.skip("this machine does not let anybody mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def remount(place, option):
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True)


@root_only
def test_a_disk_that_is_full(dataset, undisturbed, disk):
    """The target fails with a sentence, what lies there stays whole, and with room the same job goes on."""
    (disk / "finished").mkdir()
    (disk / "finished" / "weights.safetensors").write_bytes(undisturbed[: 2**20])
    paths = TargetPaths(prepare_target(disk / "t", storage_minutes=0.01, **SETTINGS))
    outcome = run_job(dataset, paths.root, watch_parent=False)
    assert outcome["status"] == "failed"
    assert re.search(r"last\.ckpt could not be written for .*No space left.*bytes are needed", outcome["error"])
    assert read_json(paths.outcome) == outcome
    assert (disk / "finished" / "weights.safetensors").read_bytes() == undisturbed[: 2**20]
    remount(disk, "size=64m")
    again = run_job(dataset, paths.root, watch_parent=False)
    assert (again["status"], again["damaged"]) == ("ok", [])
    assert paths.weights.read_bytes() == undisturbed


@root_only
def test_storage_that_is_away_for_a_while(dataset, undisturbed, disk):
    """The training waits and goes on by itself."""
    remount(disk, "size=64m")
    paths = TargetPaths(prepare_target(disk / "t", **SETTINGS))
    away = []

    def fail_for_a_while(row):
        if row["epoch"] == 1:
            remount(disk, "ro")
            away.append(time.monotonic())
            threading.Timer(1.5, lambda: (away.append(time.monotonic()), remount(disk, "rw"))).start()

    outcome = run_job(dataset, paths.root, fail_for_a_while, watch_parent=False)
    assert (outcome["status"], outcome["attempt"], len(away)) == ("ok", 1, 2)
    assert paths.weights.read_bytes() == undisturbed


def test_a_clock_that_jumps(dataset, undisturbed, tmp_path, monkeypatch):
    """A day ahead, a day back at every look: only the times in the outcome are wrong."""
    real, looks = time.time, [0]

    def jumping():
        looks[0] += 1
        return real() + 86_400 * (-1) ** looks[0]

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, zone=None):
            return cls.fromtimestamp(jumping(), zone)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr("models.process.job.datetime", Jumping)
    paths = TargetPaths(prepare_target(tmp_path / "t", checkpoint_minutes=0.001, **SETTINGS))

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(dataset, paths.root, stop, watch_parent=False)
    outcome = run_job(dataset, paths.root, watch_parent=False)
    assert (outcome["status"], outcome["attempt"]) == ("ok", 2)
    assert paths.weights.read_bytes() == undisturbed
    assert looks[0] >= 3


@pytest.mark.slow
def test_an_orphan_that_wakes_up_after_its_successor(dataset, undisturbed, tmp_path):
    """A trainer is stopped, another attempt finishes the target, the trainer goes on: it ends and changes nothing."""
    paths = TargetPaths(prepare_target(tmp_path / "t", **SETTINGS))
    orphan = subprocess.Popen([sys.executable, "-c", CHILD, dataset, paths.root, "watch"], cwd=PROJECT)
    wait_for(paths.attempt(1).checkpoint.exists)
    orphan.send_signal(signal.SIGSTOP)
    outcome = run_job(dataset, paths.root, watch_parent=False)
    orphan.send_signal(signal.SIGCONT)
    orphan.wait(timeout=120)
    assert (outcome["status"], outcome["attempt"]) == ("ok", 2)
    assert read_json(paths.outcome) == outcome
    assert paths.weights.read_bytes() == undisturbed


def test_every_fault_of_the_table_has_its_test():
    page = (PROJECT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    assert len(rows) >= 25
    for row in rows:
        assert row.count(" | ") == 3, row
        named = re.findall(r"`([\w/]*test_\w+)\.py::(test_\w+)`", row.rpartition(" | ")[2])
        assert named, f"no test in: {row}"
        for file, test in named:
            module = ast.parse((PROJECT / "tests" / f"{file}.py").read_text(encoding="utf-8"))
            assert test in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"
