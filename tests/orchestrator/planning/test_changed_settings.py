"""orchestrator/planning/changed_settings.py: changed settings remove nothing that was learnt, unless asked for
and begun.
"""

import types

import pytest

from models.files.layout import RunPaths, read_json, write_json
from orchestrator.planning.plan import TrainRequest, plan_run
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.object_store import Store
from orchestrator.storage.workspace import DrivenRun, Workspace
from orchestrator.training import launch
from orchestrator.training.launch import train_run
from tests.small_data import make_dataset
from tests.small_run import SETTINGS, silent, train_inline

SLOWER = {"learning_rate": 1e-4}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", ("pneumonia", "edema"), films=90)


def plan(dataset, out, device="cpu", **request):
    return plan_run(TrainRequest(dataset=dataset, out=out, **request), device)


def learn(job):
    job.paths.new_attempt().checkpoint.write_bytes(b"half-way")
    return job.paths.attempt(1).checkpoint


def test_a_real_checkpoint_survives_a_changed_setting_and_is_gone_on_from(dataset, tmp_path):
    def ctrl_c(event):
        if event["event"] == "epoch":
            raise KeyboardInterrupt

    request = {"settings": {"epochs": 2}, "targets": ("pneumonia",)}
    with pytest.raises(KeyboardInterrupt):
        train_inline(dataset, tmp_path / "run", ctrl_c, **request)
    with pytest.raises(ValueError, match=r"begun with another configuration \(learning_rate: 0.005 -> 0.0001\)"):
        train_inline(dataset, tmp_path / "run", **request | {"settings": {"epochs": 2} | SLOWER})
    done = train_inline(dataset, tmp_path / "run", **request)[0]
    assert (done["status"], done["continued_from"]) == ("ok", "attempts/1/last.ckpt")


@pytest.mark.parametrize("status", ["nan", "oom", "failed", "hung", None])
def test_to_mend_one_target_the_refusal_names_the_words_to_add(dataset, tmp_path, status):
    job = plan(dataset, tmp_path / "run")[1]
    checkpoint, before = learn(job), read_json(job.paths.config)
    if status:
        write_json(job.paths.outcome, {"status": status})
    with pytest.raises(ValueError, match=r"learning_rate: 0\.\d+ -> 0\.0001") as refusal:
        plan(dataset, tmp_path / "run", settings=SLOWER)
    assert f"{job.paths.root} is begun" in str(refusal.value)
    assert f"add to this command: --targets {job.slug} --force (or give another --out)" in str(refusal.value)
    assert (f"ended as {status}" in str(refusal.value)) == bool(status)
    assert checkpoint.exists()
    assert read_json(job.paths.config) == before
    [anew] = plan(dataset, tmp_path / "run", targets=(job.slug,), settings=SLOWER, force=True)
    launch._begin(DrivenRun(tmp_path / "run"), anew)
    assert not checkpoint.exists()
    assert read_json(job.paths.config)["config"]["learning_rate"] == 1e-4


def test_before_any_is_written_all_are_looked_at(dataset, tmp_path):
    """`edema` comes first, has learnt nothing and could be written; `pneumonia` is finished."""
    edema, pneumonia = plan(dataset, tmp_path / "run")
    before = read_json(edema.paths.config)
    write_json(pneumonia.paths.outcome, {"status": "ok"})
    learn(plan(dataset, tmp_path / "run", members=2)[1])
    with pytest.raises(ValueError, match=r"edema/1 is begun .* --targets edema --force .*pneumonia/0 is trained"):
        plan(dataset, tmp_path / "run", members=2, settings=SLOWER)
    assert read_json(edema.paths.config) == before


def test_one_sentence_for_all_with_the_same_difference(dataset, tmp_path):
    for job in plan(dataset, tmp_path / "run"):
        learn(job)
    with pytest.raises(
        ValueError, match=r"edema/0, .*pneumonia/0 are begun .*--targets edema,pneumonia --force"
    ) as error:
        plan(dataset, tmp_path / "run", settings=SLOWER)
    assert str(error.value).count("learning_rate") == 1
    learn(plan(dataset, tmp_path / "run", shared=True)[0])
    with pytest.raises(ValueError, match=r"shared/0 is begun .* add to this command: --force"):
        plan(dataset, tmp_path / "run", settings=SLOWER, shared=True)


def test_what_has_learnt_nothing_takes_new_settings_at_once(dataset, tmp_path):
    job = plan(dataset, tmp_path / "run")[0]
    job.paths.new_attempt().log.write_text("it failed before its first step")
    write_json(job.paths.outcome, {"status": "failed"})
    again = plan(dataset, tmp_path / "run", settings=SLOWER)[0]
    assert again.paths.newest_attempt() is None
    assert not again.paths.outcome.exists()


def test_another_device_does_not_remove_checkpoints_either(dataset, tmp_path):
    checkpoint = learn(plan(dataset, tmp_path / "run", device="cuda")[0])
    with pytest.raises(ValueError, match="device: 'cuda' -> 'cpu'"):
        plan(dataset, tmp_path / "run")
    assert checkpoint.exists()


def test_with_force_a_command_that_is_refused_after_the_plan_removes_nothing(dataset, tmp_path):
    """No node has the processors: that is known only when the plan is made."""
    edema, pneumonia = plan(dataset, tmp_path / "run")
    checkpoint, before = learn(edema), read_json(RunPaths(tmp_path / "run").plan)
    write_json(pneumonia.paths.outcome, {"status": "ok"})
    pneumonia.paths.weights.write_bytes(b"finished")
    ray = types.SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 0.5}}], cluster_resources=dict)
    request = TrainRequest(dataset=dataset, out=tmp_path / "run", settings=SLOWER, force=True)
    with pytest.raises(ValueError, match="no node has that"):
        launch._run_on_ray(ray, request, RunPaths(tmp_path / "run"), silent)
    assert checkpoint.exists()
    assert pneumonia.paths.weights.exists()
    assert read_json(RunPaths(tmp_path / "run").plan)["jobs"] == before["jobs"]
    assert [job.finished for job in plan(dataset, tmp_path / "run")] == [False, True]


def test_with_force_each_is_removed_when_its_own_training_starts(dataset, tmp_path):
    edema, pneumonia = plan(dataset, tmp_path / "run", settings=SETTINGS)
    checkpoints = learn(edema), learn(pneumonia)

    def ctrl_c(event):
        if event["event"] == "started":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_inline(dataset, tmp_path / "run", ctrl_c, settings=SLOWER, force=True)
    assert [path.exists() for path in checkpoints] == [False, True]
    assert read_json(edema.paths.config)["config"]["learning_rate"] == 1e-4
    settings = {"settings": SETTINGS, "targets": ("pneumonia",)}
    assert plan(dataset, tmp_path / "run", **settings)[0].paths.newest_attempt(), "the settings of before go on"


def test_checkpoints_in_object_storage_count_too(dataset, storage, tmp_path):
    uri, settings = f"{storage.uri}/run", SETTINGS | {"epochs": 1}
    for job in plan(dataset, tmp_path / "run", settings=settings):
        (learn(job).parent / "claim.json").write_text("{}")
    Mirror(Store(uri), tmp_path / "run").push()
    request = {"dataset": dataset, "settings": settings | SLOWER, "inline": True, "targets": ("edema",)}
    with pytest.raises(ValueError, match=f"{uri}/edema/0 is begun.*--force"), Workspace() as workspace:
        train_run(TrainRequest(out=workspace.drive(uri), workspace=workspace, **request), silent)
    assert "edema/0/attempts/1/last.ckpt" in Store(uri).list()
    with Workspace() as workspace:
        again = TrainRequest(out=workspace.drive(uri), workspace=workspace, force=True, **request)
        assert train_run(again, silent)[0]["attempt"] == 1
    assert {"edema/0/outcome.json", "pneumonia/0/attempts/1/last.ckpt"} <= set(Store(uri).list())
