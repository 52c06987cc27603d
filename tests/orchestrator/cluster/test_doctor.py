"""orchestrator/cluster/checks.py on made-up machines, the doctor's arithmetic, and one look at this machine
through Ray.
"""

import copy
import dataclasses
import os
import re
import stat

import pytest

from models.config import TrainConfig
from orchestrator.cluster import driver_checks, node_facts
from orchestrator.cluster.checks import Machine, Wish, judge, slots
from orchestrator.cluster.doctor import DoctorRequest, Work, _timetable, examine, hours
from orchestrator.planning.memory import Estimate, estimate
from orchestrator.training.socket_probe import LET_IN, NO_CONNECTION, REFUSED, STRANGERS, Listener
from tests.small_data import make_dataset

GIB = 2**30
VERSIONS = {"python": "3.12.1", "torch": "2.15.0", "timm": "1.0", "ray": "2.60.0", "hilum": "0.1.0"}
FACTS = {
    "versions": VERSIONS, "sources": "abc", "cpus": 8, "memory": {"total": 32 * GIB, "available": 30 * GIB},
    "shared_memory": GIB, "gpus": [{"name": "A10G", "total": 24 * GIB, "used": GIB}], "threads": {}, "written": "",
    "disk_free": 100 * GIB, "dataset": {"manifest": "m", "bytes": 5, "error": ""},
}  # fmt: skip


def machine(name: str = "one", **changes) -> Machine:
    facts = copy.deepcopy(FACTS) | changes.pop("facts", {})
    plain = {"name": name, "node": name, "cpus": 8, "gpus": 1, "facts": facts, "reads": {}, "clock": (0.01, 0.01)}
    return Machine(**plain | changes)


def wish(machines, **changes) -> Wish:
    memory = Estimate(host=3 * GIB, gpu=4 * GIB, disk=GIB, finished=GIB // 10, basis="table")
    plain = {"threads": 4, "gpus": 1.0, "jobs": 12, "memory": memory, "finished": GIB, "cache": GIB, "run": True}
    plain |= changes
    return Wish(**plain, slots={one.node: slots(one, plain["threads"], plain["gpus"]) for one in machines})


def levels(machines, **changes) -> dict[str, str]:
    return {one.what: one.level for one in judge(machines, wish(machines, **changes)) if one.level != "ok"}


def test_good_machines_are_good():
    assert levels([machine("one"), machine("two")]) == {}


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"versions": VERSIONS | {"torch": "2.14.0"}}, {"versions": "problem"}),
        ({"versions": VERSIONS | {"timm": ""}}, {"versions": "problem"}),
        ({"sources": "other"}, {"versions": "problem"}),
        ({"written": "Read-only file system: /run"}, {"storage of the run": "problem"}),
        ({"disk_free": GIB}, {"disk": "problem"}),
        ({"disk_free": 4 * GIB}, {"disk": "warning"}),
        ({"shared_memory": 64 * 2**20}, {"shared memory, two": "warning"}),
        ({"memory": {"total": 2 * GIB, "available": 2 * GIB}}, {"memory, two": "problem"}),
        ({"memory": {"total": 32 * GIB, "available": 2 * GIB}}, {"memory, two": "warning"}),
        ({"gpus": [{"name": "T4", "total": 3 * GIB, "used": 0}]}, {"GPU memory, two": "problem"}),
        ({"gpus": []}, {"GPU memory, two": "warning"}),
        ({"cpus": 2}, {"threads, two": "warning"}),
        ({"dataset": {"manifest": "", "bytes": 0, "error": "No such file: /d"}}, {"data set": "problem"}),
        ({"dataset": {"manifest": "other", "bytes": 5, "error": ""}}, {"data set": "problem"}),
    ],
)
def test_what_is_wrong_with_the_second_machine_is_found_and_answered(facts, found):
    machines = [machine("one"), machine("two", facts=facts)]
    assert levels(machines) == found
    assert all(one.advice for one in judge(machines, wish(machines)) if one.level != "ok")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"silent": "timed out", "facts": {}}, {"nodes": "problem"}),
        ({"reads": {"one": "No such file"}}, {"storage of the run": "problem"}),
        ({"clock": (9.0, 0.1)}, {"clocks": "warning"}),
        ({"clock": (-90.0, 0.1)}, {"clocks": "problem"}),
        ({"clock": (3.0, 2.9)}, {}),  # an answer that took long proves nothing
        ({"cpus": 2}, {"requests": "warning"}),
    ],
)
def test_what_shows_from_outside(changes, found):
    second = machine("two", **changes)
    if changes.get("silent"):
        second = dataclasses.replace(second, facts={})
    assert levels([machine("one"), second]) == found


def test_a_request_that_no_node_can_satisfy():
    assert levels([machine()], threads=16)["requests"] == "problem"
    assert levels([machine(gpus=0)])["requests"] == "problem"


def test_films_that_do_not_fit_into_the_page_cache():
    assert levels([machine()], cache=100 * GIB) == {"memory, one": "warning"}


@pytest.mark.parametrize(
    ("cpus", "gpus", "threads", "share", "expected"),
    [(8, 0, 3, 0, 2), (8, 2, 1, 1.0, 2), (8, 1, 2, 0.25, 4), (2, 1, 2, 0.25, 1), (64, 4, 2, 2, 2), (0, 0, 1, 0, 0),
     (16, 1, 1, 0.1, 10)],
)  # fmt: skip
def test_trainings_at_once(cpus, gpus, threads, share, expected):
    assert slots(machine(cpus=cpus, gpus=gpus), threads, share) == expected


def token_check(monkeypatch, tmp_path, mode: str | None, rights: int | None, outcome: str):
    path = tmp_path / "token"
    if rights is not None:
        path.write_text("secret", encoding="ascii")
        path.chmod(rights)
        assert stat.S_IMODE(path.stat().st_mode) == rights
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    return driver_checks.judge_token(outcome)


@pytest.mark.parametrize(
    ("mode", "rights", "outcome", "level"),
    [
        ("token", 0o600, REFUSED, "ok"),
        ("token", 0o600, LET_IN, "warning"),  # asked for here alone
        ("token", 0o644, REFUSED, "problem"),
        ("token", None, REFUSED, "problem"),
        (None, None, LET_IN, "warning"),
        ("disabled", None, LET_IN, "warning"),
        ("token", 0o600, "unclear: no answer in 60 s", "warning"),
    ],
)
def test_the_token_of_a_cluster(monkeypatch, tmp_path, mode, rights, outcome, level):
    check = token_check(monkeypatch, tmp_path, mode, rights, outcome)
    assert check.level == level
    assert bool(check.advice) == (level != "ok")


HERE = Listener(pid=1, process="raylet", address="127.0.0.1", port=7000)
OPEN = Listener(pid=1, process="raylet", address="::", port=7001)


@pytest.mark.parametrize(
    ("sockets", "outcomes", "level"),
    [
        ([HERE], (REFUSED, REFUSED), "ok"),
        ([HERE, OPEN], (REFUSED, REFUSED), "warning"),
        ([HERE], (REFUSED, LET_IN), "problem"),
        ([HERE, OPEN], (LET_IN, REFUSED), "problem"),
        ([HERE], (NO_CONNECTION, REFUSED), "warning"),  # the client should have come as far as the token
        ([], (REFUSED, REFUSED), "warning"),
    ],
)
def test_who_reaches_a_ray_of_our_own(sockets, outcomes, level):
    check = driver_checks.judge_reach(sockets, dict(zip(STRANGERS, outcomes, strict=True)))
    assert check.level == level
    assert ("raylet on :::7001" in check.found) == (OPEN in sockets)
    assert bool(check.advice) == (level != "ok")


def work(name: str, epochs: int = 10) -> Work:
    config = TrainConfig(epochs=epochs, batch_size=10, device="cpu", precision="fp32")
    return Work(name=name, config=config, films=1000, watched=300, predicted=600, memory=estimate(config, 224, 2000))


def test_hours_are_steps_and_a_third_of_a_step_for_every_film_looked_at():
    # 10 epochs x 100 steps x 3.6 s = 1 h; (10 x 300 + 600) films x 0.12 s = 0.12 h
    assert hours(work("edema"), 3.6) == pytest.approx(1.12)


def test_the_plan_puts_each_job_on_the_slot_that_is_free_first():
    machines = [machine("one", cpus=4, gpus=1), machine("two", cpus=4, gpus=1)]
    works = [work("a", 20), work("b"), work("c"), work("d")]
    seconds = {"resnet18, batch 10, fp32, 1 threads": 3.6}
    rows = _timetable(works, machines, wish(machines, threads=4), seconds)
    assert [row[2] for row in rows] == ["one", "two", "two", "one"]
    assert [row[8] for row in rows] == ["0.00 h", "0.00 h", "1.12 h", "2.22 h"]


def test_a_step_is_measured_by_a_real_training(tmp_path):
    dataset = make_dataset(tmp_path / "dataset")
    config = TrainConfig(backbone="test_resnet", batch_size=8, device="cpu", precision="fp32")
    before = sorted(os.listdir(tmp_path))
    assert 0 < node_facts.measure_step(str(dataset), config.to_dict()) < 30
    assert sorted(os.listdir(tmp_path)) == before
    with pytest.raises(RuntimeError, match="Unknown backbone"):
        node_facts.measure_step(str(dataset), config.to_dict() | {"backbone": "resnet18x"})


def test_probes_tell_who_can_read_what(tmp_path):
    facts = node_facts.look(str(tmp_path), None, "t", "one")
    assert facts["written"] == ""
    assert facts["disk_free"] > 0
    assert node_facts.read_probes(str(tmp_path), "t", ["one", "two"])["one"] == ""
    assert "No such file" in node_facts.read_probes(str(tmp_path), "t", ["two"])["two"]
    (tmp_path / "file").write_text("x", encoding="ascii")
    assert "Not a directory" in node_facts.look(str(tmp_path / "file" / "run"), None, "t", "one")["written"]


@pytest.mark.ray
def test_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    dataset = make_dataset(tmp_path / "dataset", ("pneumonia", "edema"))
    settings = {"backbone": "test_resnet", "batch_size": 8, "epochs": 1}
    diagnosis = examine(DoctorRequest(dataset=dataset, out=tmp_path / "new" / "run", settings=settings, members=2))
    assert not diagnosis.problems, diagnosis.checks
    assert [row[0] for row in diagnosis.plan] == ["edema/0", "edema/1", "pneumonia/0", "pneumonia/1"]
    assert all(float(row[7]) >= 0 for row in diagnosis.plan)
    assert "4 trainings" in diagnosis.summary[1]
    (access,) = (one for one in diagnosis.checks if one.what == "access")
    assert access.level == "ok"
    assert re.search(r"measured: \d+ listening sockets, all on loopback; .*refused.*refused", access.found)
    assert not (tmp_path / "new").exists()
