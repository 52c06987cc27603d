"""Networks that go on from a shared one: started when that has ended, failed with a sentence where it failed, and the
same bytes after any interruption. With folds throughout."""

import os
import signal
import subprocess
import time
import types

import numpy as np
import pyarrow.parquet as parquet
import pytest

from models.files.layout import RunPaths, read_json, read_json_lines, write_json
from orchestrator.cli.app import app
from orchestrator.planning.plan import TrainRequest, plan_run
from orchestrator.storage.workspace import DrivenRun
from orchestrator.training import launch
from orchestrator.training.dependants import Dependants, sources_first
from orchestrator.training.launch import train_run
from tests.processes import hilum_words
from tests.small_data import disc_dataset
from tests.small_run import SETTINGS, train_inline

PAIR = ("edema", "pneumonia")
NEW = {"start": "shared", "folds": 2, "targets": PAIR}
EDEMA = NEW | {"targets": ("edema",)}
JOBS = [f"{slug}/{number}" for slug in ("shared", *PAIR) for number in (0, 1)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return disc_dataset(tmp_path_factory.mktemp("data") / "dataset", PAIR)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The run without any interruption, and what was told of it."""
    events, out = [], tmp_path_factory.mktemp("whole") / "run"
    outcomes = train_inline(dataset, out, events.append, **NEW)
    return RunPaths(out), outcomes, events


def results(run):
    """The bytes of all networks, and what they say."""
    files = sorted(path for path in run.root.glob("*/*/*") if path.suffix in (".safetensors", ".parquet", ".ckpt"))
    return {str(path.relative_to(run.root)): path.read_bytes() for path in files}


def test_each_starts_when_its_shared_one_has_ended(whole):
    run, outcomes, events = whole
    assert [(one["job"], one["status"]) for one in outcomes] == [(name, "ok") for name in JOBS]
    told = [(one["event"], one["job"]) for one in events if one["event"] in ("started", "finished")]
    for slug in PAIR:
        for number in (0, 1):
            assert told.index(("finished", f"shared/{number}")) < told.index(("started", f"{slug}/{number}"))
    for one in outcomes[2:]:
        source = f"shared/{one['job'].partition('/')[2]}"
        assert one["branched_from"]["job"] == source
        assert (one["branched_from"]["epoch"], one["epochs_trained"], one["best_epoch"]) == (2, 1, 3)
        assert one["folds"] == 2


def test_the_logits_of_the_folds_are_of_every_film_that_is_not_test_once(whole, dataset):
    run, _, _ = whole
    for slug in PAIR:
        tables = [parquet.read_table(run.target(slug, index).predictions).to_pandas() for index in (0, 1)]
        held_out = np.concatenate([table["image_id"][table["part"] == "calibrate"] for table in tables])
        tested = tables[0]["image_id"][tables[0]["part"] == "test"]
        assert len(set(held_out)) == len(held_out)
        assert set(held_out) | set(tested) == {name.decode() for name in _targets(run, slug).image_id}
        assert not set(held_out) & set(tested)
        assert set(tables[0].columns) == {"image_id", "part", "logit"}


def _targets(run, slug):
    from models.data.targets import Targets

    return Targets.load(run.target(slug, 0).targets)


def test_the_same_command_again_trains_nothing(whole, dataset):
    run, _, _ = whole
    before, events = results(run), []
    assert [one["status"] for one in train_inline(dataset, run.root, events.append, **NEW)] == ["ok"] * 6
    assert {(one["event"], one["finished"]) for one in events} == {("planned", True)}
    assert results(run) == before


@pytest.mark.parametrize(
    "stop",
    [
        ("epoch", "pneumonia/1"),
        pytest.param(("epoch", "shared/1"), marks=pytest.mark.slow),
        pytest.param(("started", "edema/0"), marks=pytest.mark.slow),
    ],
)
def test_interrupted_anywhere_it_goes_on_to_the_same_bytes(whole, dataset, tmp_path, stop):
    def ctrl_c(event):
        if (event["event"], event["job"]) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_inline(dataset, tmp_path / "run", ctrl_c, **NEW)
    moved = tmp_path / "moved"  # what goes on from another of the run finds it there
    (tmp_path / "run").rename(moved)
    assert [one["status"] for one in train_inline(dataset, moved, **NEW)] == ["ok"] * 6
    assert results(RunPaths(moved)) == results(whole[0])


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_the_same_bytes(whole, dataset, tmp_path):
    """SIGKILL of the process that drives and trains, at moments that no handler sees."""
    words = [*hilum_words(), "train", str(dataset), "--out", str(tmp_path / "run"), "--targets", ",".join(PAIR)]
    words += ["--from-shared", "--folds", "2", "--inline"]
    words += [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    run, killed = RunPaths(tmp_path / "run"), 0
    wanted = [("shared", 0, 1), ("shared", 1, 2), ("edema", 0, 0), ("pneumonia", 1, 0)]
    for slug, number, rows in wanted:
        paths = run.shared(number) if slug == "shared" else run.target(slug, number)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            attempt = paths.newest_attempt()
            if attempt and len(read_json_lines(attempt.history)) >= rows:
                break
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed == len(wanted)
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert results(run) == results(whole[0])


def test_of_a_shared_one_that_fails_the_others_say_so_and_the_same_command_goes_on(dataset, tmp_path, whole):
    events, run = [], RunPaths(tmp_path / "run")
    never = {"learning_rate": 1e30, "clip": 0.0}
    outcomes = train_inline(dataset, run.root, events.append, settings=never, **EDEMA)
    assert [one["status"] for one in outcomes] == ["nan", "nan", "failed", "failed"]
    assert "goes on from shared/1, which ended as nan: NotANumber" in outcomes[3]["error"]
    assert read_json(run.target("edema", 1).outcome)["error"] == outcomes[3]["error"]
    assert not run.target("edema", 1).attempts.exists()
    assert [one["job"] for one in events if one["event"] == "finished"] == [
        "shared/0", "edema/0", "shared/1", "edema/1"
    ]  # fmt: skip
    assert [one["status"] for one in train_inline(dataset, run.root, **EDEMA)] == ["ok"] * 4
    found = results(run)
    assert found == {name: data for name, data in results(whole[0]).items() if "pneumonia" not in name}


def test_what_force_would_remove_stays_where_the_shared_one_failed(dataset, tmp_path):
    one = EDEMA | {"folds": 1}
    train_inline(dataset, tmp_path / "run", **one)
    before = RunPaths(tmp_path / "run").target("edema", 0).weights.read_bytes()
    never = {"learning_rate": 1e30, "clip": 0.0}
    outcomes = train_inline(dataset, tmp_path / "run", settings=never, force=True, **one)
    assert [outcome["status"] for outcome in outcomes] == ["nan", "failed"]
    assert RunPaths(tmp_path / "run").target("edema", 0).weights.read_bytes() == before
    assert read_json(RunPaths(tmp_path / "run").target("edema", 0).outcome)["status"] == "ok"


def test_the_networks_of_a_branch_are_single_ones_that_differ(whole):
    run, _, _ = whole
    weights = {slug: run.target(slug, 0).weights.read_bytes() for slug in PAIR}
    assert weights["edema"] != weights["pneumonia"]
    assert len(weights["edema"]) < len(run.shared(0).weights.read_bytes())


def test_the_command_tells_of_folds_in_a_line_each(whole, dataset, capsys):
    words = ["train", str(dataset), "--out", str(whole[0].root), "--targets", ",".join(PAIR), "--inline"]
    words += [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    app(args=words, prog_name="hilum", standalone_mode=False)
    shown = capsys.readouterr()
    rows = [line.split()[:6] for line in shown.out.splitlines()]
    assert rows[1:] == [[slug, "2", "of", "2", "ok", "3"] for slug in ("shared", *PAIR)]
    told = "Recipe of this run: each finding's own network goes on from a shared one, 2 folds of the 140 films"
    assert shown.err.startswith(told)


@pytest.fixture
def jobs(dataset, tmp_path):
    return plan_run(TrainRequest(dataset=dataset, out=tmp_path / "planned", settings=SETTINGS, **NEW), "cpu")


def test_those_that_wait_come_after_what_they_wait_for(jobs):
    assert [job.name for job in sources_first(jobs[::-1])] == [*JOBS[1::-1], *JOBS[:1:-1]]
    dependants = Dependants(jobs)
    assert [job.name for job in dependants.ready] == ["shared/0", "shared/1"]
    started, failed = dependants.after(jobs[1], {"status": "ok"})
    assert ([job.name for job in started], failed) == (["edema/1", "pneumonia/1"], [])
    assert [job.name for job in Dependants(jobs[2:]).ready] == JOBS[2:]  # the shared ones are finished


def test_on_ray_they_are_submitted_when_it_has_ended_and_not_before(jobs, monkeypatch, tmp_path):
    """shared/0 is interrupted once, shared/1 dies."""
    submitted, ended = [], []

    def submit(job):
        submitted.append(job.name)
        return f"{job.name} {len(submitted)}"

    def answer(reference):
        name = reference.split()[0]
        if name == "shared/0" and submitted.count(name) == 1:
            return "interrupted"
        ended.append(name)
        write_json(tmp_path / "planned" / name / "outcome.json", {"status": "died" if name == "shared/1" else "ok"})
        return "ok"

    exceptions = types.SimpleNamespace(RayError=RuntimeError, OutOfMemoryError=MemoryError)
    ray = types.SimpleNamespace(get=answer, wait=lambda references, **limits: (references, []), exceptions=exceptions)
    monkeypatch.setattr(launch, "ClusterLiveness", lambda ray: types.SimpleNamespace(check=lambda: None))
    dependants, running, watches, events = Dependants(jobs), {}, {}, []
    run = DrivenRun(tmp_path / "planned")
    for job in dependants.ready:
        launch._start(run, job, running, watches, submit)
    launch._follow(ray, run, running, watches, events.append, submit, dependants)
    assert submitted == ["shared/0", "shared/1", "shared/0", "edema/0", "pneumonia/0"]
    assert ended == ["shared/1", "shared/0", "edema/0", "pneumonia/0"]
    finished = {one["job"]: one["outcome"]["status"] for one in events if one["event"] == "finished"}
    assert finished == {"shared/0": "ok", "shared/1": "died", "edema/0": "ok", "pneumonia/0": "ok",
                        "edema/1": "failed", "pneumonia/1": "failed"}  # fmt: skip
    assert set(dependants.without_start) == {"edema/1", "pneumonia/1"}


@pytest.mark.ray
def test_under_ray_it_is_the_same_to_the_byte(whole, dataset, tmp_path):
    request = TrainRequest(dataset=dataset, out=tmp_path / "run", settings=SETTINGS, **NEW)
    outcomes = train_run(request, lambda event: None)
    assert [(one["job"], one["status"]) for one in outcomes] == [(name, "ok") for name in JOBS]
    assert results(RunPaths(tmp_path / "run")) == results(whole[0])
