"""orchestrator/training/launch.py with a real Ray: processes that are killed, interrupted, and go on to the
same bytes.
"""

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models.files.layout import RunPaths, TargetPaths, read_json, read_json_lines
from orchestrator.planning.plan import TrainRequest
from orchestrator.training.launch import train_run
from tests.conftest import PROJECT
from tests.processes import alive, all_gone, command, descendants, environment, hilum_words, quiet_environment, wait_for
from tests.small_data import disc_dataset
from tests.small_run import SETTINGS, silent, train_inline

pytestmark = pytest.mark.ray
EPOCHS = 40  # about four seconds: long enough to be met on its way
LONG = SETTINGS | {"epochs": EPOCHS, "dropout": 0.2}
# Helpers of Ray's own, which wait a minute for a killed Ray to come back before they end.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
GOOD = ("atelectasis", "edema", "pneumonia")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three findings that can be trained, and `fracture`, which nobody has."""
    return disc_dataset(tmp_path_factory.mktemp("data") / "dataset", GOOD, never=("fracture",))


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """The same trainings in one process, never interrupted."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    outcomes = train_inline(dataset, out, settings=LONG, targets=GOOD)
    assert [one["status"] for one in outcomes] == ["ok"] * 3, outcomes
    return RunPaths(out)


@dataclass
class Driver:
    """`hilum train` in a session of its own."""

    process: subprocess.Popen
    run: RunPaths
    seen: dict[str, int] = field(default_factory=dict)  # target -> its training process

    def trainings(self) -> dict[int, str]:
        """pid -> target of the training processes that work now."""
        found = {}
        for pid in descendants(self.process.pid):
            if environment(pid).get("HILUM_PROCESS") == "training" and command(pid).startswith("ray::"):
                found[pid] = command(pid).removeprefix("ray::").split("/")[0]
        return found

    def wait_for_checkpoints(self, slugs: tuple[str, ...], attempt: int) -> None:
        """Until every one of them is on its way, or the driver has ended.

        A finished training has no checkpoint, so whoever is on its way is held until the others are, too.
        """
        paths = {slug: self.run.target(slug, 0).attempt(attempt).checkpoint for slug in slugs}
        held: set[int] = set()

        def all_there() -> bool:
            there = {slug for slug, path in paths.items() if path.exists()}
            if 0 < len(there) < len(paths):
                for pid in {pid for pid, slug in self.trainings().items() if slug in there} - held:
                    os.kill(pid, signal.SIGSTOP)
                    held.add(pid)
            return len(there) == len(paths) or self.process.poll() is not None

        try:
            wait_for(all_there)
        except TimeoutError:
            self.process.kill()  # and with it all its children
            raise
        finally:
            for pid in held:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def end(self) -> tuple[int, str]:
        try:
            _, errors = self.process.communicate(timeout=300)
        finally:
            self.process.kill()
        return self.process.returncode, errors


def start(dataset: Path, out: Path, targets: tuple[str, ...], settings: dict | None = None) -> Driver:
    words = [*hilum_words(), "train", str(dataset), "--out", str(out), "--targets", ",".join(targets)]
    words += ["--from-scratch", "--folds", "1"]
    words += [word for name, value in (LONG | (settings or {})).items() for word in ("--set", f"{name}={value}")]
    process = subprocess.Popen(
        words,
        cwd=PROJECT,
        env=quiet_environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Driver(process=process, run=RunPaths(out))


def assert_same_result(one: TargetPaths, other: TargetPaths) -> None:
    assert one.weights.read_bytes() == other.weights.read_bytes()
    assert one.predictions.read_bytes() == other.predictions.read_bytes()


@dataclass
class Disturbed:
    """What became of a run of four targets of which one cannot be trained and one is killed on its way."""

    run: RunPaths
    code: int
    errors: str
    killed: int
    environments: list[dict[str, str]]
    left: list[str]

    def outcome(self, slug: str) -> dict:
        return read_json(self.run.target(slug, 0).outcome)


@pytest.fixture(scope="module")
def disturbed(dataset, tmp_path_factory):
    driver = start(dataset, tmp_path_factory.mktemp("disturbed") / "run", (*GOOD, "fracture"))
    driver.wait_for_checkpoints(("edema",), 1)
    victim = next((pid for pid, slug in driver.trainings().items() if slug == "edema"), None)
    environments = [environment(pid) for pid in driver.trainings()]
    everyone = descendants(driver.process.pid)
    if victim:
        os.kill(victim, signal.SIGKILL)
    code, errors = driver.end()
    return Disturbed(driver.run, code, errors, victim, environments, all_gone(everyone))


def test_a_failure_is_a_result_and_the_others_finish(disturbed):
    assert disturbed.code == 1, disturbed.errors
    assert "Not trained: fracture/0" in disturbed.errors
    failed = disturbed.outcome("fracture")
    assert failed["status"] == "failed"
    assert "0 positives and" in failed["error"]
    assert "Traceback" in failed["traceback"]
    assert [disturbed.outcome(slug)["status"] for slug in GOOD] == ["ok"] * 3


def test_every_target_has_a_process_of_its_own(disturbed):
    outcomes = [disturbed.outcome(slug) for slug in (*GOOD, "fracture")]
    assert len({one["pid"] for one in outcomes}) == 4
    for one in outcomes:
        assert one["started"] < one["ended"]
        assert 50 * 2**20 < one["peak_memory_bytes"] < 4 * 2**30
    assert disturbed.left == []


def test_the_environment_stood_before_the_interpreter_started(disturbed):
    assert disturbed.environments
    for one in disturbed.environments:
        assert (one["PYTHONHASHSEED"], one["OMP_NUM_THREADS"], one["MKL_NUM_THREADS"]) == ("0", "1", "1")
        assert one["CUDA_VISIBLE_DEVICES"] == ""


def test_a_killed_training_is_retried_and_ends_at_the_same_bytes(disturbed, undisturbed):
    outcome = disturbed.outcome("edema")
    assert outcome["attempt"] == 2
    assert outcome["pid"] != disturbed.killed
    for slug in GOOD:
        assert_same_result(disturbed.run.target(slug, 0), undisturbed.target(slug, 0))


def test_the_driver_does_not_grow(disturbed):
    ledger = read_json_lines(disturbed.run.ledger)
    assert [line["event"] for line in ledger] == ["begin", *["finished"] * 4, "end"]
    assert abs(ledger[-1]["driver_growth"]) < 100 * 2**20
    assert {line["pid"] for line in ledger if line["event"] == "finished"} == {
        disturbed.outcome(slug)["pid"] for slug in (*GOOD, "fracture")
    }


def test_every_event_is_a_line(disturbed):
    for text in (
        "edema: waiting",
        "edema: training (attempt 2)",
        f"edema: epoch {EPOCHS}/{EPOCHS}",
        "fracture: failed",
    ):
        assert text in disturbed.errors


def test_interrupted_then_killed_the_same_command_finishes(dataset, undisturbed, tmp_path):
    """Ctrl-C first, then a driver that is killed, then the third one ends where an unbroken run does."""
    targets = ("edema", "pneumonia")
    out = tmp_path / "run"

    driver = start(dataset, out, targets)
    driver.wait_for_checkpoints(targets, 1)
    with pytest.raises(ValueError, match="Another hilum command is working on"):
        train_run(TrainRequest(dataset=dataset, out=out, inline=True), silent)
    everyone = descendants(driver.process.pid)
    assert len(driver.trainings()) == 2
    os.killpg(driver.process.pid, signal.SIGINT)
    code, errors = driver.end()
    assert code == 130, errors
    assert "give the same command again" in errors
    assert "Traceback" not in errors
    assert all_gone(everyone) == []
    assert not any(driver.run.target(slug, 0).outcome.exists() for slug in targets)

    driver = start(dataset, out, targets)
    driver.wait_for_checkpoints(targets, 2)
    everyone = descendants(driver.process.pid)
    trainings = driver.trainings()
    driver.process.kill()
    driver.process.wait()
    assert len(trainings) == 2
    waiters = {pid for pid in everyone if command(pid) in AGENTS}
    assert all_gone(set(everyone) - waiters, seconds=20) == []
    assert not any(driver.run.target(slug, 0).outcome.exists() for slug in targets)

    driver = start(dataset, out, targets)
    code, errors = driver.end()
    assert code == 0, errors
    for slug in targets:
        assert read_json(driver.run.target(slug, 0).outcome)["attempt"] == 3
        assert_same_result(driver.run.target(slug, 0), undisturbed.target(slug, 0))
    assert not alive(driver.process.pid)
