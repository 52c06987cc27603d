"""A command that slept while another one took its place in object storage: it overwrites nothing of its successor's."""

import json
import os
import signal
import subprocess
import sys

import pytest

from orchestrator.storage import lease as module
from orchestrator.storage.lease import Lease
from orchestrator.storage.object_store import Store
from orchestrator.storage.workspace import Workspace
from tests.conftest import PROJECT
from tests.processes import wait_for

EXPIRY = (0.1, 0.5)  # renewed every 0.1 s, taken over after 0.5 s

# As if on another machine: a process of this one that is stopped is seen to live, and never taken over.
SLEEPER = """
import os, signal, sys
from orchestrator.storage import lease
from orchestrator.storage.workspace import Workspace

uri, before = sys.argv[1], int(sys.argv[2])
lease.Lease.__init__.__defaults__ = (0.1, 0.5)
lease._place = lambda: "another machine"
asked = []

def sleep_after(held):
    confirm(held)
    asked.append(1)
    if len(asked) == before:
        os.kill(os.getpid(), signal.SIGSTOP)

if before:
    confirm, lease.Lease.confirm = lease.Lease.confirm, sleep_after
with Workspace() as workspace:
    out = workspace.write(uri)
    (out / "weights.safetensors").write_text("the sleeper's")
    (out / "bundle.json").write_text("{}")
    if not before:
        os.kill(os.getpid(), signal.SIGSTOP)
"""


def stopped(process):
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("before", [0, 1, 2])
def test_it_stops_and_what_its_successor_made_stays(storage, monkeypatch, before):
    """It sleeps before it sends anything, or after it has made sure of its lease for the weights, or for the marker."""
    uri = f"{storage.uri}/bundle"
    sleeper = subprocess.Popen([sys.executable, "-c", SLEEPER, uri, str(before)], cwd=PROJECT, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: stopped(sleeper) or sleeper.poll() is not None, 60)
        assert sleeper.poll() is None, sleeper.communicate()
        monkeypatch.setattr(Lease.__init__, "__defaults__", EXPIRY)
        monkeypatch.setattr(module, "LOOK", 0.02)
        with Workspace() as workspace:
            out = workspace.write(uri)
            (out / "weights.safetensors").write_text("the successor's")
            (out / "bundle.json").write_text(json.dumps({"made by": "the successor"}))
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    _, errors = sleeper.communicate(timeout=60)
    assert sleeper.returncode == 1
    assert b"LeaseLost: Another hilum command has taken over" in errors
    assert Store(uri).read("weights.safetensors")[0] == b"the successor's"
    assert json.loads(Store(uri).read("bundle.json")[0]) == {"made by": "the successor"}
