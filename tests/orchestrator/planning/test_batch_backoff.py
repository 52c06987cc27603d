"""orchestrator/planning/batch_backoff.py, retries.py: out of memory, half the batch goes on, or the outcome says
what it needs.
"""

import pytest
import torch

import models.data.loading
from models.config import TrainConfig
from models.files.layout import RunPaths, read_json, read_json_lines
from orchestrator.planning.batch_backoff import as_wished, halve
from orchestrator.planning.plan import TrainRequest, plan_run
from orchestrator.training.retries import MOST_INTERRUPTIONS, Retries
from tests.small_data import make_dataset
from tests.small_run import SETTINGS, train_inline

TWO = SETTINGS | {"epochs": 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", films=90)


@pytest.fixture
def short_of_memory(monkeypatch):
    """After the `after`th batch, a training batch of `films` or more asks the system for memory that no machine has."""
    whole = models.data.loading.normalise

    def inject(films, after=0):
        count = [0]

        def normalise(batch, *words):
            count[0] += 1
            if torch.is_grad_enabled() and len(batch) >= films and count[0] > after:
                torch.empty(2**46)
            return whole(batch, *words)

        monkeypatch.setattr(models.data.loading, "normalise", normalise)

    return inject


def test_half_the_batch_goes_on_from_the_checkpoint(dataset, tmp_path, short_of_memory):
    """50 films in batches of 16 are four steps; the allocation fails in the second epoch's second."""
    short_of_memory(16, after=6)
    outcomes = train_inline(dataset, tmp_path / "run", settings=TWO)
    paths = RunPaths(tmp_path / "run").target("pneumonia", 0)
    assert (outcomes[0]["status"], outcomes[0]["attempt"]) == ("ok", 2)
    assert outcomes[0]["continued_from"] == "attempts/1/last.ckpt"  # the first epoch was not lost
    stored = read_json(paths.config)
    assert stored["reduced_from"] == {"batch_size": 16, "accumulate": 1}
    assert (stored["config"]["batch_size"], stored["config"]["accumulate"]) == (8, 2)
    events = [(line["event"], line.get("why")) for line in read_json_lines(RunPaths(tmp_path / "run").ledger)]
    assert events == [("again", "out of memory: goes on with batch_size=8, accumulate=2"), ("finished", None)]
    assert [row["epoch"] for row in read_json_lines(paths.attempt(2).history)] == [1, 2]


def test_it_stays_what_was_asked_for(dataset, tmp_path, short_of_memory):
    short_of_memory(16, after=6)
    train_inline(dataset, tmp_path / "run", settings=TWO)
    run = tmp_path / "run"
    assert plan_run(TrainRequest(dataset=dataset, out=run, settings=TWO), "cpu")[0].finished
    with pytest.raises(ValueError, match=r"batch_size: 16 -> 8"):
        plan_run(TrainRequest(dataset=dataset, out=run, settings=TWO | {"batch_size": 8}), "cpu")


def test_when_nothing_helps_it_says_what_it_needs(dataset, tmp_path, short_of_memory):
    short_of_memory(1)
    outcome = train_inline(dataset, tmp_path / "run", settings=TWO)[0]
    assert outcome["status"] == "oom"
    assert "can't allocate memory: you tried to allocate" in outcome["error"]
    assert "With batch_size=2 it takes about" in outcome["error"]
    assert "MiB by estimate. The batch was made smaller already, from 16." in outcome["error"]
    assert outcome["attempt"] == 4


@pytest.fixture
def job(dataset, tmp_path):
    return plan_run(TrainRequest(dataset=dataset, out=tmp_path / "run", settings=TWO), "cpu")[0]


def test_the_same_command_goes_on_with_the_smaller_batch_and_force_with_the_full_one(job, dataset, tmp_path):
    job.paths.new_attempt()
    halve(job.paths)
    request = {"dataset": dataset, "out": tmp_path / "run", "settings": TWO}
    again = plan_run(TrainRequest(**request), "cpu")[0]
    assert (again.config.batch_size, again.config.accumulate) == (8, 2)
    assert read_json(job.paths.config)["reduced_from"]["batch_size"] == 16
    anew = plan_run(TrainRequest(**request, force=True), "cpu")[0]
    assert (anew.config.batch_size, anew.config.accumulate) == (16, 1)
    assert "reduced_from" not in read_json(job.paths.config)


def test_halving_ends(job):
    before = read_json(job.paths.config)
    sizes = []
    while smaller := halve(job.paths):
        sizes.append((smaller.batch_size, smaller.accumulate))
    assert sizes == [(8, 2), (4, 4), (2, 8)]
    assert as_wished(read_json(job.paths.config)) == before
    TrainConfig(**before["config"])


def test_interruptions_are_followed_but_not_for_ever(job):
    retries = Retries()
    answers = [retries.again(job, "interrupted") for _ in range(MOST_INTERRUPTIONS + 1)]
    assert answers[0] == (job, "was asked to end, and goes on")
    assert answers[-1] is None
    outcome = read_json(job.paths.outcome)
    assert outcome["status"] == "interrupted"
    assert f"asked to end (SIGTERM) {MOST_INTERRUPTIONS + 1} times" in outcome["error"]
    assert [retries.again(job, status) for status in ("ok", "failed", "nan", "died", "hung")] == [None] * 5
