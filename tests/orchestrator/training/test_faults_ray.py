"""Raylets and heads that die under `hilum train --address`: the work goes on elsewhere, or the same command goes on."""

import contextlib
import os
import signal
import subprocess

import pytest

from bench.loopback import loopback
from models.files.layout import RunPaths, read_json, read_json_lines
from tests.conftest import PROJECT
from tests.processes import all_gone, hilum_words, wait_for
from tests.small_data import disc_dataset
from tests.small_run import SETTINGS, train_inline

pytestmark = pytest.mark.ray
LONG = SETTINGS | {"epochs": 25, "dropout": 0.2}
TARGETS = ("edema", "pneumonia")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return disc_dataset(tmp_path_factory.mktemp("data") / "dataset", TARGETS)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert [one["status"] for one in train_inline(dataset, out, settings=LONG, targets=TARGETS)] == ["ok"] * 2
    return RunPaths(out)


@pytest.fixture(scope="module")
def cluster():
    with loopback(workers=2, cpus=1) as one:
        yield one


def start(cluster, dataset, out, targets) -> subprocess.Popen:
    words = [*hilum_words(), "train", str(dataset), "--out", str(out), "--targets", ",".join(targets)]
    words += ["--from-scratch", "--folds", "1"]
    words += ["--address", cluster.address]
    words += [word for name, value in LONG.items() for word in ("--set", f"{name}={value}")]
    return subprocess.Popen(
        words, cwd=PROJECT, env=cluster.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def end(driver: subprocess.Popen) -> tuple[int, str]:
    try:
        _, errors = driver.communicate(timeout=240)
    finally:
        driver.kill()
    return driver.returncode, errors


def wait_for_a_checkpoint(run: RunPaths, targets, driver) -> str:
    """The first target that has one: its training is under way."""
    paths = {slug: run.target(slug, 0).attempt(1).checkpoint for slug in targets}
    wait_for(lambda: any(path.exists() for path in paths.values()) or driver.poll() is not None)
    return next(slug for slug, path in paths.items() if path.exists())


def assert_same_weights(run: RunPaths, undisturbed: RunPaths, targets) -> None:
    for slug in targets:
        ours, theirs = run.target(slug, 0), undisturbed.target(slug, 0)
        assert read_json(ours.outcome)["attempt"] > 1 or slug != targets[0]
        assert ours.weights.read_bytes() == theirs.weights.read_bytes()
        assert ours.predictions.read_bytes() == theirs.predictions.read_bytes()


def test_a_raylet_dies(cluster, dataset, undisturbed, tmp_path):
    """Its training goes on at the other raylet, from the checkpoint; the driver sees no failure."""
    run = RunPaths(tmp_path / "run")
    driver = start(cluster, dataset, run.root, TARGETS)
    lost = wait_for_a_checkpoint(run, TARGETS, driver)
    (victim,) = [one for one in cluster.workers if f"{lost}/0" in cluster.trainings(one).values()]
    cluster.kill(victim)
    code, errors = end(driver)
    assert code == 0, errors
    assert_same_weights(run, undisturbed, (lost, *(slug for slug in TARGETS if slug != lost)))
    outcome = read_json(run.target(lost, 0).outcome)
    assert outcome["attempt"] == 2
    finished = [row["job"] for row in read_json_lines(run.ledger) if row["event"] == "finished"]
    assert sorted(finished) == ["edema/0", "pneumonia/0"]


def test_the_head_dies(cluster, dataset, undisturbed, tmp_path):
    """The command gives up with a sentence; the same one goes on at the next head."""
    run, targets = RunPaths(tmp_path / "run"), ("edema",)
    driver = start(cluster, dataset, run.root, targets)
    wait_for_a_checkpoint(run, targets, driver)
    (training,) = cluster.trainings()
    os.kill(training, signal.SIGSTOP)  # or it might be done before its raylet misses the head
    cluster.kill(cluster.head)
    code, errors = end(driver)
    assert code == 1, errors
    assert "The Ray cluster is gone: the head" in errors
    assert "give the same command" in errors
    assert "Traceback" not in errors
    wait_for(lambda: not any(part.running for part in cluster.workers))
    with contextlib.suppress(ProcessLookupError):  # the raylet may have taken it along
        os.kill(training, signal.SIGCONT)
    assert all_gone([training]) == []
    assert not run.target("edema", 0).outcome.exists()
    assert [row["event"] for row in read_json_lines(run.ledger)] == ["begin", "end"]
    cluster.mend()
    code, errors = end(start(cluster, dataset, run.root, targets))
    assert code == 0, errors
    assert_same_weights(run, undisturbed, targets)
