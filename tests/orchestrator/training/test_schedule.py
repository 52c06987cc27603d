"""orchestrator/training/schedule.py: what takes longer comes first, by films and network, or by the clock where
one has run.
"""

import dataclasses
import json

import pytest

from models.config import TrainConfig
from orchestrator.planning.plan import TrainRequest, plan_run
from orchestrator.training.schedule import film_cost, longest_first, trained_films
from tests.small_data import make_dataset

SETTINGS = {"backbone": "test_resnet", "epochs": 4, "batch_size": 8, "precision": "fp32", "device": "cpu"}


@pytest.fixture
def jobs(tmp_path):
    """Three alike, in the order of the plan."""
    dataset = make_dataset(tmp_path / "dataset", ("edema", "pneumonia", "fracture"))
    wanted = ("edema", "pneumonia", "fracture")
    return plan_run(TrainRequest(dataset=dataset, out=tmp_path / "run", targets=wanted, settings=SETTINGS), "cpu")


def names(jobs) -> list[str]:
    return [job.slug for job in longest_first(jobs)]


def changed(job, **fields):
    return dataclasses.replace(job, config=dataclasses.replace(job.config, **fields))


def timed(job, seconds: float, epochs: int) -> None:
    attempt = job.paths.new_attempt()
    attempt.history.write_text("".join(json.dumps({"seconds": seconds}) + "\n" for _ in range(epochs)))


def test_a_look_counts_a_third_of_a_training_step():
    config = TrainConfig(epochs=10, batch_size=10)
    assert trained_films(config, 105, 30, 60) == pytest.approx(10 * 100 + (10 * 30 + 60) / 3)
    assert trained_films(config, 100, 30, 60, epochs=0) == pytest.approx(20)


def test_a_larger_film_and_a_larger_network_cost_more():
    small = TrainConfig(backbone="resnet18")
    assert film_cost(small, 448) == 4 * film_cost(small, 224)
    assert film_cost(dataclasses.replace(small, image_size=448), 224) == film_cost(small, 448)
    assert film_cost(TrainConfig(backbone="resnet50"), 224) > 2 * film_cost(small, 224)


def test_what_is_alike_keeps_its_order(jobs):
    assert names(jobs) == ["edema", "pneumonia", "fracture"]


def test_more_epochs_and_larger_networks_come_first(jobs):
    edema, pneumonia, fracture = jobs
    assert names([edema, changed(pneumonia, epochs=5), changed(fracture, backbone="resnet18")]) == [
        "fracture", "pneumonia", "edema",
    ]  # fmt: skip


def test_the_clock_knows_better_than_the_table(jobs):
    """Pneumonia took half a second an epoch and fracture two; so edema, which nobody timed, is in between."""
    edema, pneumonia, fracture = jobs
    timed(pneumonia, 0.5, 1)
    timed(fracture, 2.0, 1)
    assert names(jobs) == ["fracture", "edema", "pneumonia"]


def test_what_is_nearly_done_comes_last(jobs):
    timed(jobs[0], 1.0, 3)
    timed(jobs[2], 1.0, 1)
    assert names(jobs) == ["pneumonia", "fracture", "edema"]


def test_nothing_is_left_to_sort():
    assert longest_first([]) == []
