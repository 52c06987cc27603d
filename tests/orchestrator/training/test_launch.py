"""orchestrator/training/launch.py in one process: results, events, what a death becomes. Real processes:
orchestrator/training/test_launch_ray.py.
"""

import dataclasses
import types

import numpy as np
import pytest

from models.files.layout import RunPaths, read_json, read_json_lines, write_json
from orchestrator.planning.plan import Job, TrainRequest, plan_run
from orchestrator.storage.workspace import DrivenRun
from orchestrator.training import launch
from orchestrator.training.launch import train_run
from tests.small_data import disc_films, write_dataset
from tests.small_run import SETTINGS, train_inline

ONE = SETTINGS | {"epochs": 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """`pneumonia` can be trained; `fracture` has nobody."""
    truth = {"fracture": np.zeros(90), "pneumonia": (np.random.default_rng(0).random(90) < 0.4).astype(float)}
    root = tmp_path_factory.mktemp("data") / "dataset"
    return write_dataset(root, truth, disc_films(truth["pneumonia"]))


def test_a_target_that_fails_is_a_result_and_the_next_one_is_trained(dataset, tmp_path):
    events = []
    outcomes = train_inline(dataset, tmp_path / "run", events.append, settings=ONE, targets=("fracture", "pneumonia"))
    assert [(one["job"], one["status"]) for one in outcomes] == [("fracture/0", "failed"), ("pneumonia/0", "ok")]
    stored = read_json(RunPaths(tmp_path / "run").target("fracture", 0).outcome)
    assert "0 positives" in stored["error"]
    assert "Traceback" in stored["traceback"]
    told = [(one["job"], one["event"]) for one in events]
    assert told[:4] == [
        ("fracture/0", "planned"),
        ("pneumonia/0", "planned"),
        ("fracture/0", "started"),
        ("fracture/0", "finished"),
    ]
    assert told[4:] == [("pneumonia/0", one) for one in ("started", "epoch", "epoch", "finished")]
    ledger = read_json_lines(RunPaths(tmp_path / "run").ledger)
    assert [(one["job"], one["status"]) for one in ledger] == [("fracture/0", "failed"), ("pneumonia/0", "ok")]


def test_the_same_command_again_trains_what_is_missing_only(house, tmp_path):
    run = RunPaths(house / "run")
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*.safetensors")}
    events = []
    outcomes = train_inline(house / "dataset", run.root, events.append)
    assert [one["status"] for one in outcomes] == ["ok", "ok"]
    assert {(one["event"], one["finished"]) for one in events} == {("planned", True)}
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*.safetensors")} == before


def test_interrupted_in_an_epoch_it_goes_on_to_the_same_bytes(dataset, tmp_path):
    train_inline(dataset, tmp_path / "whole", settings=ONE, targets=("pneumonia",))

    def ctrl_c(event):
        if event["event"] == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_inline(dataset, tmp_path / "broken", ctrl_c, settings=ONE, targets=("pneumonia",))
    broken = RunPaths(tmp_path / "broken").target("pneumonia", 0)
    assert not broken.outcome.exists()
    outcomes = train_inline(dataset, tmp_path / "broken", settings=ONE, targets=("pneumonia",))
    assert (outcomes[0]["status"], outcomes[0]["attempt"]) == ("ok", 2)
    assert broken.weights.read_bytes() == RunPaths(tmp_path / "whole").target("pneumonia", 0).weights.read_bytes()


def test_one_driver_at_a_time(dataset, tmp_path):
    request = TrainRequest(dataset=dataset, out=tmp_path / "run", inline=True, settings=ONE, targets=("pneumonia",))

    def second(event):
        if event["event"] == "planned":
            with pytest.raises(ValueError, match=r"Another hilum command is working on .*run\. Wait for it, or give"):
                train_run(request, lambda event: None)
            raise InterruptedError("seen")

    with pytest.raises(InterruptedError, match="seen"):
        train_run(request, second)
    assert train_run(request, lambda event: None)[0]["status"] == "ok"  # the lock went with its holder


@pytest.fixture
def job(dataset, tmp_path):
    return plan_run(TrainRequest(dataset=dataset, out=tmp_path / "run", targets=("pneumonia",)), "cpu")[0]


class RayError(Exception):
    pass


class OutOfMemoryError(RayError):
    pass


def fake_ray(answer):
    """`ray.get` returns `answer`, or raises it."""

    def get(reference):
        if isinstance(answer, Exception):
            raise answer
        return answer

    return types.SimpleNamespace(
        get=get, exceptions=types.SimpleNamespace(RayError=RayError, OutOfMemoryError=OutOfMemoryError)
    )


@pytest.mark.parametrize(
    ("answer", "status", "advice"),
    [
        (RayError("the worker died; its log speaks of memory"), "died", "same command again"),
        (OutOfMemoryError("killed"), "oom", "batch_size"),
        ("superseded", "died", "same command again"),
    ],
)
def test_a_process_that_left_no_outcome_gets_one(job: Job, answer, status, advice):
    job.paths.new_attempt()
    launch._settle(fake_ray(answer), None, job)
    outcome = read_json(job.paths.outcome)
    assert (outcome["status"], outcome["attempt"], outcome["pid"]) == (status, 1, None)
    assert advice in outcome["error"]


@pytest.mark.parametrize("answer", ["ok", RayError("died after its outcome was written")])
def test_an_outcome_that_is_there_stands(job: Job, answer):
    write_json(job.paths.outcome, {"status": "ok"})
    launch._settle(fake_ray(answer), None, job)
    assert read_json(job.paths.outcome) == {"status": "ok"}


def test_a_target_that_is_always_asked_to_end_gets_an_outcome_and_the_others_go_on(dataset, tmp_path, monkeypatch):
    jobs = plan_run(TrainRequest(dataset=dataset, out=tmp_path / "run"), "cpu")
    always, other = (job.paths for job in jobs)
    always.new_attempt().checkpoint.write_bytes(b"kept")
    submitted, events, run = [], [], DrivenRun(tmp_path / "run")

    def submit(job):
        submitted.append(job.name)
        return f"{job.name} {len(submitted)}"

    def answer(reference):
        """The other one goes on until the first has had its 101st."""
        if reference.startswith(jobs[0].name) or not always.outcome.exists():
            return "interrupted"
        write_json(other.outcome, {"status": "ok"})
        return "ok"

    ray = fake_ray(None)
    ray.get, ray.wait = answer, lambda references, **limits: (references, [])
    monkeypatch.setattr(launch, "ClusterLiveness", lambda ray: types.SimpleNamespace(check=lambda: None))
    running = {submit(job): job for job in jobs}
    launch._follow(ray, run, running, {job.name: launch.Watch(job) for job in jobs}, events.append, submit)
    assert submitted.count(jobs[0].name) == 101
    outcome = read_json(always.outcome)
    assert outcome["status"] == "interrupted"
    assert "asked to end (SIGTERM) 101 times" in outcome["error"]
    assert always.attempt(1).checkpoint.exists()
    assert [one["job"] for one in events if one["event"] == "finished"] == [job.name for job in jobs]
    assert not plan_run(TrainRequest(dataset=dataset, out=tmp_path / "run"), "cpu")[0].finished


@pytest.mark.parametrize(("address", "shares"), [(None, [0.6666] * 3), ("10.0.0.1:6379", [None] * 3)])
def test_the_last_round_shares_the_cores_of_a_ray_of_its_own_alone(dataset, tmp_path, monkeypatch, address, shares):
    submitted = []
    two_cores = [{"Alive": True, "Resources": {"CPU": 2}}]
    ray = types.SimpleNamespace(nodes=lambda: two_cores, cluster_resources=lambda: {"CPU": 2})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(launch, "Submission", lambda *words: lambda job: submitted.append(job.cpus) or job.name)
    monkeypatch.setattr(launch, "_follow", lambda ray, run, running, *rest: running.clear())
    request = TrainRequest(dataset=dataset, out=tmp_path / "run", targets=("pneumonia",), members=3, settings=ONE,
                           address=address)  # fmt: skip
    launch._run_on_ray(ray, request, DrivenRun(tmp_path / "run"), lambda event: None)
    assert submitted == shares


def test_every_job_asks_for_its_share_and_all_are_one_function_to_ray(job, dataset):
    asked, functions = {}, []

    class Task:
        def options(self, **options):
            asked.update(options)
            return self

        def remote(self, *words):
            return words

    ray = types.SimpleNamespace(nodes=list, remote=lambda **options: lambda one: functions.append(one) or Task())
    submit = launch.Submission(ray, TrainRequest(dataset=dataset, out=job.paths.root), DrivenRun(job.paths.root), 0)
    for cpus, wanted in ((None, 1), (0.6666, 0.6666)):
        submit(dataclasses.replace(job, cpus=cpus))
        assert asked["num_cpus"] == wanted
    assert functions == [launch.train_in_worker]
