"""models/training/branch.py: a finding's network goes on from the middle of a shared training, to the bit, and is
published as a network of its own.
"""

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as parquet
import pytest
from safetensors.numpy import load_file

from models.config import TrainConfig
from models.data.targets import Targets
from models.files.checksummed import file_sha256
from models.files.layout import TargetPaths, read_json, read_json_lines
from models.process.job import run_job
from models.training.checkpoint import Progress
from models.training.loop import _out_of_patience
from tests.conftest import PROJECT
from tests.models.process.test_job import truth_of
from tests.models.training.test_shared_network import matrix, prepared
from tests.small_data import make_dataset, make_targets

RUN = {"epochs": 3, "branch_epoch": 2, "epoch_choice": "last", "averaging": 0.9, "dropout": 0.2, "mixup": 0.2,
       "recipe_version": 2}  # fmt: skip
OWN = {"others_weight": 0.3, "init": "shared/0"}

# Trains, and is killed when the COUNTth file of this NAME is written but does not have its name yet.
KILLED = """
import os, signal, sys
from pathlib import Path
whole, left = os.replace, int(sys.argv[4])
def replace(source, goal):
    global left
    left -= Path(goal).name == sys.argv[3]
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(source, goal)
os.replace = replace
from models.process.job import run_job
run_job(Path(sys.argv[1]), Path(sys.argv[2]))
"""


class Stop(BaseException):
    """Of a training, after an epoch."""


def stop_after(epoch):
    def stop(row):
        if row["epoch"] == epoch:
            raise Stop

    return stop


def own_of(targets: Targets, slug: str) -> Targets:
    return dataclasses.replace(targets, own=targets.slugs.astype(str).tolist().index(slug))


def train(dataset, root, targets, on_epoch=None, **settings) -> TargetPaths:
    paths = TargetPaths(root)
    if not root.exists():
        prepared(root, targets, **RUN | settings)
    outcome = run_job(dataset, root, on_epoch, watch_parent=False)
    assert outcome["status"] == "ok", outcome
    return paths


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A run with its shared network, and the network of one finding."""
    root = tmp_path_factory.mktemp("run")
    train(dataset, root / "shared" / "0", matrix())
    train(dataset, root / "pneumonia" / "0", own_of(matrix(), "pneumonia"), **OWN)
    return root


@pytest.fixture
def shared(run, tmp_path):
    """A run of its own that has the shared network's state."""
    (tmp_path / "shared" / "0").mkdir(parents=True)
    os.link(TargetPaths(run / "shared" / "0").branch, TargetPaths(tmp_path / "shared" / "0").branch)
    return TargetPaths(tmp_path / "shared" / "0")


def test_a_shared_training_publishes_its_state_and_says_so(run):
    paths = TargetPaths(run / "shared" / "0")
    outcome = read_json(paths.outcome)
    assert outcome["kept_branch"] == {"epoch": 2, "sha256": file_sha256(paths.branch)}
    assert (outcome["selection_rule"], outcome["best_epoch"], outcome["epochs_trained"]) == ("last_epoch", 3, 3)
    assert "epoch_choice=last" in outcome["selection_reason"]
    assert not paths.attempt(1).branch.exists(), "its copy in the attempt's folder is of no use any more"


def test_a_findings_training_is_published_as_a_network_of_its_own(run):
    paths, shared = TargetPaths(run / "pneumonia" / "0"), TargetPaths(run / "shared" / "0")
    outcome = read_json(paths.outcome)
    assert outcome["branched_from"] == {"job": "shared/0", "epoch": 2, "sha256": file_sha256(shared.branch)}
    assert "Branched out of shared/0 at the end of its epoch 2" in outcome["start"]
    assert (outcome["best_epoch"], outcome["epochs_trained"], outcome["selection_rule"]) == (3, 1, "last_epoch")
    weights, wide = load_file(paths.weights), load_file(shared.weights)
    assert list(weights) == list(wide)
    assert {name for name in weights if weights[name].shape != wide[name].shape} == {
        "backbone.fc.weight",
        "backbone.fc.bias",
    }
    assert len(weights["backbone.fc.bias"]) == 1
    table = parquet.read_table(paths.predictions)
    assert table.column_names == ["image_id", "part", "logit"]
    rows = read_json_lines(paths.attempt(1).history)
    assert [row["epoch"] for row in rows] == [3]
    targets = own_of(matrix(), "pneumonia")
    assert rows[0]["select_positives"] == int((targets.judged.truth(targets.usable("select")) == 1).sum())
    assert "targets" not in rows[0]


def test_with_the_others_at_full_weight_it_ends_where_the_shared_one_does(dataset, tmp_path):
    """The same films, seed and loss: so the whole state came along, moments, average and place in the schedule."""
    targets = matrix(unknown=0)
    shared = train(dataset, tmp_path / "shared" / "0", targets)
    own = train(dataset, tmp_path / "edema" / "0", own_of(targets, "edema"), **OWN | {"others_weight": 1.0})
    found, expected = load_file(own.weights), load_file(shared.weights)
    for name, value in expected.items():
        sliced = value[1:2] if value.shape != found[name].shape else value
        np.testing.assert_array_equal(found[name], sliced, err_msg=name)
    first, second = (parquet.read_table(paths.predictions) for paths in (own, shared))
    np.testing.assert_allclose(first["logit"], second["edema"], atol=1e-5)


def test_stopped_after_its_branch_a_shared_training_publishes_the_same_state(dataset, run, tmp_path):
    for epoch in (1, 2):
        with pytest.raises(Stop):
            train(dataset, tmp_path / "t", matrix(), stop_after(epoch))
    paths = train(dataset, tmp_path / "t", matrix())
    assert_same(paths, TargetPaths(run / "shared" / "0"), "branch", "weights", "predictions")


def test_stopped_a_findings_training_goes_on_from_its_own_checkpoint(dataset, tmp_path):
    """Though the shared network's state has gone meanwhile."""
    settings = {"epochs": 4}
    train(dataset, tmp_path / "shared" / "0", matrix(), **settings)
    whole = train(dataset, tmp_path / "a" / "0", own_of(matrix(), "edema"), **settings | OWN)
    with pytest.raises(Stop):
        train(dataset, tmp_path / "b" / "0", own_of(matrix(), "edema"), stop_after(3), **settings | OWN)
    TargetPaths(tmp_path / "shared" / "0").branch.unlink()
    broken = train(dataset, tmp_path / "b" / "0", None)
    assert_same(broken, whole, "weights", "predictions")
    for name in ("branched_from", "start", "epochs_trained"):
        assert read_json(broken.outcome)[name] == read_json(whole.outcome)[name]
    assert len(read_json_lines(broken.attempt(2).history)) == 2


def assert_same(paths, others, *names):
    for name in names:
        assert getattr(paths, name).read_bytes() == getattr(others, name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("branch.ckpt", 1), ("last.ckpt", 2), ("branch.ckpt", 2), ("outcome.json", 1)]
)
def test_killed_anywhere_a_shared_training_publishes_the_same_state(dataset, run, tmp_path, name, count):
    """At the state's own file, at the checkpoint after it, at its publication and after that."""
    paths = prepared(tmp_path / "t", matrix(), **RUN)
    kill(dataset, paths, name, count)
    assert not paths.outcome.exists()
    train(dataset, paths.root, None)
    assert_same(paths, TargetPaths(run / "shared" / "0"), "branch", "weights", "predictions")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("best.safetensors", 1), ("last.ckpt", 1), ("weights.safetensors", 1)])
def test_killed_anywhere_a_findings_training_ends_where_an_unbroken_one_does(dataset, run, shared, name, count):
    paths = prepared(shared.root.parent.parent / "pneumonia" / "0", own_of(matrix(), "pneumonia"), **RUN | OWN)
    kill(dataset, paths, name, count)
    train(dataset, paths.root, None)
    assert_same(paths, TargetPaths(run / "pneumonia" / "0"), "weights", "predictions")
    assert (
        read_json(paths.outcome)["branched_from"]
        == read_json(TargetPaths(run / "pneumonia" / "0").outcome)["branched_from"]
    )


def kill(dataset, paths, name, count):
    child = subprocess.run([sys.executable, "-c", KILLED, dataset, paths.root, name, str(count)], cwd=PROJECT)
    assert child.returncode == -signal.SIGKILL


def test_a_checkpoint_whose_state_for_others_is_damaged_is_passed_over(dataset, run, tmp_path):
    with pytest.raises(Stop):
        train(dataset, tmp_path / "t", matrix(), stop_after(2))
    state = TargetPaths(tmp_path / "t").attempt(1).branch
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(bytes(content))
    paths = train(dataset, tmp_path / "t", None)
    assert read_json(paths.outcome)["damaged"] == ["attempts/1/last.ckpt"]
    assert_same(paths, TargetPaths(run / "shared" / "0"), "branch", "weights")


def cut(paths):
    content = paths.branch.read_bytes()
    paths.branch.unlink()  # of the other run's it is a link
    paths.branch.write_bytes(content[:-9])


@pytest.mark.parametrize(
    ("spoil", "settings", "message"),
    [
        (lambda paths: paths.branch.unlink(), {}, "is missing: init=shared/0 is no shared network that kept its state"),
        (cut, {}, "branch.ckpt is damaged"),
        (None, {"branch_epoch": 1}, "of another kind of training: epoch 2 there, 1 here"),
        (None, {"backbone": "test_convnext"}, "backbone test_resnet there, test_convnext here"),
        (None, {"init": ""}, "branch_epoch=2 needs the shared network's folder"),
    ],
)
def test_a_state_that_cannot_be_begun_with_is_a_sentence_and_no_start_from_scratch(
    dataset, shared, spoil, settings, message
):
    if spoil:
        spoil(shared)
    root = shared.root.parent.parent / "edema" / "0"
    prepared(root, own_of(matrix(), "edema"), **RUN | OWN | settings)
    outcome = run_job(dataset, root, watch_parent=False)
    assert outcome["status"] == "failed"
    assert message in outcome["error"]
    assert not TargetPaths(root).weights.exists()


def test_other_findings_are_another_network(dataset, shared):
    root = shared.root.parent.parent / "edema" / "0"
    prepared(root, own_of(matrix(("pneumonia", "edema")), "edema"), **RUN | OWN)
    assert "slugs ['pneumonia', 'edema', 'fracture'] there" in run_job(dataset, root, watch_parent=False)["error"]


@pytest.mark.parametrize("settings", [{"others_weight": 0.3}, {"branch_epoch": 1}])
def test_a_target_alone_has_no_others(dataset, tmp_path, settings):
    prepared(tmp_path / "t", matrix().only(0), **settings)
    outcome = run_job(dataset, tmp_path / "t", watch_parent=False)
    assert outcome["status"] == "failed"
    assert "these targets have one finding alone" in outcome["error"]


def test_it_begins_an_average_that_the_shared_training_had_not(dataset, tmp_path):
    train(dataset, tmp_path / "shared" / "0", matrix(), averaging=0.0)
    paths = train(dataset, tmp_path / "edema" / "0", own_of(matrix(), "edema"), **OWN)
    assert read_json(paths.outcome)["epochs_trained"] == 1


@pytest.mark.parametrize(("branch", "epoch", "over"), [(0, 3, True), (4, 3, False), (4, 4, True)])
def test_patience_does_not_end_a_shared_training_before_its_branch(branch, epoch, over):
    config = TrainConfig(patience=2, branch_epoch=branch)
    assert _out_of_patience(config, Progress(epoch=epoch, best_epoch=1)) == over


EVERYTHING = {"others_weight": 0.3, "positive_weight": "balanced", "label_smoothing": 0.1, "mixup": 0.3,
              "accumulate": 2, "frozen_epochs": 1, "snapshots": 1, "branch_epoch": 0}  # fmt: skip


def test_beside_others_from_scratch_with_every_part_of_the_recipe(dataset, tmp_path):
    """One finding is known of no film that this one is known of, and one has no positives; `select` is empty."""
    targets = own_of(matrix(), "pneumonia")
    value = targets.value.copy()
    value[:, 1][~np.isnan(value[:, 0])] = np.nan
    value[:, 2][value[:, 2] == 1] = 0
    part = np.where(targets.part == 1, 0, targets.part)
    targets = dataclasses.replace(targets, value=value, part=part)
    paths = train(dataset, tmp_path / "t", targets, **EVERYTHING)
    row = read_json_lines(paths.attempt(1).history)[-1]
    assert (row["select_auc"], row["select_positives"], row["select_score"]) == (None, 0, 3)
    assert row["train_positives"] > 0
    table = parquet.read_table(paths.predictions)
    assert table.column_names == ["image_id", "part", "logit", "logit@2"]
    assert load_file(paths.snapshot(2))["backbone.fc.bias"].shape == (1,)


@pytest.mark.parametrize("targets", [make_targets(truth_of()), matrix()], ids=["single", "shared"])
def test_the_last_epoch_is_kept_without_films_to_select_by(dataset, tmp_path, targets):
    targets = dataclasses.replace(targets, part=np.where(targets.part == 1, 0, targets.part))
    paths = train(dataset, tmp_path / "t", targets, branch_epoch=0)
    outcome = read_json(paths.outcome)
    assert (outcome["selection_rule"], outcome["best_epoch"]) == ("last_epoch", 3)
    assert len(read_json_lines(paths.attempt(1).history)) == 3
    assert set(parquet.read_table(paths.predictions)["part"].to_pylist()) == {"calibrate", "test"}
