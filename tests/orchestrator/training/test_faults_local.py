"""Faults of training processes under a real Ray: a hang, SIGTERM, no memory, and SIGTERM for the driver itself."""

import os
import signal

import pytest

from models.files.layout import RunPaths, read_json, read_json_lines
from orchestrator.planning.plan import TrainRequest
from orchestrator.training import retries
from orchestrator.training.launch import train_run
from tests.orchestrator.training.test_launch_ray import LONG, assert_same_result, start
from tests.processes import all_gone, descendants, quiet_environment
from tests.small_data import disc_dataset
from tests.small_run import SETTINGS, silent, train_inline

pytestmark = pytest.mark.ray
TARGETS = ("pneumonia", "edema", "atelectasis")
FILMS = LONG["batch_size"]

# Loaded by every training process before anything else: what is called for a target the first time that it has a batch.
INJECTED = """
import os, sys
if os.environ.get("HILUM_PROCESS") == "training":
    from pathlib import Path
    import models.data.loading
    whole, folder, count = models.data.loading.normalise, Path(os.environ["HILUM_TEST_FAULTS"]), 0

    def normalise(films, *words):
        global count
        count += 1
        name = Path("/proc/self/cmdline").read_text().removeprefix("ray::").split("/")[0]
        fault = folder / name
        if count == 30 and fault.exists():
            code = fault.read_text()
            if len(films) >= {films} or "memory" not in code:
                exec(code)
        return whole(films, *words)

    models.data.loading.normalise = normalise
"""
HANG = "fault.unlink(); os.mkfifo(str(fault) + '.fifo'); open(str(fault) + '.fifo').read()"
NO_MEMORY = "import torch; torch.empty(2**46)  # memory: more than any machine has"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return disc_dataset(tmp_path_factory.mktemp("data") / "dataset", TARGETS)


@pytest.fixture(scope="module")
def disturbed(dataset, tmp_path_factory):
    """edema hangs once, atelectasis finds no memory for a full batch, pneumonia and then the driver get SIGTERM."""
    root = tmp_path_factory.mktemp("faults")
    (root / "code").mkdir()
    (root / "code" / "sitecustomize.py").write_text(INJECTED.replace("{films}", str(FILMS)))
    (root / "edema").write_text(HANG)
    (root / "atelectasis").write_text(NO_MEMORY)
    injected = {"HILUM_TEST_FAULTS": str(root), "PYTHONPATH": f"{root / 'code'}:{os.getcwd()}"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in injected.items():
            patch.setenv(name, value)
        assert quiet_environment()["HILUM_TEST_FAULTS"]
        driver = start(dataset, root / "run", TARGETS, {"watchdog_minutes": 0.05})
        driver.wait_for_checkpoints(("pneumonia",), 1)
        victim = next(pid for pid, slug in driver.trainings().items() if slug == "pneumonia")
        os.kill(victim, signal.SIGTERM)
        driver.wait_for_checkpoints(("edema",), 2)  # a finished target has none: whoever has one is on its way
        everyone = descendants(driver.process.pid)
        driver.process.send_signal(signal.SIGTERM)
        code, errors = driver.end()
        assert code == 130, errors
        assert "give the same command again" in errors
        assert all_gone(everyone) == []
        driver = start(dataset, root / "run", TARGETS, {"watchdog_minutes": 0.05})
        code, errors = driver.end()
    assert code == 0, errors
    return RunPaths(root / "run")


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train_inline(dataset, out, settings=LONG, targets=("edema", "pneumonia"))
    return RunPaths(out)


def again(run, job):
    return [line["why"] for line in read_json_lines(run.ledger) if line["event"] == "again" and line["job"] == job]


def test_sigterm_to_a_training_and_to_the_driver_cost_a_step(disturbed, undisturbed):
    assert again(disturbed, "pneumonia/0") == ["was asked to end, and goes on"]
    assert_same_result(disturbed.target("pneumonia", 0), undisturbed.target("pneumonia", 0))


def test_a_hung_training_is_ended_and_started_again(disturbed, undisturbed):
    assert read_json(disturbed.target("edema", 0).outcome)["attempt"] >= 2
    assert_same_result(disturbed.target("edema", 0), undisturbed.target("edema", 0))


def test_without_memory_the_batch_becomes_smaller(disturbed):
    paths = disturbed.target("atelectasis", 0)
    assert read_json(paths.outcome)["status"] == "ok"
    stored = read_json(paths.config)
    assert stored["reduced_from"] == {"batch_size": FILMS, "accumulate": 1}
    assert (stored["config"]["batch_size"], stored["config"]["accumulate"]) == (FILMS // 2, 2)
    assert again(disturbed, "atelectasis/0") == [f"out of memory: goes on with batch_size={FILMS // 2}, accumulate=2"]


def test_a_training_that_always_gets_sigterm_is_a_result_and_the_other_finishes(dataset, tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(INJECTED.replace("{films}", "0").replace("== 30", "== 3"))
    (tmp_path / "edema").write_text("os.kill(os.getpid(), 15)")
    monkeypatch.setenv("HILUM_TEST_FAULTS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'code'}:{os.getcwd()}")
    monkeypatch.setattr(retries, "MOST_INTERRUPTIONS", 1)
    request = TrainRequest(dataset=dataset, out=tmp_path / "run", targets=("edema", "pneumonia"), settings=SETTINGS)
    outcomes = train_run(request, silent)
    assert [one["status"] for one in outcomes] == ["interrupted", "ok"]
    assert "asked to end (SIGTERM) 2 times" in outcomes[0]["error"]
    run = RunPaths(tmp_path / "run")
    assert run.target("edema", 0).attempt(2).checkpoint.exists()
    (tmp_path / "edema").unlink()
    assert [one["status"] for one in train_run(request, silent)] == ["ok", "ok"]
    assert read_json(run.target("edema", 0).outcome)["continued_from"] == "attempts/2/last.ckpt"


def test_what_the_memory_monitor_ends_gets_smaller_batches_and_goes_on_where_there_is_memory(dataset, tmp_path):
    """A real kill by Ray's monitor: any node uses more than a thousandth of its memory."""
    words = dataset, tmp_path / "run", ("edema",), {"epochs": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_usage_threshold", "0.001")
        patch.setenv("RAY_task_oom_retries", "0")
        code, errors = start(*words).end()
    assert code == 1, errors
    run = RunPaths(tmp_path / "run")
    outcome = read_json(run.target("edema", 0).outcome)
    assert outcome["status"] == "oom"
    assert f"made smaller already, from {FILMS}" in outcome["error"]
    assert "exceeded threshold" in outcome["traceback"]
    sizes = [f"batch_size={FILMS // part}, accumulate={part}" for part in (2, 4, 8)]
    assert again(run, "edema/0") == [f"out of memory: goes on with {size}" for size in sizes]
    code, errors = start(*words).end()
    assert code == 0, errors
    stored = read_json(run.target("edema", 0).config)
    assert stored["reduced_from"] == {"batch_size": FILMS, "accumulate": 1}
    assert stored["config"]["batch_size"] == FILMS // 8
