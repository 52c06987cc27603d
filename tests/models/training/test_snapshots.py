"""models/training/snapshots.py: further weights of one training; which epochs, to the byte after any kill, and
as members.
"""

import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from models.config import TrainConfig
from models.files.layout import AttemptPaths, BundlePaths, RunPaths, TargetPaths, read_json
from models.process.job import run_job
from models.training.checkpoint import Progress
from models.training.optimisation import rate_factor
from models.training.snapshots import cycle_ends, drop_snapshots, keep_snapshot, snapshot_facts
from orchestrator.cli.app import app
from orchestrator.datasets.dataset import load_dataset
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.ensembling.logit_tables import bundled_table, member_table
from orchestrator.ensembling.members import finished_targets
from orchestrator.ensembling.replace import ReplaceRequest, replace_findings
from orchestrator.inference.bundle import load_bundle, self_test
from orchestrator.tuning.trials import SearchPaths, adopt_trials
from tests.conftest import PROJECT
from tests.fake_run import QUICK
from tests.models.process.test_job import CHILD, prepare_target, train
from tests.processes import kill_delays
from tests.small_data import disc_films, make_dataset
from tests.small_run import train_inline

CYCLIC = {"schedule": "cyclic", "snapshots": 2, "epochs": 4, "dropout": 0.1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


def kept_after(tmp_path, scores, **settings):
    """(epochs of the files, the outcome's snapshots) after epochs of these scores."""
    config = TrainConfig(epochs=len(scores), **settings)
    paths, progress = AttemptPaths(tmp_path), Progress()
    for epoch, score in enumerate(scores):
        progress.epoch = epoch
        if progress.best_score is None or score > progress.best_score:
            progress.best_score, progress.best_epoch = score, epoch + 1
        before = progress.snapshots
        keep_snapshot(paths, config, progress, score, lambda epoch=epoch: f"{epoch + 1}".encode())
        drop_snapshots(paths, progress, before)
    drop_snapshots(paths, progress, [])
    files = {int(path.read_bytes()) for path in paths.snapshots()}
    return files, [one["epoch"] for one in snapshot_facts(config, progress).get("snapshots", ())]


def test_without_cycles_the_next_best_epochs_are_kept(tmp_path):
    files, told = kept_after(tmp_path / "a", [0.5, 0.7, 0.6, 0.9, 0.7, 0.65], snapshots=2)
    assert (files, told) == ({2, 4, 5}, [2, 5])
    assert kept_after(tmp_path / "b", [0.5, 0.9, float("nan"), 0.6], snapshots=2)[1] == [1, 4]
    assert kept_after(tmp_path / "c", [0.5, 0.9]) == (set(), [])


def test_with_cycles_their_last_epochs_are_kept_and_the_best_is_no_snapshot(tmp_path):
    scores = [0.5, 0.7, 0.6, 0.9, 0.7, 0.65, 0.8]
    assert cycle_ends(TrainConfig(epochs=7, snapshots=3, schedule="cyclic")) == [2, 5, 7]
    assert kept_after(tmp_path / "a", scores, snapshots=3, schedule="cyclic") == ({2, 5, 7}, [2, 5, 7])
    assert kept_after(tmp_path / "b", sorted(scores), snapshots=3, schedule="cyclic")[1] == [2, 5]


def test_the_rate_comes_down_at_the_end_of_every_cycle():
    config = TrainConfig(epochs=6, snapshots=3, schedule="cyclic", warmup=0.25)
    rates = [rate_factor(config, step, 120) for step in range(120)]
    assert np.argmax(rates[:40]) == 10
    for end in (39, 79, 119):
        assert rates[end] < 0.01
    for begin in (41, 81):
        assert rates[begin] == 1.0
    cosine = TrainConfig(epochs=6, schedule="cosine", warmup=0.25)
    assert rates[:40] == [rate_factor(cosine, step, 40) for step in range(40)]


def test_impossible_wishes():
    with pytest.raises(ValueError, match="snapshots=4 of 3 epochs"):
        TrainConfig(epochs=3, snapshots=4)
    with pytest.raises(ValueError, match="snapshots=1 is below 2"):
        TrainConfig(schedule="cyclic", snapshots=1)


def test_snapshots_change_nothing_else_and_are_what_they_say(dataset, tmp_path):
    plain, kept = (TargetPaths(tmp_path / name) for name in ("plain", "kept"))
    assert "snapshots" not in train(dataset, plain.root)
    outcome = train(dataset, kept.root, snapshots=2)
    assert kept.weights.read_bytes() == plain.weights.read_bytes()
    tables = [pd.read_parquet(paths.predictions) for paths in (plain, kept)]
    assert tables[0].equals(tables[1][["image_id", "part", "logit"]])
    epochs = [one["epoch"] for one in outcome["snapshots"]]
    assert sorted([*epochs, outcome["best_epoch"]]) == [1, 2, 3]
    assert [path.name for path in kept.snapshots()] == [f"snapshot-{epoch}.safetensors" for epoch in epochs]
    assert list(kept.attempt(1).root.glob("*.safetensors")) == []


@pytest.mark.slow
def test_a_snapshot_has_the_weights_of_its_epoch(dataset, tmp_path):
    short = TargetPaths(tmp_path / "short")  # at a constant rate a shorter training passes through the same weights
    long = TargetPaths(tmp_path / "long")
    constant = {"schedule": "constant", "warmup": 0.0, "start_size": 1.0}
    train(dataset, short.root, epochs=1, **constant)
    outcome = train(dataset, long.root, epochs=3, snapshots=3, **constant)
    assert outcome["best_epoch"] != 1
    assert long.snapshot(1).read_bytes() == short.weights.read_bytes()
    first = pd.read_parquet(short.predictions)["logit"]
    np.testing.assert_array_equal(pd.read_parquet(long.predictions)["logit@1"], first)


def assert_same(one: TargetPaths, other: TargetPaths) -> None:
    assert [path.name for path in one.snapshots()] == [path.name for path in other.snapshots()]
    for path in (one.weights, one.predictions, *one.snapshots()):
        assert path.read_bytes() == (other.root / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    "settings", [CYCLIC | {"averaging": 0.8}, pytest.param(CYCLIC | {"schedule": "one_cycle"}, marks=pytest.mark.slow)]
)
def test_stopped_after_each_epoch_it_ends_with_the_same_snapshots(dataset, tmp_path, settings):
    train(dataset, tmp_path / "unbroken", **settings)
    paths = TargetPaths(prepare_target(tmp_path / "broken", **settings))

    class Stop(BaseException):
        pass

    def stop(row):
        raise Stop

    for _ in range(settings["epochs"]):
        with pytest.raises(Stop):
            run_job(dataset, paths.root, stop, watch_parent=False)
    assert run_job(dataset, paths.root, watch_parent=False)["status"] == "ok"
    assert len(paths.snapshots()) >= 1
    assert_same(paths, TargetPaths(tmp_path / "unbroken"))


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_snapshots(dataset, tmp_path):
    settings = CYCLIC | {"checkpoint_minutes": 0.0}
    train(dataset, tmp_path / "unbroken", **settings)
    paths = TargetPaths(prepare_target(tmp_path / "broken", **settings))
    (delay,) = kill_delays()
    child = subprocess.Popen([sys.executable, "-c", CHILD, dataset, paths.root, ""], cwd=PROJECT)
    while not paths.attempt(1).snapshots() and child.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert run_job(dataset, paths.root, watch_parent=False)["status"] == "ok"
    assert_same(paths, TargetPaths(tmp_path / "unbroken"))


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """One training of two cycles."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert train_inline(dataset, out, settings=CYCLIC)[0]["status"] == "ok"
    return RunPaths(out)


@pytest.fixture(scope="module")
def bundle(run):
    out = run.root.parent / "bundle"
    build_bundle(EnsembleRequest(run=run.root, out=out, settings=QUICK))
    return out


def test_snapshots_are_members_of_the_bundle(run, bundle, dataset):
    paths = run.target("pneumonia", 0)
    epochs = [one["epoch"] for one in read_json(paths.outcome)["snapshots"]]
    entry = read_json(bundle / "bundle.json")["findings"]["pneumonia"]
    assert [(one["member"], one["snapshot"]) for one in entry["models"]] == [(0, epoch) for epoch in (0, *epochs)]
    assert [one["best_epoch"] for one in entry["models"]][1:] == epochs
    assert len(entry["consumes"]) == 1 + len(epochs)
    assert len(entry["prior"]) == 1
    opened = load_bundle(bundle, "cpu")
    assert self_test(opened) < 1e-4
    opened_data = load_dataset(dataset)
    films = opened_data.images()[:4]
    asked = opened.member_logits(films)["pneumonia"]
    for column, epoch in enumerate(epochs, start=1):
        assert (bundle / f"weights/pneumonia-0-{epoch}.safetensors").read_bytes() == paths.snapshot(epoch).read_bytes()
        assert np.ptp(asked[:, column] - asked[:, 0]) > 1e-4
    stored = member_table(finished_targets(run, snapshots=True)[0]["pneumonia"], "calibrate")
    assert list(stored.columns) == ["0", *[f"0-{epoch}" for epoch in epochs]]
    computed = [
        bundled_table(entry, BundlePaths(bundle), one, opened_data, stored.index) for one in (run, RunPaths("/"))
    ]
    np.testing.assert_array_equal(computed[0], stored)
    np.testing.assert_allclose(computed[1], stored, atol=1e-4)


def test_the_option_leaves_them_out(run, tmp_path, capsys):
    words = ["ensemble", str(run.root), "--out", str(tmp_path / "bundle"), "--no-snapshots"]
    app(args=words, prog_name="hilum", standalone_mode=False)
    models = read_json(tmp_path / "bundle" / "bundle.json")["findings"]["pneumonia"]["models"]
    assert [(one["member"], one["snapshot"]) for one in models] == [(0, 0)]


def test_a_replacement_takes_them_too(run, bundle, tmp_path):
    request = ReplaceRequest(
        run=run.root, bundle=bundle, targets=("pneumonia",), out=tmp_path / "new", settings=QUICK, tta=True
    )
    description = replace_findings(request)
    old = read_json(bundle / "bundle.json")["findings"]["pneumonia"]["models"]
    assert description["findings"]["pneumonia"]["models"][: len(old)] == old
    assert len(description["findings"]["pneumonia"]["models"]) == 2 * len(old)
    films = disc_films(np.array([1.0, 0.0]))
    assert load_bundle(tmp_path / "new", "cpu").probabilities(films).shape == (2, 1)


def test_a_trial_that_becomes_a_member_brings_its_snapshots(run, dataset, tmp_path):
    from shutil import copytree

    search = SearchPaths(RunPaths(tmp_path), "pneumonia")
    copytree(run.target("pneumonia", 0).root, search.trial(0).root)
    job = adopt_trials(tmp_path, "pneumonia", 1)[0][0]
    assert_same(job.paths, run.target("pneumonia", 0))
