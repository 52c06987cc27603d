"""orchestrator/storage/mirror.py: what goes and comes, in which order, and what is removed."""

import pytest

from orchestrator.storage.mirror import Mirror, no_checkpoints, small_files
from orchestrator.storage.object_store import Store


@pytest.fixture
def store(storage):
    return Store(storage.uri)


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def target(root):
    for name in ("outcome.json", "weights.safetensors", "attempts/1/last.ckpt", "attempts/1/history.jsonl"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_markers_go_last_and_checkpoints_after_their_files(store, storage, tmp_path):
    target(tmp_path)
    Mirror(store, tmp_path).push()
    assert storage.order[-2:] == ["last.ckpt", "outcome.json"]
    assert sorted(storage.order[:2]) == ["history.jsonl", "weights.safetensors"]


def test_only_what_changed_goes_and_comes(store, storage, tmp_path):
    here, there = Mirror(store, tmp_path / "here"), Mirror(store, tmp_path / "there")
    target(tmp_path / "here")
    (tmp_path / "here" / ".tmp-half").write_text("half")
    assert len(here.push()) == 4
    assert len(there.pull()) == 4
    assert (tmp_path / "there" / "attempts" / "1" / "last.ckpt").read_text() == "attempts/1/last.ckpt"
    assert here.push() == []
    assert there.pull() == []
    (tmp_path / "here" / "attempts" / "1" / "history.jsonl").write_text("more")
    assert here.push("attempts/1") == ["attempts/1/history.jsonl"]
    assert there.pull() == ["attempts/1/history.jsonl"]
    assert there.push() == []


def test_what_is_removed_here_goes_there_and_then_everywhere(store, tmp_path):
    here, there = Mirror(store, tmp_path / "here"), Mirror(store, tmp_path / "there")
    target(tmp_path / "here")
    here.push()
    there.pull()
    (tmp_path / "here" / "outcome.json").unlink()
    assert here.push(removing=False) == []
    assert "outcome.json" in store.list()
    here.push()
    assert "outcome.json" not in store.list()
    there.pull()
    assert not (tmp_path / "there" / "outcome.json").exists()
    assert (tmp_path / "there" / "weights.safetensors").exists()


def test_with_an_outcome_goes_what_was_never_fetched_beside_it(store, tmp_path):
    target(tmp_path / "worker")
    (tmp_path / "worker" / "attempts" / "1" / "claim.json").write_text("{}")
    Mirror(store, tmp_path / "worker").push()
    driver = Mirror(store, tmp_path / "driver", small_files)
    assert "weights.safetensors" not in driver.pull()
    (tmp_path / "driver" / "outcome.json").unlink()
    driver.push()
    left = set(store.list())
    assert left == {"attempts/1/claim.json", "attempts/1/history.jsonl", "attempts/1/last.ckpt"}
    for path in (tmp_path / "driver" / "attempts" / "1").iterdir():
        path.unlink()
    driver.push()
    assert store.list() == {}


def test_a_finished_run_is_read_without_checkpoints(store, tmp_path):
    target(tmp_path / "worker")
    (tmp_path / "worker" / "branch.ckpt").write_bytes(b"of a shared network, where others go on")
    Mirror(store, tmp_path / "worker").push()
    names = Mirror(store, tmp_path / "reader", no_checkpoints).pull()
    assert sorted(names) == ["attempts/1/history.jsonl", "outcome.json", "weights.safetensors"]


def test_a_checkpoint_that_is_replaced_while_it_waits_goes_as_it_was(store, tmp_path, monkeypatch):
    target(tmp_path)
    mirror = Mirror(store, tmp_path)
    send = mirror._send

    def send_and_replace(name, path):
        if name.endswith("history.jsonl"):
            new = tmp_path / "new"
            new.write_text("a later checkpoint")
            new.replace(tmp_path / "attempts" / "1" / "last.ckpt")
        send(name, path)

    monkeypatch.setattr(mirror, "_send", send_and_replace)
    mirror.push()
    assert store.read("attempts/1/last.ckpt")[0] == b"attempts/1/last.ckpt"
    monkeypatch.setattr(mirror, "_send", send)
    assert "attempts/1/last.ckpt" in mirror.push()
