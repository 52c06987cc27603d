"""models/process/resume.py: a new attempt goes on from the newest checkpoint that is whole, and ends at the
same bytes.
"""

import os
import signal
import subprocess
import sys

import pytest

from models.files.layout import TEMPORARY_PREFIX, TargetPaths, read_json
from models.process.job import run_job
from tests.conftest import PROJECT
from tests.models.process.test_job import prepare_target, train, undisturbed_weights

SETTINGS = {"epochs": 3, "dropout": 0.2}

# Trains, and is killed when a checkpoint is written but does not have its name yet.
KILLED = """
import os, signal, sys
from pathlib import Path
whole, count = os.replace, 0
def replace(source, goal):
    global count
    count += Path(goal).name == "last.ckpt"
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(source, goal)
os.replace = replace
from models.process.job import run_job
run_job(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    return undisturbed_weights(dataset, tmp_path_factory.mktemp("undisturbed") / "t", **SETTINGS)


def stopped_after(dataset, root, epochs):
    """A target whose training was stopped when so many epochs were done."""

    def stop(row):
        if row["epoch"] == epochs:
            raise KeyboardInterrupt

    if not root.exists():
        prepare_target(root, **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        run_job(dataset, root, stop, watch_parent=False)
    return TargetPaths(root)


def flip(path, at=-1000):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def go_on(dataset, paths):
    outcome = run_job(dataset, paths.root, watch_parent=False)
    assert outcome["status"] == "ok", outcome
    return outcome["continued_from"], outcome["damaged"]


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(dataset, undisturbed, tmp_path):
    paths = stopped_after(dataset, tmp_path / "t", 2)
    flip(paths.attempt(1).checkpoint)
    assert go_on(dataset, paths) == ("attempts/1/previous.ckpt", ["attempts/1/last.ckpt"])
    assert paths.weights.read_bytes() == undisturbed


def test_a_truncated_checkpoint_too_and_the_attempt_before_that(dataset, undisturbed, tmp_path):
    paths = stopped_after(dataset, tmp_path / "t", 1)
    stopped_after(dataset, paths.root, 2)
    newest = paths.attempt(2)
    for path in (newest.checkpoint, newest.previous):
        path.write_bytes(path.read_bytes()[:5000])
    expected = ["attempts/2/last.ckpt", "attempts/2/previous.ckpt"]
    assert go_on(dataset, paths) == ("attempts/1/last.ckpt", expected)
    assert paths.weights.read_bytes() == undisturbed


def test_best_weights_that_are_damaged_are_not_published(dataset, undisturbed, tmp_path):
    paths = stopped_after(dataset, tmp_path / "t", 2)
    flip(paths.attempt(1).best)
    assert go_on(dataset, paths) == (None, ["attempts/1/last.ckpt", "attempts/1/previous.ckpt"])
    assert paths.weights.read_bytes() == undisturbed


def test_only_the_newest_attempts_keep_their_checkpoints(dataset, tmp_path):
    root = prepare_target(tmp_path / "t", epochs=5)
    for epoch in range(1, 5):
        paths = stopped_after(dataset, root, epoch)
    assert [paths.attempt(number).checkpoint.exists() for number in (1, 2, 3, 4)] == [False, False, True, True]
    go_on(dataset, paths)
    assert not [path for number in range(1, 6) for path in paths.attempt(number).root.glob("*.ckpt")]


@pytest.mark.slow
def test_killed_in_the_middle_of_a_checkpoint(dataset, undisturbed, tmp_path):
    paths = TargetPaths(prepare_target(tmp_path / "t", **SETTINGS))
    done = subprocess.run([sys.executable, "-c", KILLED, dataset, paths.root], cwd=PROJECT, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    half = [name for name in os.listdir(paths.attempt(1).root) if name.startswith(TEMPORARY_PREFIX)]
    assert [name.rpartition("-")[2] for name in half] == ["last.ckpt"]
    assert go_on(dataset, paths) == ("attempts/1/last.ckpt", [])
    assert paths.weights.read_bytes() == undisturbed
    assert not list(paths.root.rglob(f"{TEMPORARY_PREFIX}*"))


def test_a_hung_outcome_is_no_end(tmp_path):
    from models.files.layout import write_json
    from models.process.resume import ended_as

    paths = TargetPaths(tmp_path)
    assert ended_as(tmp_path) is None
    write_json(paths.outcome, {"status": "nan"})
    assert ended_as(tmp_path) == "nan"
    write_json(paths.outcome, {"status": "hung"})
    assert ended_as(tmp_path) is None
    assert not paths.outcome.exists()


def test_a_loss_that_is_no_number_keeps_the_last_good_weights(dataset, tmp_path, monkeypatch):
    """The rate becomes absurd in the third epoch: the outcome says where the second one's weights are."""
    import models.training.loop
    from models.files.checksummed import load_weights

    normal = models.training.loop.set_learning_rate

    def absurd(optimiser, config, update, total):
        normal(optimiser, config, update, total)
        if update >= 2 * total // 3 + 2:
            for group in optimiser.param_groups:
                group["lr"] = 1e38

    monkeypatch.setattr(models.training.loop, "set_learning_rate", absurd)
    outcome = train(dataset, tmp_path / "t", epochs=3)
    paths = TargetPaths(tmp_path / "t")
    assert outcome["status"] == "nan"
    assert read_json(paths.outcome)["last_good_weights"] == "attempts/1/best.safetensors"
    assert all(value.isfinite().all() for value in load_weights(paths.attempt(1).best).values())
    assert (paths.root / outcome["last_checkpoint"]).exists()
    assert not paths.weights.exists()
