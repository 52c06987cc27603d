"""One network for several targets, through its files: what it learns and publishes, and that it resumes to the bit."""

import dataclasses
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as parquet
import pytest
from safetensors.numpy import load_file

from models.config import TrainConfig
from models.data.targets import Targets
from models.files.layout import DatasetPaths, TargetPaths, read_json_lines, write_json
from models.process.job import Superseded, open_task, run_job
from models.statistics.metrics import auc
from models.training.loop import train_target
from tests.conftest import PROJECT
from tests.models.process.test_job import CHILD, SETTINGS, truth_of
from tests.processes import kill_delays
from tests.small_data import make_dataset, make_targets

SLUGS = ("pneumonia", "edema", "fracture")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


def matrix(slugs=SLUGS, unknown=0.2) -> Targets:
    """The disc, its absence, and chance; a fifth of the entries unknown, by NaN or by a weight of 0."""
    one, draws = make_targets(truth_of()), np.random.default_rng(5)
    columns = {"pneumonia": one.value, "edema": 1 - one.value}
    columns["fracture"] = np.where(np.isnan(one.value), np.nan, draws.random(len(one.row)) < 0.5)
    value = np.column_stack([columns[slug] for slug in slugs]).astype(np.float32)
    weight = (~np.isnan(value)).astype(np.float32)
    value[draws.random(value.shape) < unknown / 2] = np.nan
    weight[draws.random(value.shape) < unknown / 2] = 0
    return dataclasses.replace(one, value=value, weight=weight, slugs=np.array(slugs, "S"))


def prepared(root, targets=None, **settings) -> TargetPaths:
    paths = TargetPaths(root)
    root.mkdir(parents=True)
    (matrix() if targets is None else targets).save(paths.targets)
    write_json(paths.config, {"config": TrainConfig(**(SETTINGS | settings)).to_dict()})
    return paths


def train(dataset, root, targets=None, **settings):
    return run_job(dataset, prepared(root, targets, **settings).root, watch_parent=False)


def test_it_learns_every_target_and_publishes_a_column_for_each(dataset, tmp_path):
    outcome = train(dataset, tmp_path / "t", epochs=5)
    assert outcome["status"] == "ok", outcome
    paths = TargetPaths(tmp_path / "t")
    table = parquet.read_table(paths.predictions).to_pydict()
    assert list(table) == ["image_id", "part", *SLUGS]
    truth = dict(zip(make_targets(truth_of()).image_id.astype(str), truth_of(), strict=True))
    found = np.array([truth[name] for name in table["image_id"]])
    assert auc(np.array(table["pneumonia"]), found) > 0.8
    assert auc(np.array(table["edema"]), 1 - found) > 0.8
    row = read_json_lines(paths.attempt(1).history)[-1]
    assert set(row["targets"]) == set(SLUGS)
    each = [row["targets"][slug]["select_auc"] for slug in SLUGS]
    assert row["select_auc"] == pytest.approx(np.mean(each))
    assert row["select_positives"] == sum(row["targets"][slug]["select_positives"] for slug in SLUGS)
    assert row["train_positives"] + row["train_negatives"] < 3 * 112  # the unknown ones are not counted


def test_a_shared_network_of_one_target_is_the_single_network(dataset, tmp_path):
    """It is the same trainer: films, draws, loss and steps are the same; only the shape of the target differs."""
    settings = {"epochs": 1, "dropout": 0.2, "mixup": 0.3, "positive_weight": "balanced", "loss": "focal"}
    train(dataset, tmp_path / "shared", matrix(SLUGS[:1], unknown=0), **settings)
    train(dataset, tmp_path / "single", matrix(SLUGS[:1], unknown=0).only(0), **settings)
    first, second = (load_file(TargetPaths(tmp_path / name).weights) for name in ("shared", "single"))
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], atol=2e-4, err_msg=name)


def allow_rare_checkpoints(paths, **settings):
    """A checkpoint after every step is only wanted until the training is stopped."""
    write_json(paths.config, {"config": TrainConfig(**(SETTINGS | settings)).to_dict()})


def test_stopped_within_an_epoch_it_ends_where_an_unbroken_one_does(dataset, tmp_path):
    settings = {"epochs": 2, "dropout": 0.2, "mixup": 0.2, "averaging": 0.9, "label_smoothing": 0.1}
    train(dataset, tmp_path / "whole", **settings)
    paths = prepared(tmp_path / "broken", **settings, checkpoint_minutes=0.0)
    steps = iter(range(9))

    def stop():
        if next(steps, None) is None:
            raise Superseded("enough steps, in the middle of the second epoch")

    attempt = paths.new_attempt()
    with pytest.raises(Superseded):
        train_target(open_task(DatasetPaths(dataset), paths, attempt, stop))
    assert len(read_json_lines(attempt.history)) == 1
    allow_rare_checkpoints(paths, **settings)
    assert run_job(dataset, paths.root, watch_parent=False)["status"] == "ok"
    assert paths.weights.read_bytes() == TargetPaths(tmp_path / "whole").weights.read_bytes()
    assert paths.predictions.read_bytes() == TargetPaths(tmp_path / "whole").predictions.read_bytes()
    rows = read_json_lines(TargetPaths(tmp_path / "whole").attempt(1).history)
    for one, other in zip(rows, read_json_lines(paths.attempt(2).history), strict=True):
        assert one["targets"] == other["targets"]
        assert one["select_score"] == other["select_score"]


@pytest.mark.slow
def test_killed_anywhere_it_ends_where_an_unbroken_one_does(dataset, tmp_path):
    settings = {"epochs": 3, "dropout": 0.2}
    train(dataset, tmp_path / "whole", **settings)
    paths = prepared(tmp_path / "broken", **settings, checkpoint_minutes=0.0)
    child = subprocess.Popen([sys.executable, "-c", CHILD, dataset, paths.root, ""], cwd=PROJECT)
    while not paths.attempt(1).checkpoint.exists() and child.poll() is None:
        time.sleep(0.01)
    time.sleep(kill_delays()[0])
    child.send_signal(signal.SIGKILL)
    child.wait()
    allow_rare_checkpoints(paths, **settings)
    assert run_job(dataset, paths.root, watch_parent=False)["status"] == "ok"
    assert paths.weights.read_bytes() == TargetPaths(tmp_path / "whole").weights.read_bytes()
    assert paths.predictions.read_bytes() == TargetPaths(tmp_path / "whole").predictions.read_bytes()


def test_a_target_of_one_class_is_named(dataset, tmp_path):
    targets = matrix()
    targets.value[:, 2] = np.where(np.isnan(targets.value[:, 2]), np.nan, 0)
    outcome = train(dataset, tmp_path / "t", targets)
    assert outcome["status"] == "failed"
    assert "0 positives" in outcome["error"]
    assert "fracture" in outcome["error"]


def test_an_older_targets_file_is_read_as_one_target(tmp_path):
    targets = make_targets(truth_of())
    names = [name for name in Targets.__dataclass_fields__ if name != "slugs"]
    np.savez(tmp_path / "targets.npz", **{name: getattr(targets, name) for name in names})
    loaded = Targets.load(tmp_path / "targets.npz")
    assert loaded.outputs is None
    np.testing.assert_array_equal(loaded.usable("train"), targets.usable("train"))


def test_films_with_one_known_target_are_used_and_those_with_none_are_not():
    targets = matrix()
    known = targets.known
    train_part = targets.all_of("train")
    np.testing.assert_array_equal(targets.usable("train"), train_part[known[train_part].any(axis=1)])
    truth = targets.truth(train_part)
    np.testing.assert_array_equal(np.isnan(truth), ~known[train_part])
