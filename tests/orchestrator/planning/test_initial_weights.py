"""orchestrator/planning/initial_weights.py: starting weights that are not there, and others under the same path."""

import dataclasses

import pytest

from models.files.layout import RunPaths, read_json, write_json
from orchestrator.datasets.dataset import hash_file
from orchestrator.planning.initial_weights import START
from orchestrator.planning.plan import TrainRequest, plan_run
from tests.small_data import make_dataset


def plan(dataset, out, **request):
    return plan_run(TrainRequest(dataset=dataset, out=out, targets=("pneumonia",), **request), "cpu")


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "dataset", ("pneumonia", "edema"), films=36)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "before" / "edema" / "0" / "weights.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    return path


@pytest.mark.parametrize("name", ["init", "pretrained"])
def test_starting_weights_that_are_not_there_are_refused_before_anything_starts(dataset, tmp_path, monkeypatch, name):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    out, absent = tmp_path / "run", {name: str(tmp_path / "absent.safetensors")}
    with pytest.raises(FileNotFoundError, match=f"{name}=.*absent.safetensors"):
        plan(dataset, out, settings=absent)
    assert not RunPaths(out).plan.exists()
    plan(dataset, out, settings=absent, address="auto")  # another machine may have them
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    plan(dataset, out, settings=absent)
    with pytest.raises(FileNotFoundError, match="absent"):
        plan(dataset, out, settings=absent, inline=True)
    write_json(RunPaths(out).target("pneumonia", 0).outcome, {"status": "ok"})
    assert [job.finished for job in plan(dataset, out, settings=absent)] == [True]


def test_starting_weights_that_are_there_are_taken(dataset, tmp_path):
    weights = tmp_path / "before" / "edema" / "0" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    for settings in ({"init": str(weights.parents[1])}, {"pretrained": str(weights)}, {"pretrained": "true"}):
        assert plan(dataset, tmp_path / next(iter(settings)), settings=settings)


@pytest.mark.parametrize("name", ["init", "pretrained"])
def test_the_content_of_the_starting_weights_is_kept(dataset, tmp_path, weights, name):
    [job] = plan(dataset, tmp_path / "run", settings={name: str(weights)})
    assert read_json(job.paths.config)[START] == hash_file(weights)
    [plain] = plan(dataset, tmp_path / "other")
    assert START not in read_json(plain.paths.config)


def test_an_unfinished_training_is_not_gone_on_with_from_other_weights_under_the_same_path(dataset, tmp_path, weights):
    def again(**request):
        [job] = plan(dataset, tmp_path / "run", settings={"init": str(weights)}, **request)
        return job

    checkpoint = again().paths.root / "attempts" / "1" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    again()
    assert checkpoint.exists(), "the same weights: the training goes on"
    weights.write_bytes(b"second")
    with pytest.raises(ValueError, match=f"begun with another configuration.*{START}.*--force"):
        again()
    assert checkpoint.exists()
    again(force=True).replace_earlier()
    assert not checkpoint.exists(), "it had learnt from where it no longer starts"


def test_a_finished_target_is_not_taken_for_one_that_started_from_other_weights(dataset, tmp_path, weights):
    settings = {"init": str(weights)}
    [job] = plan(dataset, tmp_path / "run", settings=settings)
    write_json(job.paths.outcome, {"status": "ok"})
    weights.write_bytes(b"second")
    with pytest.raises(ValueError, match=f"trained already.*{START}"):
        plan(dataset, tmp_path / "run", settings=settings)
    weights.unlink()  # nothing to compare with: it stays finished
    assert plan(dataset, tmp_path / "run", settings=settings)[0].finished


def test_a_run_of_before_did_not_keep_the_content_and_goes_on(dataset, tmp_path, weights):
    settings = {"init": str(weights)}
    [job] = plan(dataset, tmp_path / "run", settings=settings)
    write_json(job.paths.outcome, {"status": "ok"})
    before = read_json(job.paths.config)
    write_json(job.paths.config, {name: value for name, value in before.items() if name != START})
    assert plan(dataset, tmp_path / "run", settings=settings)[0].finished


def test_what_is_finished_is_kept_where_the_weights_to_train_it_again_from_are_not_there(dataset, tmp_path):
    [job] = plan(dataset, tmp_path / "run", inline=True)
    write_json(job.paths.outcome, {"status": "ok"})
    job.paths.weights.write_bytes(b"finished")
    settings = {"init": str(tmp_path / "absent.safetensors")}
    with pytest.raises(FileNotFoundError, match="absent"):
        plan(dataset, tmp_path / "run", inline=True, settings=settings, force=True)
    assert job.paths.weights.read_bytes() == b"finished"


@pytest.mark.parametrize("shared", [False, True])
def test_no_target_starts_from_itself_and_nothing_finished_is_lost(dataset, tmp_path, shared):
    out = tmp_path / "run"
    name = "shared" if shared else "pneumonia"
    targets = ("edema", "pneumonia")
    jobs = plan_run(TrainRequest(dataset=dataset, out=out, targets=targets, shared=shared), "cpu")
    for job in jobs:
        write_json(job.paths.outcome, {"status": "ok"})
        job.paths.weights.write_bytes(b"finished")
    request = TrainRequest(dataset=dataset, out=out, targets=targets, shared=shared, force=True,
                           settings={"init": str(out / name)})  # fmt: skip
    with pytest.raises(ValueError, match=f"{name}.*its own weights.*--targets"):
        plan_run(request, "cpu")
    assert all(job.paths.weights.read_bytes() == b"finished" for job in jobs)
    if not shared:
        [edema] = plan_run(dataclasses.replace(request, targets=("edema",)), "cpu")
        assert not edema.finished


def test_starting_weights_of_films_standardised_otherwise_are_told_of(dataset, tmp_path, weights):
    folder = weights.parents[1]
    [job] = plan(dataset, tmp_path / "alone", settings={"init": str(folder)})
    assert job.note == "", "nothing is known of a weight file alone"
    write_json(weights.parent / "config.json", {"config": {"backbone": "resnet18"}})  # of before there was a choice
    [alike] = plan(dataset, tmp_path / "alike", settings={"init": str(folder)})
    [other] = plan(dataset, tmp_path / "other", settings={"init": str(folder), "standardise": "local"})
    [anew] = plan(dataset, tmp_path / "anew", settings={"standardise": "local"})
    assert [job.note for job in (alike, other, anew)] == ["", "starts from weights of standardise=dataset", ""]
    (weights.parent / "config.json").write_text("{")
    assert other.note == ""
