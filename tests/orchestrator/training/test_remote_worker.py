"""orchestrator/training/remote_worker.py: attempts, results and checkpoints of a training whose folder lies in object
storage.
"""

import json
import threading

import pytest

from models.files.layout import RunPaths, write_json
from orchestrator.planning.plan import TrainRequest, plan_run
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.object_store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.training import remote_worker
from orchestrator.training.launch import train_run
from orchestrator.training.remote_worker import Sender, claim, train_away
from tests.small_data import make_dataset
from tests.small_run import SETTINGS, silent, train_inline


def test_attempts_that_race_get_different_numbers(storage):
    store, numbers = Store(storage.uri), []
    there = store.list()
    racers = [threading.Thread(target=lambda: numbers.append(claim(store, there))) for _ in range(6)]
    for one in racers:
        one.start()
    for one in racers:
        one.join()
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    assert claim(store, store.list()) == 7


def sender_of(storage, root, number=1, status="ok"):
    write_json(root / "outcome.json", {"status": status, "attempt": number})
    (root / "weights.safetensors").write_bytes(f"of attempt {number}".encode())
    (root / "attempts" / str(number)).mkdir(parents=True)
    (root / "attempts" / str(number) / "history.jsonl").write_text("{}\n")
    (root / "attempts" / str(number) / "last.ckpt").write_text("checkpoint")
    return Sender(Mirror(Store(storage.uri), root), number)


def test_the_outcome_comes_last_and_checkpoints_go(storage, tmp_path):
    store = Store(storage.uri)
    sender = sender_of(storage, tmp_path, claim(store, {}))
    assert sender.finish()
    assert storage.order[-1] == "outcome.json"
    assert "attempts/1/last.ckpt" not in store.list()
    assert store.read("attempts/1/history.jsonl")[0]


def test_a_superseded_attempt_publishes_nothing(storage, tmp_path):
    store = Store(storage.uri)
    sender = sender_of(storage, tmp_path, claim(store, {}))
    claim(store, store.list())
    assert not sender.finish()
    assert "weights.safetensors" not in store.list()
    assert "outcome.json" not in store.list()
    sender.looked = -1e9
    sender._look_for_newer()
    assert (tmp_path / "attempts" / "2").is_dir()  # which the training itself looks for


def test_an_outcome_that_is_there_is_not_written_over(storage, tmp_path):
    store = Store(storage.uri)
    sender = sender_of(storage, tmp_path, claim(store, {}))
    store.write("outcome.json", b'{"status": "ok", "attempt": 7}')
    assert not sender.finish()
    assert json.loads(store.read("outcome.json")[0])["attempt"] == 7
    assert train_away("nowhere", storage.uri) == "ok"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", ("pneumonia",), films=90)


@pytest.mark.slow
def test_a_storage_that_is_away_neither_stops_nor_fails_a_training(dataset, storage, tmp_path, monkeypatch):
    """It goes away after the first epoch and comes back only when the training is over and waits to publish."""
    monkeypatch.setattr(remote_worker, "LOOK_SECONDS", 0.02)
    settings = SETTINGS | {"epochs": 4}
    train_inline(dataset, tmp_path / "here", settings=settings)
    with Workspace() as workspace:
        run = workspace.drive(storage.uri)
        plan_run(TrainRequest(dataset=dataset, out=run, settings=settings, workspace=workspace), "cpu")
    goal, epochs = f"{storage.uri}/pneumonia/0", []
    monkeypatch.setattr(remote_worker, "Store", lambda uri: Store(uri, patience=0.05))

    def on_epoch(row):
        epochs.append(row["epoch"])
        storage.away = True
        if row["epoch"] == 4:
            threading.Timer(1.0, setattr, (storage, "away", False)).start()

    assert train_away(str(dataset), goal, on_epoch, own_process=False) == "ok"
    assert epochs == [1, 2, 3, 4]
    weights = Store(goal).read("weights.safetensors")[0]
    assert weights == RunPaths(tmp_path / "here").target("pneumonia", 0).weights.read_bytes()


@pytest.mark.slow
def test_what_goes_on_from_a_shared_network_fetches_where_that_was(storage, tmp_path, monkeypatch):
    """Each training as if on a node of its own; `init` names the shared one from the run on, wherever that lies."""
    data = make_dataset(tmp_path / "dataset", ("pneumonia", "edema"), films=90)
    new = {"start": "shared", "folds": 2, "targets": ("edema",), "settings": SETTINGS}
    train_inline(data, tmp_path / "here", **new)
    with Workspace() as workspace:
        run = workspace.drive(storage.uri)
        done = train_run(TrainRequest(dataset=data, out=run, inline=True, workspace=workspace, **new), silent)
    assert [one["status"] for one in done] == ["ok"] * 4
    for index in (0, 1):
        here, there = RunPaths(tmp_path / "here").target("edema", index), Store(f"{storage.uri}/edema/{index}")
        assert there.read("weights.safetensors")[0] == here.weights.read_bytes()
        assert there.read("predictions.parquet")[0] == here.predictions.read_bytes()
    assert "branch.ckpt" in Store(f"{storage.uri}/shared/0").list()
    Store(f"{storage.uri}/edema/1").delete(["outcome.json"])
    Store(f"{storage.uri}/shared/1").delete(["branch.ckpt"])
    with Workspace() as workspace:
        run = workspace.drive(storage.uri)
        done = train_run(TrainRequest(dataset=data, out=run, inline=True, workspace=workspace, **new), silent)
    assert done[3]["status"] == "failed"
    assert "branch.ckpt is missing: init=shared/1" in done[3]["error"]


@pytest.mark.slow
def test_a_retry_elsewhere_goes_on_from_the_checkpoint_to_the_same_bytes(dataset, storage, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_worker, "LOOK_SECONDS", 0.02)
    settings = SETTINGS | {"epochs": 4, "dropout": 0.2}
    train_inline(dataset, tmp_path / "here", settings=settings)
    goal, seen = f"{storage.uri}/pneumonia/0", []

    def die(row):
        seen.append(row["epoch"])
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with Workspace() as workspace:
        run = workspace.drive(storage.uri)
        plan_run(TrainRequest(dataset=dataset, out=run, settings=settings, workspace=workspace), "cpu")
    with pytest.raises(KeyboardInterrupt):
        train_away(str(dataset), goal, die, own_process=False)
    monkeypatch.setenv("HILUM_CACHE", str(tmp_path / "another node"))
    assert train_away(str(dataset), goal, lambda row: seen.append(row["epoch"]), own_process=False) == "ok"
    assert seen == [1, 2, 3, 4]
    assert json.loads(Store(goal).read("outcome.json")[0])["attempt"] == 2
    local = RunPaths(tmp_path / "here").target("pneumonia", 0)
    assert Store(goal).read("weights.safetensors")[0] == local.weights.read_bytes()
    assert Store(goal).read("predictions.parquet")[0] == local.predictions.read_bytes()
    with Workspace() as workspace:
        run = workspace.drive(storage.uri)
        request = TrainRequest(dataset=dataset, out=run, settings=settings, inline=True, workspace=workspace)
        done = train_run(request, silent)
    assert done[0]["attempt"] == 2
