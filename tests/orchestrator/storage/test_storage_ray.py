"""A run in object storage whose driver is killed twice, with a real Ray: the same weights as on this machine's disk."""

import json
import signal
import subprocess

import pytest

from models.files.layout import RunPaths
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.object_store import Store
from tests.conftest import PROJECT
from tests.processes import all_gone, command, descendants, hilum_words, quiet_environment, wait_for
from tests.small_data import disc_dataset
from tests.small_run import SETTINGS, train_inline

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TARGETS = ("edema", "pneumonia")
LONG = SETTINGS | {"epochs": 60, "dropout": 0.2}
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # Ray's own, which wait a minute for a Ray that was killed


def start(data: str, run: str) -> subprocess.Popen:
    words = [*hilum_words(), "train", data, "--out", run, "--targets", ",".join(TARGETS)]
    words += ["--from-scratch", "--folds", "1"]
    words += [word for name, value in LONG.items() for word in ("--set", f"{name}={value}")]
    return subprocess.Popen(
        words, cwd=PROJECT, env=quiet_environment(), start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_on_its_way(driver: subprocess.Popen, store: Store, attempt: int) -> None:
    """SIGKILL once both trainings have sent a checkpoint."""
    wanted = {f"{slug}/0/attempts/{attempt}/last.ckpt" for slug in TARGETS}
    try:
        wait_for(lambda: wanted <= set(store.list()) or driver.poll() is not None)
        assert driver.poll() is None, driver.communicate()
        everyone = descendants(driver.pid)
    finally:
        driver.kill()
    driver.communicate()
    assert all_gone([pid for pid in everyone if command(pid) not in AGENTS]) == []
    assert not any(f"{slug}/0/outcome.json" in store.list() for slug in TARGETS)


def test_killed_twice_it_ends_at_the_bytes_of_a_local_run(storage, tmp_path):
    dataset = disc_dataset(tmp_path / "dataset", TARGETS)
    data, run = f"{storage.uri}/data", f"{storage.uri}/run"
    Mirror(Store(data), dataset).push()
    train_inline(dataset, tmp_path / "local", settings=LONG, targets=TARGETS)
    store = Store(run)
    for attempt in (1, 2):
        kill_on_its_way(start(data, run), store, attempt)
    driver = start(data, run)
    _, errors = driver.communicate(timeout=300)
    assert driver.returncode == 0, errors
    for slug in TARGETS:
        local = RunPaths(tmp_path / "local").target(slug, 0)
        assert store.read(f"{slug}/0/weights.safetensors")[0] == local.weights.read_bytes()
        assert store.read(f"{slug}/0/predictions.parquet")[0] == local.predictions.read_bytes()
        outcome = json.loads(store.read(f"{slug}/0/outcome.json")[0])
        assert outcome["attempt"] == 3
        assert outcome["continued_from"].startswith("attempts/2/")
    assert json.loads(store.read("plan.json")[0])["dataset"] == data
    events = [json.loads(line)["event"] for line in store.read("ledger.jsonl")[0].decode().splitlines()]
    assert events == ["begin", "begin", "begin", "finished", "finished", "end"]
    assert storage.downloads("images.u8") == 1
    assert not any(name.endswith(".ckpt") for name in store.list())


def test_ctrl_c_with_the_storage_away_ends_soon_and_the_run_goes_on_when_it_is_back(storage, tmp_path):
    dataset = disc_dataset(tmp_path / "dataset", TARGETS)
    data, run = f"{storage.uri}/data", f"{storage.uri}/run"
    Mirror(Store(data), dataset).push()
    store, driver = Store(run), start(data, run)
    wanted = {f"{slug}/0/attempts/1/last.ckpt" for slug in TARGETS}
    try:
        wait_for(lambda: wanted <= set(store.list()) or driver.poll() is not None)
        assert driver.poll() is None, driver.communicate()
        storage.away = True
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=75)
    finally:
        storage.away = False
        driver.kill()
    assert driver.returncode == 130, errors
    assert "the same command goes on from what is" in " ".join(errors.split())
    driver = start(data, run)
    _, errors = driver.communicate(timeout=300)
    assert driver.returncode == 0, errors
    assert all(json.loads(store.read(f"{slug}/0/outcome.json")[0])["attempt"] == 2 for slug in TARGETS)
