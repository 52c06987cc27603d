"""orchestrator/storage/workspace.py and the commands on it: data sets, runs and bundles by URI."""

import json
import pickle
import time

import pandas as pd
import pytest

from models.files.layout import BundlePaths, DatasetPaths, RunPaths, read_json, read_json_lines
from orchestrator.cli.app import main
from orchestrator.cluster import node_facts
from orchestrator.cluster.probes import missing_folders, remove_probes
from orchestrator.datasets.dataset import load_dataset
from orchestrator.inference.bundle import load_bundle
from orchestrator.storage import lease, workspace
from orchestrator.storage.lease import Lease, LeaseLost
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.object_store import Store
from orchestrator.storage.staging import staged_bundle, staged_dataset
from orchestrator.storage.workspace import Workspace, append_line
from orchestrator.training.launch import record
from tests.nih_like import write_nih_like
from tests.small_data import disc_films
from tests.small_run import write_films


def send(folder, uri):
    Mirror(Store(uri), folder).push()
    return uri


def test_a_folder_of_this_machine_is_left_alone(tmp_path):
    with Workspace() as workspace:
        run = workspace.driven(workspace.drive(tmp_path / "run"))
        assert run.root == tmp_path / "run"
        assert workspace.write(f"file://{tmp_path}/out") == tmp_path / "out"
        assert workspace.read_bundle(None) is None
        assert workspace.address(run.root / "a") == run.address(run.root / "a") == str(tmp_path / "run" / "a")
        assert workspace.path_from(tmp_path / "bundles" / "one", run.root) == "../../run"


def test_a_driver_sees_what_others_write_and_sends_what_it_writes(storage, tmp_path):
    store = Store(f"{storage.uri}/run")
    store.write("plan.json", b"{}")
    store.write("edema/0/weights.safetensors", b"large")
    with Workspace() as workspace:
        root = workspace.drive(store.uri)
        run = workspace.driven(root)
        assert [path.name for path in root.rglob("*") if path.is_file()] == ["plan.json"]
        assert run.address(root / "edema" / "0") == workspace.address(root / "edema" / "0") == f"{store.uri}/edema/0"
        assert run.names_below(root / "edema") == {"0/weights.safetensors"}
        store.write("edema/0/outcome.json", b"{}")
        run.refresh(root / "edema" / "0", now=True)
        assert (root / "edema" / "0" / "outcome.json").exists()
        run.ledger.write_text("line\n")
        run.publish(run.ledger)
        assert store.read("ledger.jsonl")[0] == b"line\n"
        with pytest.raises(ValueError, match="Another hilum command is working on s3://"), Workspace() as other:
            other.drive(store.uri)
    assert not root.exists()
    with Workspace() as workspace:
        assert (workspace.drive(store.uri) / "ledger.jsonl").read_text() == "line\n"


def test_a_mirror_that_is_not_open_is_not_taken_for_a_folder_of_this_machine(storage, tmp_path):
    """What is written there would be lost without a word."""
    with Workspace() as workspace:
        root = workspace.drive(f"{storage.uri}/run")
        for other in (Workspace(), pickle.loads(pickle.dumps(workspace))):
            with pytest.raises(LookupError, match="is not open in this workspace"):
                other.driven(root)
        with pytest.raises(ValueError, match="is not in the subpath"):
            workspace.driven(root).publish(tmp_path / "elsewhere")
    with pytest.raises(LookupError, match="is not open in this workspace"):
        workspace.driven(root)


def test_looking_is_modest(storage):
    store = Store(f"{storage.uri}/run")
    store.write("plan.json", b"{}")
    with Workspace() as workspace:
        run = workspace.driven(workspace.drive(store.uri))
        storage.requests.clear()
        for _ in range(100):
            run.refresh(run.root)
    assert storage.requests["GET", "/house"] <= 2


def test_a_driver_that_lost_its_run_stops(storage, monkeypatch):
    store = Store(f"{storage.uri}/run")
    store.write("plan.json", b"{}")

    def lose_it():
        with Workspace() as workspace:
            run = workspace.driven(workspace.drive(store.uri))
            store.write(".lease", b'{"owner": "other"}')
            monkeypatch.setattr(Lease, "require", lambda lease, check=Lease.require: (lease._renew(), check(lease)))
            run.ledger.write_text("line\n")
            run.publish(run.root)

    with pytest.raises(LeaseLost, match="has taken over s3://"):
        lose_it()
    assert "ledger.jsonl" not in store.list()


def test_sentences_name_the_uri(storage):
    def fail(uri):
        with Workspace() as workspace:
            raise ValueError(f"{workspace.drive(uri) / 'edema'} is wrong")

    with pytest.raises(ValueError, match=f"{storage.uri}/run/edema is wrong"):
        fail(f"{storage.uri}/run")
    with pytest.raises(FileNotFoundError, match="There is nothing at s3://"), Workspace() as workspace:
        workspace.read_run(f"{storage.uri}/nothing")


def test_a_search_in_the_storage_works_on_one_machine(storage):
    with pytest.raises(ValueError, match="works on this machine alone"), Workspace() as workspace:
        workspace.drive_here(storage.uri, own_cluster=False)
    with Workspace() as workspace:
        (workspace.drive_here(storage.uri) / "last.ckpt").write_text("x")
    assert "last.ckpt" in Store(storage.uri).list()


def write_and_raise(uri, error, **options):
    with Workspace() as workspace:
        out = workspace.write(uri, **options)
        (out / "shard").write_text("s")
        (out / "bundle.json").write_text("{}")
        raise error


def test_what_is_made_goes_there_only_when_the_command_ends_well(storage):
    uri = f"{storage.uri}/bundle"
    with pytest.raises(ZeroDivisionError):
        write_and_raise(uri, ZeroDivisionError)
    assert "bundle.json" not in Store(uri).list()
    with Workspace() as workspace:
        out = workspace.write(uri)
        (out / "weights.safetensors").write_text("w")
        (out / "bundle.json").write_text("{}")
        assert workspace.path_from(out, out) == uri
    assert storage.order[-2:] == ["bundle.json", ".lease"]


def test_what_an_interrupted_prepare_made_stays_here(storage):
    uri = f"{storage.uri}/data"
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(uri, KeyboardInterrupt, keep=True)
    with Workspace() as workspace:
        again = workspace.write(uri, keep=True)
        assert (again / "shard").read_text() == "s"
    assert not again.exists()
    assert "shard" in Store(uri).list()


def test_a_bundle_keeps_saying_where_its_run_is(tmp_path):
    carry = Workspace().path_carried_over
    assert carry("s3://house/run", tmp_path / "a", tmp_path / "b") == "s3://house/run"
    assert carry("../run", tmp_path / "a", tmp_path / "deep" / "b") == "../../run"


def test_lines_are_appended_anywhere(storage, tmp_path):
    for place in (tmp_path / "log.jsonl", f"{storage.uri}/log.jsonl"):
        append_line(place, {"a": 1})
        append_line(place, {"a": float("nan")})
    assert Store(storage.uri).read("log.jsonl")[0] == (tmp_path / "log.jsonl").read_bytes()


def hilum(*words):
    """The exit code of a command."""
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("s4://house/data", "starts with s4://"),
        ("s3:/house/data", "Did you mean s3://house/data?"),
        ("s3://elsewhere/data", "There is no bucket 'elsewhere'"),
        ("s3://house/nothing", "No complete data set at s3://house/nothing"),
    ],
)
def test_a_bad_place_is_one_sentence(storage, tmp_path, capsys, place, says):
    assert hilum("train", place, "--out", tmp_path / "run") == 2
    assert says in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_run_to_predictions_in_the_storage_as_on_disk(house, storage, tmp_path):
    data, run = send(house / "dataset", f"{storage.uri}/data"), send(house / "run", f"{storage.uri}/run")
    bundle, films = f"{storage.uri}/bundle", tmp_path / "films"
    write_films(films, disc_films(pd.Series([0, 1]).to_numpy(), seed=9))
    assert hilum("ensemble", run, "--dataset", data, "--out", bundle) == 0
    with staged_bundle(bundle) as folder:
        here = load_bundle(folder)
    assert here.description["run"] == run
    there = read_json(BundlePaths(house / "bundle").bundle)
    assert here.description["findings"] == there["findings"]
    for place, out in ((bundle, "away.csv"), (house / "bundle", "here.csv")):
        assert hilum("predict", place, films, "--out", tmp_path / out) == 0
    assert (tmp_path / "away.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert hilum("evaluate", bundle, data, "--part", "test", "--resamples", 20) == 0
    assert {"metrics.csv", "report.json", "overview.png"} <= set(Store(f"{bundle}-test").list())
    log = Store(run).read("test_reads.jsonl")[0].decode().splitlines()
    assert json.loads(log[-1])["bundle"] == "bundle"
    adapted = f"{storage.uri}/adapted"
    assert hilum("adapt", bundle, "--prevalence", "pneumonia=0.1", "--out", adapted) == 0
    with staged_bundle(adapted) as folder:
        assert load_bundle(folder).description["run"] == run


@pytest.mark.slow
def test_prepare_to_the_storage_and_again(storage, tmp_path, capsys):
    labels = write_nih_like(tmp_path / "nih")
    words = ["prepare", "nih", "--labels", labels, "--images", labels.parent / "images", "--size", 32, "--workers", 1]
    uri = f"{storage.uri}/data"
    assert hilum(*words, "--out", uri) == 0
    assert hilum(*words, "--out", tmp_path / "here") == 0
    with staged_dataset(uri) as folder:
        assert load_dataset(folder).manifest == load_dataset(tmp_path / "here").manifest
    storage.order.clear()
    capsys.readouterr()
    assert hilum(*words, "--out", uri) == 0
    assert f"{uri} is complete already" in capsys.readouterr().err
    assert set(storage.order) == {".lease"}
    assert hilum(*words, "--out", uri, "--seed", 5) == 2
    assert f"{uri} is a complete data set, and was prepared otherwise" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_search_leaves_its_trials_and_settings_there(storage, house):
    words = ["tune", house / "dataset", "--out", f"{storage.uri}/run", "--targets", "pneumonia", "--trials", 1]
    assert hilum(*words, "--inline", "--epochs", 1, "--set", "backbone=test_resnet", "--set", "batch_size=16") == 0
    there = Store(f"{storage.uri}/run").list()
    assert {"tuned/pneumonia.toml", "trials/pneumonia/0/outcome.json", "plan.json"} - {"plan.json"} <= set(there)
    with Workspace() as workspace:
        run = workspace.read_run(f"{storage.uri}/run", "tuned")
        assert RunPaths(run).tuned("pneumonia").is_file()
        assert read_json_lines(RunPaths(run).ledger) == []


def test_the_doctor_writes_reads_and_tidies_the_storage(storage, house, tmp_path):
    uri, data = f"{storage.uri}/run", send(house / "dataset", f"{storage.uri}/data")
    facts = node_facts.look(uri, data, "t", "one")
    assert facts["written"] == ""
    assert facts["dataset"]["bytes"] == DatasetPaths(house / "dataset").images.stat().st_size
    assert facts["disk_free"] > 0
    reads = node_facts.read_probes(uri, "t", ["one", "two"])
    assert reads["one"] == ""
    assert uri in reads["two"]
    assert missing_folders(uri) == []
    remove_probes(uri, "t", ["one", "two"], [])
    assert Store(uri).list() == {}
    elsewhere = node_facts.look("s3://elsewhere/run", "s3://elsewhere/data", "t", "one")
    assert "There is no bucket" in elsewhere["written"]
    assert "There is no bucket" in elsewhere["dataset"]["error"]


def test_ctrl_c_does_not_wait_for_a_storage_that_is_away(storage, monkeypatch, caplog):
    """A run's driver records its end, a search's sends its files: neither for longer than a request."""
    monkeypatch.setattr(workspace, "SHORT_PATIENCE", 0.2)
    monkeypatch.setattr(workspace, "PATIENCE", 15.0)
    monkeypatch.setattr(lease, "RELEASE", 0.2)

    def stop_a_run(uri):
        with Workspace() as workspace:
            run = workspace.driven(workspace.drive(uri))
            try:
                storage.away = True
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                run.stop_waiting()
                raise
            finally:
                record(run, {"event": "end"})

    def stop_a_search(uri):
        with Workspace() as workspace:
            root = workspace.drive_here(uri)
            (root / "last.ckpt").write_text("x")
            storage.away = True
            raise KeyboardInterrupt

    for stop in (stop_a_run, stop_a_search):
        storage.away = False
        caplog.clear()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            stop(f"{storage.uri}/{stop.__name__}")
        assert time.monotonic() - began < 5
        assert caplog.text.count("the same command goes on from what is") == 1
