"""orchestrator/storage/lease.py: one holder, whatever becomes of it."""

import json
import subprocess
import sys
import time

import pytest

from orchestrator.storage import lease as module
from orchestrator.storage.lease import NAME, Lease, LeaseLost
from orchestrator.storage.object_store import StorageError, Store
from tests.processes import wait_for


@pytest.fixture
def store(storage, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.02)
    return Store(storage.uri)


def held_elsewhere(store, beat=0, **changes):
    body = {"owner": "other", "beat": beat, "host": "node7", "pid": 1, "place": "node7", "began": "1"} | changes
    store.write(NAME, json.dumps(body).encode())


def test_a_second_one_is_refused_while_the_first_lives(store):
    with Lease(store), pytest.raises(ValueError, match="Another hilum command is working on s3://house/"):
        Lease(store).__enter__()
    with Lease(store):
        pass


def test_of_a_process_of_this_machine_that_is_gone_it_is_taken_at_once(store, storage):
    code = "import os, sys; from orchestrator.storage.lease import Lease\n"
    code += "from orchestrator.storage.object_store import Store\n"
    code += "Lease(Store(sys.argv[1])).__enter__(); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, storage.uri], timeout=120)
    assert done.returncode == -9
    assert json.loads(store.read(NAME)[0])["pid"]
    with Lease(store, expiry=10**6) as lease:
        lease.require()


def test_of_another_machine_it_is_taken_when_it_stops_changing(store):
    held_elsewhere(store)
    with Lease(store, expiry=0.3) as lease:
        assert json.loads(store.read(NAME)[0])["owner"] == lease.token


def test_of_another_machine_it_is_not_taken_while_it_changes(store, monkeypatch):
    held_elsewhere(store)
    beats = iter(range(1, 100))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: held_elsewhere(store, next(beats)))
    with pytest.raises(ValueError, match=r"process 1 on node7\)"):
        Lease(store, expiry=10**6).__enter__()


def test_a_clock_that_was_set_changes_nothing(store, monkeypatch):
    """Neither what the holder's clock says nor what ours says is compared: only that nothing changes."""
    held_elsewhere(store, time=10**12)
    monkeypatch.setattr(module.time, "time", lambda: 0.0)
    with Lease(store, expiry=0.3) as lease:
        lease.require()


def test_a_holder_that_slept_learns_that_it_has_lost(store):
    with Lease(store, renew=10**6) as lease:
        held_elsewhere(store)
        lease.require()  # it has just been renewed
        lease.renewed -= lease.expiry
        with pytest.raises(LeaseLost, match="Another hilum command has taken over"):
            lease.require()
    assert json.loads(store.read(NAME)[0])["owner"] == "other"


def test_it_is_renewed_and_a_storage_that_is_away_does_not_end_it(store, storage):
    impatient = Store(storage.uri, patience=0.1)
    with Lease(impatient, renew=0.05) as lease:
        wait_for(lambda: lease.beat > 2)
        storage.away = True
        reached = lease.beat
        wait_for(lambda: lease.beat > reached + 1)
        lease.require()
        storage.away = False
        tag = lease.tag
        wait_for(lambda: lease.tag != tag)
        lease.require()


def test_an_answer_that_was_lost_is_no_loss(store):
    """A conditional write that is sent twice is refused the second time."""
    with Lease(store, renew=10**6) as lease:
        lease.beat += 1
        store.replace(NAME, lease._content(), lease.tag)
        lease.renewed -= lease.expiry
        lease.require()


def test_before_a_write_a_lease_that_may_have_run_out_has_to_be_renewed(storage, store):
    """A laptop wakes up before its network does: nobody can say that the lease is still its own."""
    with Lease(Store(storage.uri, patience=0.1), renew=10**6) as lease:
        lease.renewed -= lease.expiry
        storage.away = True
        lease.require()  # a driver whose storage is away keeps its trainings going
        with pytest.raises(StorageError, match="does not answer"):
            lease.confirm()
        storage.away = False
        lease.confirm()


def test_letting_go_does_not_wait_for_a_storage_that_is_away(storage, store, monkeypatch):
    monkeypatch.setattr(module, "RELEASE", 0.3)
    with Lease(Store(storage.uri, patience=20), renew=0.05) as lease:
        storage.away = True
        wait_for(lambda: lease.beat > 0)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    storage.away = False
