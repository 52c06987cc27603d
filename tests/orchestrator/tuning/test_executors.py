"""orchestrator/tuning/executors.py with a real Ray: drivers and trials that are killed or interrupted."""

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from bench.search_course import Course, processes_of
from bench.search_kill import run_course
from models.files.layout import RunPaths
from orchestrator.tuning.trials import SearchPaths
from tests.orchestrator.tuning.test_tune import FIXED
from tests.processes import hilum_words, quiet_environment, wait_for
from tests.small_data import write_dataset

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Noise, and two findings by chance: what is looked at here is who ran when."""
    draws = np.random.default_rng(1)
    truth = {slug: (draws.random(180) < 0.4).astype(float) for slug in ("pneumonia", "edema")}
    films = draws.integers(0, 256, (180, 32, 32), dtype=np.uint8)
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", truth, films)


def test_a_killed_search_finishes_every_trial_once(dataset, tmp_path):
    """The full form is `python -m bench.search_kill`: here two findings, one kill of the driver, one of a trial."""
    course = Course(
        dataset=dataset, out=tmp_path / "run", targets=("pneumonia", "edema"), trials=2,
        settings=FIXED | {"epochs": 12}, kills=1, repeats=1,
    )  # fmt: skip
    result = run_course(course)
    log = (course.out / "driver.log").read_text()
    assert result.faults(course) == [], log
    assert (result.finished, result.kills, result.statuses.get("died", 0)) == (4, 1, 0), log


def test_ctrl_c_ends_every_trial_and_the_sentence_says_how_to_go_on(dataset, tmp_path):
    out = tmp_path / "run"
    words = [word for name, value in (FIXED | {"epochs": 400}).items() for word in ("--set", f"{name}={value}")]
    command = [*hilum_words(), "tune", str(dataset), "--out", str(out), "--targets", "pneumonia", "--trials", "2"]
    driver = subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True, env=quiet_environment())
    try:
        trial = SearchPaths(RunPaths(out), "pneumonia").trial(0)
        wait_for(lambda: trial.attempt(1).checkpoint.exists())
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=60)
    finally:
        driver.kill()
    assert driver.returncode == 130
    assert "give the same command again" in errors
    deadline = time.monotonic() + 20
    while processes_of(Path(out)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(Path(out)) == []
    assert trial.attempt(1).checkpoint.exists()
    assert not trial.outcome.exists()
