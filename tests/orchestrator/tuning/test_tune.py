"""The search: its files are its ledger, a kill costs no trial, a trial is a training like any other."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from models.files.layout import RunPaths, TargetPaths, read_json, write_json
from orchestrator.datasets.labelled import read_material
from orchestrator.ensembling.build import finished_targets
from orchestrator.planning.plan import TrainRequest, plan_run
from orchestrator.planning.tuned_settings import read_tuned
from orchestrator.tuning.study import SearchRequest, open_search
from orchestrator.tuning.trials import (
    SearchPaths,
    adopt_trials,
    ranked,
    read_trials,
)
from orchestrator.tuning.tune import tune_run
from tests.small_data import make_dataset, write_dataset
from tests.small_run import SETTINGS, silent, train_inline

FIXED = {name: value for name, value in SETTINGS.items() if name not in ("batch_size", "learning_rate")}
TRIALS = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", ("pneumonia",), films=180)


def request_of(dataset, out, **changes):
    plain = {"targets": ("pneumonia",), "trials": TRIALS, "settings": FIXED, "inline": True, "keep": 2}
    return SearchRequest(dataset=dataset, out=out, **plain | changes)


@pytest.fixture(scope="module")
def searched(dataset, tmp_path_factory):
    """A finished search, never disturbed. Shared: a test that changes something copies it first."""
    out = tmp_path_factory.mktemp("searched") / "run"
    events = []
    result = tune_run(request_of(dataset, out, members=2), events.append)
    return SimpleNamespace(out=out, events=events, result=result, paths=SearchPaths(RunPaths(out), "pneumonia"))


@pytest.fixture
def copied(searched, tmp_path):
    shutil.copytree(searched.out, tmp_path / "run")
    return SearchPaths(RunPaths(tmp_path / "run"), "pneumonia")


def figures(paths):
    return [(one.number, one.status, one.score, one.config) for one in read_trials(paths)]


def test_every_number_is_finished_and_the_first_has_the_defaults(searched, dataset):
    trials = read_trials(searched.paths)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert all(trial.outcome for trial in trials)
    plain = TrainRequest(dataset=dataset, out=searched.out.with_name("plain"), settings=FIXED)
    [job] = plan_run(plain, "cpu")
    assert trials[0].config == job.config.to_dict()
    assert len({trial.config["learning_rate"] for trial in trials}) == TRIALS
    assert {trial.config["epochs"] for trial in trials} == {FIXED["epochs"]}
    assert [event["number"] for event in searched.events] == list(range(TRIALS))
    assert searched.events[-1]["best"].number == ranked(trials)[0].number


def test_a_trial_is_scored_on_select_under_the_reference_contract(searched):
    """Whatever a trial's own label policy: its targets hold the reference labels in `select`."""
    from models.data.targets import Targets

    stored = [Targets.load(trial.paths.targets) for trial in read_trials(searched.paths)]
    for one in stored[1:]:
        here = one.part == 1
        np.testing.assert_array_equal(one.value[here], stored[0].value[here])


def test_only_the_weights_of_the_best_and_no_checkpoints_are_kept(searched):
    trials = read_trials(searched.paths)
    kept = {trial.number for trial in trials if trial.paths.weights.exists()}
    assert kept == {trial.number for trial in ranked(trials)[:2]}
    assert not list(searched.paths.root.rglob("last.ckpt"))
    assert not list(searched.paths.root.rglob("best.safetensors"))


def test_the_same_command_again_changes_nothing(copied, dataset):
    before = {path: path.stat().st_mtime_ns for path in copied.root.rglob("*") if path.is_file()}
    events = []
    tune_run(request_of(dataset, copied.run.root, members=2), events.append)
    assert events == []
    assert {path: path.stat().st_mtime_ns for path in copied.root.rglob("*") if path.is_file()} == before


def test_an_interrupted_search_goes_on_to_the_same_trials_and_scores(searched, dataset, tmp_path, monkeypatch):
    """Interrupted in the second trial's second epoch: that trial goes on from its checkpoint, the first is not run."""
    from orchestrator.tuning.executors import Halving

    told = Halving.worse
    calls = []

    def interrupted(self, number, epoch, score):
        calls.append((number, epoch))
        if calls.count((1, 2)) == 1 and (number, epoch) == (1, 2):
            raise KeyboardInterrupt
        return told(self, number, epoch, score)

    monkeypatch.setattr(Halving, "worse", interrupted)
    paths = SearchPaths(RunPaths(tmp_path / "run"), "pneumonia")
    with pytest.raises(KeyboardInterrupt):
        tune_run(request_of(dataset, tmp_path / "run"), silent)
    first, second = paths.trial(0), paths.trial(1)
    assert first.outcome.exists()
    assert not second.outcome.exists()
    written, rows = first.outcome.read_bytes(), second.attempt(1).history.read_text()
    tune_run(request_of(dataset, tmp_path / "run"), silent)
    assert first.outcome.read_bytes() == written
    assert second.newest_attempt().number == 2
    assert second.attempt(2).history.read_text().startswith(rows)
    assert figures(paths) == figures(searched.paths)


def test_a_failed_trial_is_an_outcome_and_the_rest_go_on(dataset, tmp_path):
    request = request_of(dataset, tmp_path / "run", trials=2)
    search = open_search(request, "pneumonia", read_material(dataset), "cpu")
    search.write(search.paths.trial(1), {"init": str(tmp_path / "nowhere")})
    events = []
    tune_run(dataclasses.replace(request, trials=3), events.append)
    assert [event["outcome"]["status"] for event in events] == ["ok", "failed", "ok"] or [
        event["outcome"]["status"] for event in events
    ] == ["failed", "ok", "ok"]
    assert "nowhere" in read_json(search.paths.trial(1).outcome)["error"]


def test_a_trial_trained_again_from_its_stored_config_has_the_same_score_and_logits(searched, dataset, tmp_path):
    search = open_search(request_of(dataset, searched.out), "pneumonia", read_material(dataset), "cpu")
    trial = ranked(read_trials(searched.paths))[0]
    again = search.repeat(trial.number, tmp_path / "again")
    assert again["select_score"] == trial.score
    stored, new = (pd.read_parquet(one.predictions) for one in (trial.paths, TargetPaths(tmp_path / "again")))
    pd.testing.assert_frame_equal(stored, new, check_exact=True)


def test_a_search_keeps_the_recipe_and_the_precision_that_it_began_with(dataset, tmp_path):
    """Trials under different ones could not be ranked together."""
    material, settings = read_material(dataset), {name: FIXED[name] for name in FIXED if name != "precision"}
    for began, resolved, card in (
        (None, ("fp16", 2), "fp16"),
        ({"recipe_version": 1, "card": "bf16"}, ("bf16", 1), ""),
    ):
        out = tmp_path / (card or "before")
        request = request_of(dataset, out, settings=settings | {"device": "auto"})
        search = open_search(request, "pneumonia", material, "cuda", card or "bf16")
        if began:  # as a version without these wrote it
            description = read_json(search.paths.description)
            assert description.pop("resolved") != began
            write_json(search.paths.description, description)
        again = open_search(request, "pneumonia", material, "cuda", "bf16").config()
        assert (again.precision, again.recipe_version) == resolved


def test_other_settings_are_refused_and_more_trials_are_not(copied, dataset):
    with pytest.raises(ValueError, match=r"begun with other settings \(seed: 0 -> 1\)"):
        tune_run(request_of(dataset, copied.run.root, seed=1), silent)
    with pytest.raises(ValueError, match="settings: .*another --out"):
        tune_run(request_of(dataset, copied.run.root, settings=FIXED | {"epochs": 2}), silent)
    tune_run(request_of(dataset, copied.run.root, trials=TRIALS + 1), silent)
    assert copied.numbers() == list(range(TRIALS + 1))


def test_fewer_trials_than_were_begun_lose_none(copied, dataset):
    copied.trial(3).outcome.unlink()
    tune_run(request_of(dataset, copied.run.root, trials=1), silent)
    assert copied.trial(3).outcome.exists()


def test_a_trial_without_its_targets_file_keeps_its_settings(copied, dataset):
    """A kill between the two files of a new trial."""
    config = read_json(copied.trial(3).config)
    for name in ("outcome", "targets"):
        getattr(copied.trial(3), name).unlink()
    tune_run(request_of(dataset, copied.run.root), silent)
    assert read_json(copied.trial(3).config) == config
    assert copied.trial(3).outcome.exists()


def test_without_positives_in_select_there_is_nothing_to_rank_by(tmp_path):
    truth = (np.arange(180) % 3 == 0).astype(float)
    truth[np.arange(180) // 2 % 9 == 5] = 0  # the part `select`
    films = np.zeros((180, 32, 32), np.uint8)
    films[:, :16] = 200
    dataset = write_dataset(tmp_path / "d", {"pneumonia": truth}, films)
    with pytest.raises(ValueError, match="no positive film of pneumonia.*--targets"):
        tune_run(request_of(dataset, tmp_path / "run"), silent)


def test_the_winner_s_file_is_what_train_takes(searched, dataset, tmp_path):
    best = ranked(read_trials(searched.paths))[0]
    tuned = read_tuned(RunPaths(searched.out).tuned("pneumonia"))
    assert (tuned["trial"], tuned["select_score"]) == (best.number, best.score)
    request = TrainRequest(dataset=dataset, out=tmp_path / "new", tuned=searched.out, settings={"device": "cpu"})
    [job] = plan_run(request, "cpu")
    assert job.config.to_dict() == best.config
    changed = plan_run(
        dataclasses.replace(request, out=tmp_path / "x", settings={"learning_rate": 0.5, "device": "cpu"}), "cpu"
    )
    assert changed[0].config.learning_rate == 0.5  # what the user sets comes last
    assert changed[0].config.dropout == best.config["dropout"]


def test_members_from_trials_are_members_like_any_other(searched):
    best = ranked(read_trials(searched.paths))[:2]
    trained, left_out = finished_targets(RunPaths(searched.out))
    assert not left_out
    assert [one.outcome["trial"] for one in trained["pneumonia"]] == [trial.number for trial in best]
    for member, trial in zip(trained["pneumonia"], best, strict=True):
        assert member.config == trial.config
        assert member.paths.weights.read_bytes() == trial.paths.weights.read_bytes()
        assert pd.read_parquet(member.paths.predictions).equals(pd.read_parquet(trial.paths.predictions))


def test_members_of_an_earlier_call_give_way_and_trained_ones_stay(copied, dataset):
    shutil.rmtree(copied.run.target("pneumonia", 0).root)
    copied.run.plan.unlink()
    train_inline(dataset, copied.run.root)
    trained = copied.run.target("pneumonia", 0).weights.read_bytes()
    best = ranked(read_trials(copied))[:2]
    jobs, gone = adopt_trials(copied.run.root, "pneumonia", 2)
    assert gone == ("pneumonia/1",)
    assert [job.member for job in jobs] == [1, 2]
    assert [read_json(job.paths.outcome)["trial"] for job in jobs] == [trial.number for trial in best]
    assert copied.run.target("pneumonia", 0).weights.read_bytes() == trained
    assert not list(copied.run.target("pneumonia", 0).root.parent.glob(".tmp*"))


def test_a_trial_whose_weights_were_dropped_is_no_member(searched):
    with pytest.raises(ValueError, match=r"weights of pneumonia's trials .* were dropped.*--keep 4"):
        adopt_trials(searched.out, "pneumonia", 4)
