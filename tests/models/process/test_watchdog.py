"""models/process/watchdog.py: real hangs in processes of their own end as an outcome; slow and stopped ones do not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from models.files.layout import AttemptPaths, TargetPaths, read_json
from models.process.watchdog import HUNG, Watchdog
from tests.conftest import PROJECT
from tests.models.process.test_job import prepare_target
from tests.processes import wait_for
from tests.small_data import make_dataset

# Trains; its 20th batch reads from a pipe that nobody writes to.
CHILD = """
import os, sys
from pathlib import Path
import models.data.loading
from models.process.job import run_job
whole, count = models.data.loading.normalise, 0
def normalise(*words):
    global count
    count += 1
    if count == 20:
        os.mkfifo(sys.argv[3])
        open(sys.argv[3]).read()
    return whole(*words)
models.data.loading.normalise = normalise
run_job(Path(sys.argv[1]), Path(sys.argv[2]))
"""
# Only the watchdog, with a sign of life every 50 ms for two seconds; {hang} after the first ten.
ALONE = """
import ctypes, sys, time
from pathlib import Path
from models.process.watchdog import Watchdog
dog = Watchdog(Path(sys.argv[1]) / "1" / "stacks.txt", 0.8, lambda stacks: None)
dog.start()
for number in range(40):
    dog.beat()
    time.sleep(0.05)
    if number == 10:
        (Path(sys.argv[1]) / "mark").touch()
        {hang}
dog.stop()
"""


@pytest.mark.slow
def test_a_hung_step_becomes_an_outcome_with_every_stack(tmp_path):
    dataset = make_dataset(tmp_path / "dataset")
    root = prepare_target(tmp_path / "t", watchdog_minutes=0.05, epochs=50)
    words = [sys.executable, "-c", CHILD, dataset, root, tmp_path / "fifo"]
    child = subprocess.Popen(words, cwd=PROJECT, stderr=subprocess.DEVNULL)
    assert child.wait(timeout=120) == HUNG
    outcome = read_json(TargetPaths(root).outcome)
    assert (outcome["status"], outcome["attempt"], outcome["pid"]) == ("hung", 1, child.pid)
    assert "watchdog_minutes" in outcome["error"]
    assert "in normalise" in outcome["traceback"]  # where it hangs
    assert "in train_epoch" in outcome["traceback"]
    assert "in _watch" in outcome["traceback"]  # the other threads too


def alone(tmp_path, hang):
    return subprocess.Popen([sys.executable, "-c", ALONE.format(hang=hang), tmp_path], cwd=PROJECT)


def test_a_hang_that_stops_the_interpreter_leaves_its_stacks(tmp_path):
    """No line of Python can run then, so the launcher makes the outcome of what lies in the file."""
    assert alone(tmp_path, "ctypes.PyDLL(None).sleep(1000)").wait(timeout=60) == 1
    assert 'File "<string>", line 12' in (tmp_path / "1" / "stacks.txt").read_text()


def test_a_stopped_process_does_not_hang(tmp_path):
    """As when a laptop is suspended: the limit passes, and it goes on."""
    child = alone(tmp_path, "pass")
    wait_for((tmp_path / "mark").exists)
    child.send_signal(signal.SIGSTOP)
    time.sleep(0.75)
    child.send_signal(signal.SIGCONT)
    assert child.wait(timeout=60) == 0


def watched(tmp_path, limit):
    told = []
    dog = Watchdog(AttemptPaths(tmp_path / "1").stacks, limit, told.append)
    dog._bark = lambda: told.append("bark")
    return dog, told


def test_signs_of_life_and_rest_keep_it_quiet(tmp_path):
    dog, told = watched(tmp_path, 0.2)
    dog.start()
    for _ in range(10):
        dog.beat()
        time.sleep(0.05)
    with dog.resting():
        time.sleep(0.5)
    dog.stop()
    assert told == []
    assert not dog.stacks.exists()


def test_a_slow_step_raises_what_is_allowed(tmp_path):
    dog, _ = watched(tmp_path, 0.2)
    dog.beat()
    time.sleep(0.06)
    dog.beat()
    assert dog.longest >= 0.05


def test_without_a_limit_nothing_runs(tmp_path):
    dog, _ = watched(tmp_path, 0.0)
    dog.start()
    dog.stop()
    assert not dog.thread.is_alive()
    assert os.listdir(tmp_path) == []
