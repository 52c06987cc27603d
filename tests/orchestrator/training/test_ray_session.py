"""orchestrator/training/ray_session.py with a stand-in for Ray: settings before the import, the address, room for a
target.
"""

import contextlib
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from orchestrator.training.private_ray import LOOPBACK_ALONE, PREFIX
from orchestrator.training.ray_session import (
    OWN_SETTINGS,
    SETTINGS,
    ask_to_end,
    connected,
    end_tasks,
    own_cluster,
    require_room,
)
from tests.conftest import PROJECT


def fake_ray(nodes=(), fails=None):
    """A module with the few functions that the launcher calls; `calls` keeps what it was asked."""
    ray = types.ModuleType("ray")
    ray.calls = []

    def init(address, **options):
        ray.calls.append(("init", address, options, dict(os.environ)))
        if fails:
            raise fails

    ray.init = init
    ray.shutdown = lambda: ray.calls.append(("shutdown",))
    ray.is_initialized = lambda: False
    ray.nodes = lambda: [{"Alive": alive, "Resources": resources} for alive, resources in nodes]
    return ray


@pytest.fixture
def clean(monkeypatch):
    """No settings of Ray's; what the test adds to the environment goes again."""
    for name in [*SETTINGS, *OWN_SETTINGS, "RAY_ADDRESS"]:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it whatever happens to it
        monkeypatch.delenv(name)
    return monkeypatch


def begin(clean, ray, address=None):
    clean.setitem(sys.modules, "ray", ray)
    with connected(address) as module:
        assert module is ray
    return ray.calls


def test_settings_stand_in_the_environment_before_ray_starts_and_it_is_ended(clean):
    calls = begin(clean, fake_ray())
    assert [call[0] for call in calls] == ["init", "shutdown"]
    _, address, options, environment = calls[0]
    assert address == "local"
    assert {name: environment.get(name) for name in SETTINGS} == dict(SETTINGS)
    assert options["include_dashboard"] is False
    assert options["object_store_memory"] < 2**30


def test_what_the_user_set_stands(clean):
    clean.setenv("RAY_SCHEDULER_EVENTS", "1")
    assert begin(clean, fake_ray())[0][3]["RAY_SCHEDULER_EVENTS"] == "1"
    assert os.environ["RAY_SCHEDULER_EVENTS"] == "1"


@pytest.mark.parametrize(
    ("given", "environment", "wanted"),
    [
        ("10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.1:6379"),
        (None, "10.0.0.2:6379", "10.0.0.2:6379"),
        (None, "", "local"),
    ],
)
def test_the_address_is_the_option_then_the_environment_then_here(clean, given, environment, wanted):
    if environment:
        clean.setenv("RAY_ADDRESS", environment)
    calls = begin(clean, fake_ray(), given)
    assert calls[0][1] == wanted
    assert ("object_store_memory" in calls[0][2]) == own_cluster(given) == (wanted == "local")


def test_metrics_are_off_on_this_machine_alone(clean):
    there, here = begin(clean, fake_ray(), "10.0.0.1:6379")[0][3], begin(clean, fake_ray())[0][3]
    assert not set(OWN_SETTINGS) & set(there)
    assert {name: here[name] for name in OWN_SETTINGS} == dict(OWN_SETTINGS)


OF_A_CLUSTER = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/of/the/cluster", "RAY_AUTH_TOKEN": "of the cluster"}


@pytest.mark.parametrize("users", [{}, {"RAY_AUTH_MODE": "disabled"}, OF_A_CLUSTER])
@pytest.mark.parametrize("fails", [None, RuntimeError("no Ray")])
def test_a_ray_of_its_own_has_a_token_of_its_own_and_the_environment_is_as_before(clean, users, fails):
    for name in OF_A_CLUSTER:
        clean.delenv(name, raising=False)
    for name, value in users.items():
        clean.setenv(name, value)
    before, ray = dict(os.environ), fake_ray(fails=fails)
    with pytest.raises(RuntimeError, match="no Ray") if fails else contextlib.nullcontext():
        begin(clean, ray)
    _, _, _, environment = ray.calls[0]
    path = Path(environment["RAY_AUTH_TOKEN_PATH"])
    assert environment["RAY_AUTH_MODE"] == "token"
    assert path.name.startswith(PREFIX)
    assert "RAY_AUTH_TOKEN" not in environment
    assert environment.items() >= LOOPBACK_ALONE.items()
    assert not path.exists()
    assert dict(os.environ) == before
    _, _, _, there = begin(clean, fake_ray(), "10.0.0.1:6379")[0]
    assert {name: there[name] for name in OF_A_CLUSTER if name in there} == users
    assert not LOOPBACK_ALONE.keys() & there.keys()


def test_it_is_ended_when_the_work_fails(clean):
    ray = fake_ray()
    clean.setitem(sys.modules, "ray", ray)
    with pytest.raises(RuntimeError, match="the work"), connected():
        raise RuntimeError("the work")
    assert ray.calls[-1] == ("shutdown",)


def test_a_second_ctrl_c_does_not_break_the_end_of_ray(clean):
    ray, before = fake_ray(), signal.getsignal(signal.SIGINT)
    ray.shutdown = lambda: signal.raise_signal(signal.SIGINT)
    clean.setitem(sys.modules, "ray", ray)
    with pytest.raises(KeyboardInterrupt, match="the first"), connected():
        raise KeyboardInterrupt("the first")
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    signal.signal(signal.SIGINT, before)


def test_a_ray_that_runs_already_is_used_and_left_running(clean):
    ray = fake_ray()
    ray.is_initialized = lambda: True
    assert begin(clean, ray) == []


def test_an_address_where_nothing_answers_is_a_sentence(clean):
    with pytest.raises(ValueError, match=r"No Ray cluster answers at '10\.9\.9\.9:1'.*ray start --head.*--address"):
        begin(clean, fake_ray(fails=ConnectionError("refused")), "10.9.9.9:1")


NODES = [(True, {"CPU": 2.0}), (True, {"CPU": 4.0, "GPU": 1.0}), (False, {"CPU": 64.0, "GPU": 8.0})]


@pytest.mark.parametrize(
    ("ends_at", "asked", "forced"),
    [
        ({"one": 0, "two": 0}, [], []),
        ({"one": 0, "two": 5}, ["two"], ["two"]),
        ({"one": 5, "two": 99}, ["one", "two"], ["one", "two"]),
    ],
)
def test_what_has_answered_is_never_cancelled(ends_at, asked, forced):
    cancelled, waits = [], []

    def wait(references, num_returns, timeout):
        assert num_returns == len(references)
        waits.append(timeout)
        return [], [one for one in references if ends_at[one] > timeout]

    ray = types.SimpleNamespace(wait=wait, cancel=lambda one, force=False: cancelled.append((one, force)))
    ask_to_end(ray, {"one": 1, "two": 2}, 10)
    assert (cancelled, waits) == ([(one, False) for one in asked], [0, 10])
    cancelled.clear()
    end_tasks(ray, {"one": 1, "two": 2})
    assert cancelled == [(one, True) for one in forced]


def test_nothing_to_end_and_a_refusal_stop_nothing():
    calls = []

    def cancel(one, force=False):
        calls.append((one, force))
        raise RuntimeError("its node is gone")

    ray = types.SimpleNamespace(wait=lambda all_, num_returns, timeout: ([], all_), cancel=cancel)
    end_tasks(ray, {})
    end_tasks(ray, ["one", "two"])
    ask_to_end(ray, ["one"], 1)
    assert calls == [("one", True), ("two", True), ("one", False)]


@pytest.mark.parametrize(("cpus", "gpus"), [(1, 0), (4, 0), (4, 1), (2, 0.25)])
def test_room_on_one_node(cpus, gpus):
    require_room(fake_ray(NODES), cpus, gpus)


@pytest.mark.parametrize(("cpus", "gpus"), [(5, 0), (6, 1), (1, 2), (64, 8)])
def test_what_no_living_node_has_is_refused_with_what_there_is(cpus, gpus):
    with pytest.raises(ValueError, match=r"2 CPUs, 0 GPUs; 4 CPUs, 1 GPUs\. Lower --set threads"):
        require_room(fake_ray(NODES), cpus, gpus)


def test_importing_the_launcher_does_not_import_ray():
    code = "import sys, orchestrator.training.launch; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=120).returncode == 0


HERE = """
import os
from orchestrator.training.ray_session import UNWANTED, connected
from tests.processes import command, descendants
with connected() as ray:
    from ray._private import ray_constants, utils
    from ray._private.node import Node
    assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid()
    print(*(command(one) for one in descendants(os.getpid())), sep="\\n")
    print(all(getattr(Node, name).__name__ == name for name in UNWANTED),
          utils.get_dashboard_dependency_error(), ray_constants.SETUP_WORKER_FILENAME)
"""


@pytest.mark.ray
def test_a_ray_of_its_own_has_no_process_that_nobody_needs():
    """If a new version of Ray names them otherwise, this says so."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", HERE], env=environment, cwd=PROJECT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[-1] == "True None setup_worker.py"  # and Ray is left as it was
    assert any("raylet" in line and "orchestrator/training/ray_worker_start.py" in line for line in lines)
    unwanted = [line for line in lines for word in ("dashboard.py", "monitor.py", "log_monitor") if word in line]
    assert unwanted == []
