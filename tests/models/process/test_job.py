"""The single-target trainer through its files: results, repeatability to the bit, resume after a kill, failures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from models.config import TrainConfig
from models.data.targets import Targets
from models.files.layout import TargetPaths, read_json, read_json_lines, write_json
from models.process.job import Superseded, run_job
from models.statistics.metrics import auc
from tests.conftest import PROJECT
from tests.processes import kill_delays
from tests.small_data import disc_films, make_dataset, make_targets, write_dataset

SETTINGS = {"backbone": "test_resnet", "epochs": 3, "batch_size": 16, "learning_rate": 5e-3, "precision": "fp32",
            "device": "cpu", "threads": 1}  # fmt: skip

CHILD = """import sys; from pathlib import Path; from models.process.job import run_job
run_job(Path(sys.argv[1]), Path(sys.argv[2]), watch_parent=bool(sys.argv[3]))"""


def truth_of(films=180, seed=0):
    return (np.random.default_rng(seed).random(films) < 0.4).astype(float)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


def prepare_target(root: Path, targets: Targets | None = None, **settings) -> Path:
    paths = TargetPaths(root)
    paths.root.mkdir(parents=True)
    (targets or make_targets(truth_of())).save(paths.targets)
    write_json(paths.config, {"config": TrainConfig(**(SETTINGS | settings)).to_dict()})
    return root


def train(dataset, root, **settings):
    return run_job(dataset, prepare_target(root, **settings), watch_parent=False)


def undisturbed_weights(dataset, root, **settings) -> bytes:
    """The weight file of a training that nothing happens to."""
    train(dataset, root, **settings)
    return TargetPaths(root).weights.read_bytes()


def test_a_job_learns_and_publishes(dataset, tmp_path):
    outcome = train(dataset, tmp_path / "t", epochs=8)
    paths = TargetPaths(tmp_path / "t")
    assert outcome["status"] == "ok"
    assert read_json(paths.outcome) == outcome
    assert outcome["pid"] == os.getpid()
    assert outcome["peak_memory_bytes"] > 50 * 2**20
    assert outcome["started"] < outcome["ended"]
    table = parquet.read_table(paths.predictions).to_pydict()
    assert sorted(set(table["part"])) == ["calibrate", "select", "test"]
    truth = dict(zip(make_targets(truth_of()).image_id.astype(str), truth_of(), strict=True))
    found = np.array([truth[name] for name in table["image_id"]])
    assert auc(np.array(table["logit"]), found) > 0.8
    history = read_json_lines(paths.attempt(1).history)
    assert [row["epoch"] for row in history] == list(range(1, 9))
    for name in ("loss", "auc", "average_precision", "recall", "precision", "f1"):
        assert {f"train_{name}", f"select_{name}"} <= set(history[0])
    assert not paths.attempt(1).checkpoint.exists()


def test_same_data_config_and_seed_give_the_same_bytes(dataset, tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(dataset, tmp_path / name, seed=seed, dropout=0.2)
        weights.append(TargetPaths(tmp_path / name).weights.read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_killed_anywhere_it_ends_where_an_unbroken_one_does(dataset, tmp_path):
    """A child trains with a checkpoint after every step, is killed at a random moment, and a second one goes on."""
    settings = {"epochs": 4, "dropout": 0.2, "checkpoint_minutes": 0.0}
    train(dataset, tmp_path / "unbroken", **settings)
    broken = prepare_target(tmp_path / "broken", **settings)
    paths = TargetPaths(broken)
    for delay in kill_delays(2):
        child = subprocess.Popen([sys.executable, "-c", CHILD, dataset, broken, ""], cwd=PROJECT)
        newest = paths.newest_attempt()
        number = newest.number + 1 if newest else 1
        while not paths.attempt(number).checkpoint.exists() and child.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
    outcome = run_job(dataset, broken, watch_parent=False)
    assert outcome["status"] == "ok"
    assert outcome["attempt"] == 3
    assert paths.weights.read_bytes() == TargetPaths(tmp_path / "unbroken").weights.read_bytes()
    assert paths.predictions.read_bytes() == TargetPaths(tmp_path / "unbroken").predictions.read_bytes()
    assert _history(paths, 3) == _history(TargetPaths(tmp_path / "unbroken"), 1)


EVERYTHING = {"epochs": 3, "schedule": "cosine", "averaging": 0.9, "accumulate": 2, "mixup": 0.3, "noise": 0.2,
              "erasing": 0.3, "start_size": 0.5, "frozen_epochs": 1, "backbone_rate": 0.5, "dropout": 0.1,
              "loss": "asymmetric", "label_smoothing": 0.05, "checkpoint_minutes": 0.0}  # fmt: skip


def test_the_whole_recipe_goes_on_to_the_bit(dataset, tmp_path):
    """Every part of the recipe at once, stopped after each epoch by a successor that takes over."""
    train(dataset, tmp_path / "unbroken", **EVERYTHING)
    paths = TargetPaths(prepare_target(tmp_path / "broken", **EVERYTHING))

    class Stop(BaseException):
        pass

    def stop(row):
        raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            run_job(dataset, paths.root, stop, watch_parent=False)
    assert run_job(dataset, paths.root, watch_parent=False)["attempt"] == 3
    assert paths.weights.read_bytes() == TargetPaths(tmp_path / "unbroken").weights.read_bytes()


def _history(paths, number):
    timing = ("seconds", "images_per_second")
    return [
        {name: value for name, value in row.items() if name not in timing}
        for row in read_json_lines(paths.attempt(number).history)
    ]


def test_a_truncated_checkpoint_is_not_trusted(dataset, tmp_path):
    train(dataset, tmp_path / "whole")
    paths = TargetPaths(prepare_target(tmp_path / "cut"))
    attempt = paths.new_attempt()
    attempt.checkpoint.write_bytes(b"\x40" * 1000)
    attempt.history.write_text(json.dumps({"epoch": 1}) + "\n")
    assert run_job(dataset, paths.root, watch_parent=False)["status"] == "ok"
    assert paths.weights.read_bytes() == TargetPaths(tmp_path / "whole").weights.read_bytes()
    assert len(read_json_lines(paths.attempt(2).history)) == SETTINGS["epochs"]


def test_one_class_in_train_is_an_outcome_with_its_reason(dataset, tmp_path):
    root = prepare_target(tmp_path / "t", make_targets(np.zeros(180)))
    outcome = run_job(dataset, root, watch_parent=False)
    assert outcome["status"] == "failed"
    assert "0 positives and 100 negatives" in outcome["error"]
    assert "Traceback" in outcome["traceback"]
    assert not TargetPaths(root).weights.exists()


def test_a_loss_that_is_no_number_stops_the_target(dataset, tmp_path):
    outcome = train(dataset, tmp_path / "t", learning_rate=1e30, clip=0.0)
    assert outcome["status"] == "nan"
    assert "learning_rate" in outcome["error"]


def test_few_positives_in_select_choose_by_log_loss(dataset, tmp_path):
    outcome = train(dataset, tmp_path / "t")
    assert outcome["selection_rule"] == "log_loss"
    assert "positives" in outcome["selection_reason"]


def test_select_without_positives_takes_the_last_epoch(tmp_path):
    truth = truth_of()
    targets = make_targets(truth)
    truth[targets.all_of("select")] = 0
    data = write_dataset(tmp_path / "dataset", {"pneumonia": truth}, disc_films(truth))
    outcome = run_job(data, prepare_target(tmp_path / "t", make_targets(truth)), watch_parent=False)
    assert (outcome["selection_rule"], outcome["best_epoch"]) == ("last_epoch", SETTINGS["epochs"])


def test_an_older_attempt_does_not_publish(dataset, tmp_path):
    root = prepare_target(tmp_path / "t")
    paths = TargetPaths(root)

    def successor_starts(row):
        if row["epoch"] == 1:
            paths.new_attempt()

    with pytest.raises(Superseded, match="Attempt 2"):
        run_job(dataset, root, successor_starts, watch_parent=False)
    assert not paths.outcome.exists()
    assert not paths.weights.exists()


def test_a_trainer_whose_parent_is_gone_ends_itself(dataset, tmp_path):
    paths = TargetPaths(prepare_target(tmp_path / "t", epochs=10_000))
    parent = (
        "import subprocess, sys, time; from pathlib import Path\n"
        "child = subprocess.Popen([sys.executable, '-c', *sys.argv[2:]])\n"
        "while not Path(sys.argv[1]).exists() and child.poll() is None: time.sleep(0.05)\n"
        "print(child.pid, flush=True)"
    )
    words = [paths.attempt(1).checkpoint, CHILD, dataset, paths.root, "watch"]
    done = subprocess.run([sys.executable, "-c", parent, *words], cwd=PROJECT, stdout=subprocess.PIPE, timeout=120)
    trainer = int(done.stdout)
    deadline = time.monotonic() + 30
    while _alive(trainer) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(trainer)
    assert not paths.outcome.exists()


def _alive(pid):
    """Running, and not merely waiting for somebody to read its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_broken_cache_is_an_outcome(dataset, tmp_path):
    data = make_dataset(tmp_path / "dataset")
    (data / "images.u8").write_bytes(b"short")
    outcome = run_job(data, prepare_target(tmp_path / "t"), watch_parent=False)
    assert outcome["status"] == "failed"
    assert "bytes" in outcome["error"]


def test_smaller_pixels_than_the_data_set(dataset, tmp_path):
    assert train(dataset, tmp_path / "t", image_size=16, epochs=1)["status"] == "ok"


def test_patience_ends_early(dataset, tmp_path):
    outcome = train(dataset, tmp_path / "t", epochs=60, patience=2, learning_rate=0.0)
    assert outcome["epochs_trained"] == outcome["best_epoch"] + 2 < 60
