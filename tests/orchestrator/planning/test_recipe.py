"""`hilum train` with a shared start and with folds: what each network is taught, and what the run holds of it."""

import numpy as np
import pandas as pd
import pytest

from models.config import TrainConfig
from models.data.targets import Targets
from models.files.layout import RunPaths, read_json, write_json
from orchestrator.datasets.dataset import load_dataset
from orchestrator.planning.plan import TrainRequest, plan_run
from orchestrator.planning.shared_start import OTHERS_WEIGHT
from orchestrator.storage.workspace import DrivenRun
from orchestrator.training import launch
from tests.small_data import disc_films, write_dataset

FILMS = 180
PAIR = ("edema", "pneumonia")
NEW = {"start": "shared", "folds": 3}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Edema and pneumonia with every kind of label, mass with clean ones; one patient has a fracture."""
    draws = np.random.default_rng(3)
    truth = {slug: draws.choice([1.0, 0.0, -1.0, np.nan], FILMS) for slug in PAIR}
    truth |= {"mass": (draws.random(FILMS) < 0.3).astype(float), "fracture": np.zeros(FILMS)}
    truth["fracture"][:2] = 1
    return write_dataset(tmp_path_factory.mktemp("data") / "d", truth, disc_films(truth["edema"]))


def plan(dataset, out, tell=lambda text: None, **request):
    return plan_run(TrainRequest(dataset=dataset, out=out, **request), "cpu", tell=tell)


def learn(job, status="ok"):
    """As if it had trained."""
    job.paths.weights.write_bytes(b"weights")
    write_json(job.paths.outcome, {"status": status})
    return job


def by_name(jobs):
    return {job.name: job for job in jobs}


def test_in_folds_every_film_that_is_not_test_is_held_out_once_and_taught_else(dataset, tmp_path):
    plan(dataset, tmp_path, targets=PAIR, **NEW)
    opened, run = load_dataset(dataset), RunPaths(tmp_path)
    parts, frame = opened.parts(), opened.read_labels_frame()
    fold = pd.read_csv(run.folds(3))["fold"].to_numpy()
    np.testing.assert_array_equal(fold >= 0, parts != "test")
    assert pd.Series(fold).groupby(frame["patient_id"]).nunique().max() == 1
    for index in range(3):
        for paths in (run.shared(index), run.target("edema", index)):
            targets = Targets.load(paths.targets)
            assert read_json(paths.config)["fold"] == {"index": index, "of": 3}
            np.testing.assert_array_equal(targets.row, np.arange(FILMS))
            np.testing.assert_array_equal(targets.all_of("calibrate"), np.flatnonzero(fold == index))
            np.testing.assert_array_equal(targets.all_of("test"), np.flatnonzero(parts == "test"))
            assert len(targets.all_of("select")) == 0
            hidden = np.concatenate([targets.all_of("calibrate"), targets.all_of("test")])
            assert np.isnan(targets.value[hidden]).all()
            assert not targets.weight[hidden].any()


def test_the_own_column_is_what_a_single_network_is_taught_and_the_others_the_shared_one(dataset, tmp_path):
    settings = {"sampler": "label_vector"}
    plan(dataset, tmp_path / "new", targets=PAIR, settings=settings, **NEW)
    plan(dataset, tmp_path / "old", targets=PAIR, settings=settings, folds=3)
    for slug in PAIR:
        one = Targets.load(RunPaths(tmp_path / "new").target(slug, 1).targets)
        single = Targets.load(RunPaths(tmp_path / "old").target(slug, 1).targets)
        shared = Targets.load(RunPaths(tmp_path / "new").shared(1).targets)
        assert one.slugs[one.own].decode() == slug
        for name in ("part", "value", "weight", "draw", "combination"):
            np.testing.assert_array_equal(getattr(one.judged, name), getattr(single, name), err_msg=name)
        np.testing.assert_array_equal(one.value, shared.value)


def test_with_a_policy_of_its_own_only_the_own_column_differs(dataset, tmp_path):
    settings = {"uncertain": "ones"}
    draws, folder = np.random.default_rng(4), own_finding(tmp_path, '[training]\nuncertain = "ones"\n')
    truth = {slug: draws.choice([1.0, 0.0, -1.0, np.nan], FILMS) for slug in ("edema", "own_one")}
    data = write_dataset(tmp_path / "d", truth, disc_films(truth["edema"]))
    plan(data, tmp_path / "new", targets=("edema", "own_one"), findings=folder, **NEW)
    plan(data, tmp_path / "old", targets=("own_one",), findings=folder, settings=settings, folds=3)
    one = Targets.load(RunPaths(tmp_path / "new").target("own_one", 0).targets)
    shared = Targets.load(RunPaths(tmp_path / "new").shared(0).targets)
    single = Targets.load(RunPaths(tmp_path / "old").target("own_one", 0).targets)
    np.testing.assert_array_equal(one.judged.value, single.value)
    others = np.delete(np.arange(one.outputs), one.own)
    np.testing.assert_array_equal(one.value[:, others], shared.value[:, others])


def test_without_folds_a_training_that_chooses_no_epoch_learns_from_select_too(dataset, tmp_path):
    plan(dataset, tmp_path, targets=PAIR, start="shared")
    parts = load_dataset(dataset).parts()
    for paths in (RunPaths(tmp_path).shared(0), RunPaths(tmp_path).target("edema", 0)):
        targets = Targets.load(paths.targets)
        np.testing.assert_array_equal(targets.all_of("train"), np.flatnonzero(np.isin(parts, ("train", "select"))))
        np.testing.assert_array_equal(targets.all_of("calibrate"), np.flatnonzero(parts == "calibrate"))
        assert "fold" not in read_json(paths.config)
    assert not list(tmp_path.glob("folds*"))


def test_the_jobs_their_configurations_and_the_plan(dataset, tmp_path):
    jobs = plan(dataset, tmp_path, targets=("pneumonia",), members=2, settings={"seed": 5, "epochs": 9}, **NEW)
    assert [job.name for job in jobs] == [f"{slug}/{n}" for slug in ("shared", "pneumonia") for n in range(6)]
    assert [job.config.seed for job in jobs] == [5, 6, 7, 8, 9, 10] * 2
    shared, own = jobs[4], jobs[10]
    assert (shared.fold, own.fold) == ({"index": 1, "of": 3},) * 2
    assert list(shared.shared.policies) == ["edema", "pneumonia"]
    for job in (shared, own):
        assert (job.config.branch_epoch, job.config.epoch_choice, job.config.epochs) == (6, "last", 9)
    assert (own.config.init, own.branch.source) == ("shared/4", "shared/4")
    assert (shared.config.others_weight, own.config.others_weight) == (0, OTHERS_WEIGHT)
    stored = read_json(RunPaths(tmp_path).plan)
    assert stored["recipe"] == {"start": "shared", "folds": 3}
    assert len(stored["jobs"]) == 12
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    plan(dataset, tmp_path, targets=("pneumonia",), members=2, settings={"seed": 5, "epochs": 9}, **NEW)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_request_of_before_plans_what_it_planned_before(dataset, tmp_path):
    jobs = plan(dataset, tmp_path, targets=PAIR)
    assert [job.name for job in jobs] == ["edema/0", "pneumonia/0"]
    assert jobs[0].config.digest() == TrainConfig(**read_json(jobs[0].paths.config)["config"]).digest()
    assert (jobs[0].config.epoch_choice, jobs[0].config.init, jobs[0].config.branch_epoch) == ("best", "", 0)
    assert set(read_json(RunPaths(tmp_path).plan)) == {"format", "dataset", "data", "jobs"}
    assert not set(read_json(jobs[0].paths.config)) & {"fold", "branch"}


def test_the_shared_network_is_the_same_whatever_is_asked_for_first(dataset, tmp_path):
    for name, targets in (("a", ("pneumonia",)), ("b", ("pneumonia", "edema")), ("c", ())):
        plan(dataset, tmp_path / name, targets=targets, **NEW)
    shared = [read_json(RunPaths(tmp_path / name).shared(0).config) for name in "abc"]
    assert shared[0] == shared[1] == shared[2]
    branches = [read_json(RunPaths(tmp_path / name).target("pneumonia", 0).config) for name in "abc"]
    assert branches[0] == branches[1] == branches[2]


def test_a_target_that_comes_later_leaves_a_shared_network_that_has_learnt_as_it_is(dataset, tmp_path):
    first = by_name(plan(dataset, tmp_path, targets=PAIR, start="shared"))
    again = by_name(plan(dataset, tmp_path, targets=("mass",), start="shared"))
    assert "mass" in again["shared/0"].shared.policies  # nothing was learnt yet
    for job in first.values():
        learn(job)
    later = by_name(plan(dataset, tmp_path / "x", targets=PAIR, start="shared"))
    learn(later["shared/0"])
    jobs = by_name(plan(dataset, tmp_path / "x", targets=("mass",), start="shared"))
    assert jobs["shared/0"].finished
    assert jobs["mass/0"].branch is None
    assert jobs["mass/0"].note == "from scratch: the shared network does not learn it"
    assert (jobs["mass/0"].config.init, jobs["mass/0"].config.epoch_choice) == ("", "last")


def test_a_finding_that_only_one_patient_has_is_not_in_the_shared_network(dataset, tmp_path):
    """The fold that holds that patient out has nothing to learn it from; every member answers for the same findings."""
    jobs = by_name(plan(dataset, tmp_path, targets=("edema", "fracture"), **NEW))
    assert all("fracture" not in jobs[f"shared/{index}"].shared.policies for index in range(3))
    assert "not in it: fracture (0 positives and 92 negatives in train without fold 0)" in jobs["shared/0"].note
    assert "from scratch" in jobs["fracture/0"].note


def own_finding(root, rest):
    folder = root / "findings"
    folder.mkdir()
    text = 'name = "Own one"\ndefinition = "d"\nsign = "s"\ncitation = "c"\n[names]\ntable = ["mass"]\n'
    text += '[policy]\nuncertain = "ignore"\nblank = "zero"\nreason = "r"\n'
    (folder / "own_one.toml").write_text(text + rest)
    return folder


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ('backbone = "resnet34"', "backbone=resnet34 makes it another network"),
        ('standardise = "film"', "standardise=film makes it another network"),
        ("pretrained = true", "pretrained=true makes it another network"),
        ("averaging = 0.99", ""),
        ("epochs = 8", "epochs=8 end before the shared network's epoch 8"),
        ("patience = 2", "patience=2 chooses epochs by part select"),
        ("learning_rate = 1e-4\nepochs = 10\nsampler = 'balanced'\nloss = 'focal'\nbatch_size = 16", ""),
    ],
)
def test_what_a_finding_may_set_for_itself_and_still_branch(tmp_path, table, reason):
    folder = own_finding(tmp_path, f"[training]\n{table}\n")
    truth = {slug: np.resize([1.0, 0.0, 0.0], 90) for slug in ("own_one", "edema")}
    data = write_dataset(tmp_path / "d", truth, disc_films(truth["edema"]))
    jobs = by_name(plan(data, tmp_path / "run", targets=("own_one", "edema"), findings=folder, start="shared"))
    own = jobs["own_one/0"]
    assert jobs["edema/0"].branch.source == "shared/0"
    assert (own.branch is None) == bool(reason)
    assert reason in own.note
    assert own.config.epoch_choice == ("best" if "patience" in table else "last")
    if reason:
        assert own.config.init == ""
        assert Targets.load(own.paths.targets).outputs is None


def test_weights_that_the_user_gives_are_the_shared_networks(dataset, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    jobs = by_name(plan(dataset, tmp_path / "run", targets=PAIR, start="shared", settings={"init": str(weights)}))
    assert (jobs["shared/0"].config.init, jobs["edema/0"].config.init) == (str(weights), "shared/0")
    assert "start_sha256" in read_json(jobs["shared/0"].paths.config)
    assert "start_sha256" not in read_json(jobs["edema/0"].paths.config)
    for job in jobs.values():
        learn(job)
    weights.unlink()  # no reason to train anything again
    cluster = {"address": "10.0.0.1:6379"}
    jobs = plan(dataset, tmp_path / "run", targets=PAIR, start="shared", settings={"init": str(weights)}, **cluster)
    assert all(job.finished for job in jobs)


def test_settings_that_only_one_finding_can_follow_are_not_the_shared_networks(dataset, tmp_path):
    settings = {"sampler": "balanced", "others_weight": 0.1}
    jobs = by_name(plan(dataset, tmp_path, targets=PAIR, start="shared", settings=settings))
    assert (jobs["shared/0"].config.sampler, jobs["shared/0"].config.others_weight) == ("natural", 0)
    assert (jobs["edema/0"].config.sampler, jobs["edema/0"].config.others_weight) == ("balanced", 0.1)


def test_a_member_of_another_backbone_has_a_shared_network_of_it(dataset, tmp_path):
    jobs = by_name(plan(dataset, tmp_path, targets=PAIR, members=2, member_settings={1: {"backbone": "plain"}}, **NEW))
    for number in range(6):
        backbone = "plain" if number >= 3 else "resnet18"
        assert jobs[f"shared/{number}"].config.backbone == jobs[f"edema/{number}"].config.backbone == backbone
        assert jobs[f"edema/{number}"].branch


def test_a_change_of_the_shared_network_is_one_of_all_that_go_on_from_it(dataset, tmp_path):
    jobs = plan(dataset, tmp_path, targets=PAIR, start="shared")
    for job in jobs:
        learn(job)
    with pytest.raises(ValueError, match=r"shared/0 is trained.*batch_size: 32 -> 16.*edema/0, .*pneumonia/0") as no:
        plan(dataset, tmp_path, targets=PAIR, start="shared", settings={"batch_size": 16})
    assert "goes on from: 'shared/0 " in str(no.value)
    changed = plan(dataset, tmp_path, targets=("edema",), start="shared", settings={"batch_size": 16}, force=True)
    assert [bool(job.replace_earlier) for job in changed] == [True, True]
    assert jobs[0].paths.weights.exists()
    launch._begin(DrivenRun(tmp_path), changed[0])
    assert not jobs[0].paths.weights.exists()
    assert jobs[1].paths.weights.exists()  # until its own training starts
    upkeep = {"checkpoint_minutes": 1.0, "batch_size": 16}
    assert [job.finished for job in plan(dataset, tmp_path / "y", targets=PAIR, start="shared")] == [False] * 3
    launch._begin(DrivenRun(tmp_path), changed[1])
    again = plan(dataset, tmp_path, targets=("edema",), start="shared", settings=upkeep)
    assert [bool(job.replace_earlier) for job in again] == [False, False]


def test_another_number_of_folds_is_a_change(dataset, tmp_path):
    for job in plan(dataset, tmp_path, targets=PAIR, folds=3):
        learn(job)
    with pytest.raises(ValueError, match=r"fold: \{'index': 0, 'of': 3\} -> \{'index': 0, 'of': 2\}"):
        plan(dataset, tmp_path, targets=PAIR, folds=2)
    with pytest.raises(ValueError, match=r"epoch_choice: 'last' -> 'best', fold: \{'index': 0, 'of': 3\} -> None"):
        plan(dataset, tmp_path, targets=PAIR)


def test_the_folds_of_a_run_are_written_once(dataset, tmp_path, monkeypatch):
    plan(dataset, tmp_path, targets=("edema",), folds=3)
    before = RunPaths(tmp_path).folds(3).read_bytes()
    monkeypatch.setattr("orchestrator.datasets.folds.assign_folds", None)  # whatever a later version would assign
    plan(dataset, tmp_path, targets=("pneumonia",), folds=3)
    assert RunPaths(tmp_path).folds(3).read_bytes() == before
    RunPaths(tmp_path).folds(3).write_bytes(before[:100])
    with pytest.raises(ValueError, match=r"folds-3\.csv is damaged"):
        plan(dataset, tmp_path, targets=("mass",), folds=3)


def test_patients_with_the_same_film_are_held_out_together(tmp_path):
    truth = {slug: np.resize([1.0, 0.0, 0.0, 1.0, 0.0], 60) for slug in PAIR}
    films = disc_films(truth["edema"], seed=2)
    films[20] = films[1]  # of another patient, both in train
    data = write_dataset(tmp_path / "d", truth, films)
    assert list(load_dataset(data).parts()[[1, 20]]) == ["train"] * 2
    held_out = []
    for seed in range(2, 6):
        plan(data, tmp_path / str(seed), targets=PAIR, folds=seed)
        fold = pd.read_csv(RunPaths(tmp_path / str(seed)).folds(seed))["fold"]
        held_out.append(fold[1] == fold[20] >= 0)
    assert all(held_out)


AUTO = {"start": "auto", "folds": 0}


@pytest.mark.parametrize(
    ("settings", "recipe"),
    [
        ({}, {"start": "shared", "folds": 5}),
        ({"epochs": 1}, {"start": "scratch", "folds": 5}),
        ({"patience": 2}, None),
        ({"snapshots": 2}, None),
        ({"epoch_choice": "best"}, None),
    ],
)
def test_what_is_left_to_be_decided_is_told_and_stays(dataset, tmp_path, settings, recipe):
    told = []
    jobs = plan(dataset, tmp_path, told.append, targets=PAIR, settings=settings, **AUTO)
    assert read_json(RunPaths(tmp_path).plan).get("recipe") == recipe
    assert len(told) == 1
    folds = "5 folds of the 140 films that are not test" if recipe else "from scratch, without folds"
    assert folds in told[0]
    again = plan(dataset, tmp_path, told.append, targets=PAIR, settings=settings, **AUTO)
    assert [job.name for job in again] == [job.name for job in jobs]
    assert told[1].startswith("Recipe of this run: ")


def test_many_films_need_no_folds_and_few_patients_can_have_none(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.planning.recipe.MOST_FILMS", 140)
    assert not any(job.fold for job in plan(dataset, tmp_path / "many", targets=PAIR, **AUTO))
    monkeypatch.undo()
    truth = {slug: np.resize([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 90) for slug in PAIR}  # nine positive patients
    few = write_dataset(tmp_path / "d", truth, disc_films(truth["edema"]))
    jobs = plan(few, tmp_path / "few", targets=PAIR, **AUTO)
    assert [job.name for job in jobs] == ["shared/0", "edema/0", "pneumonia/0"]
    assert plan(few, tmp_path / "asked", targets=PAIR, folds=2, start="auto")[0].fold


def test_a_run_of_before_goes_on_as_it_began(dataset, tmp_path):
    plan(dataset, tmp_path, targets=PAIR)
    jobs = plan(dataset, tmp_path, **AUTO)
    assert [job.name for job in jobs] == ["edema/0", "pneumonia/0", "fracture/0"]
    assert "recipe" not in read_json(RunPaths(tmp_path).plan)
    plan(dataset, tmp_path, force=True, **NEW)
    assert read_json(RunPaths(tmp_path).plan)["recipe"] == {"start": "shared", "folds": 3}


@pytest.mark.parametrize("request_", [{"folds": 3}, {"start": "shared"}])
@pytest.mark.parametrize("settings", [{"patience": 2}, {"snapshots": 2}, {"epoch_choice": "best"}])
def test_what_chooses_epochs_by_select_is_refused_where_nothing_is_chosen(dataset, tmp_path, request_, settings):
    with pytest.raises(ValueError, match=r"chooses epochs by the part select.*--from-scratch --folds 1"):
        plan(dataset, tmp_path, targets=PAIR, settings=settings, **request_)
    assert not (tmp_path / "plan.json").exists()


def test_a_single_epoch_is_none_to_branch_at(dataset, tmp_path):
    with pytest.raises(ValueError, match="epochs=1: a network that starts from a shared one.*--set epochs=2 or more"):
        plan(dataset, tmp_path, targets=PAIR, start="shared", settings={"epochs": 1})


def test_the_first_half_alone_is_the_same_shared_network(dataset, tmp_path):
    first = plan(dataset, tmp_path, targets=PAIR, shared=True, **NEW)
    assert [job.name for job in first] == ["shared/0", "shared/1", "shared/2"]
    for job in first:
        learn(job)
    jobs = plan(dataset, tmp_path, targets=PAIR, **NEW)
    assert [job.finished for job in jobs] == [True] * 3 + [False] * 6
