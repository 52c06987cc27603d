"""orchestrator/planning/plan.py: who is trained on what, decided and written before anything starts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from models.config import TrainConfig
from models.data.targets import PARTS, Targets
from models.files.layout import DatasetPaths, RunPaths, read_json, write_json
from models.training.cpu_features import cpu_precision
from orchestrator.datasets.dataset import hash_file
from orchestrator.datasets.labelled import usable_views
from orchestrator.planning.plan import TrainRequest, chosen_targets, plan_run, resolved_config
from pathologies.findings.catalog import CHEXPERT_TARGETS, load_catalog
from pathologies.findings.policy import LabelPolicy
from tests.small_data import SIZE, make_dataset, write_dataset

CATALOG = load_catalog()
FILMS = 36


def plan(dataset, out, device="cpu", **request):
    return plan_run(TrainRequest(dataset=dataset, out=out, **request), device)


def raw_dataset(root, raw, **columns):
    """A data set with these raw labels, and other label columns replaced before they are hashed."""
    count = len(next(iter(raw.values())))
    films = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)
    write_dataset(root, {slug: np.asarray(value, float) for slug, value in raw.items()}, films)
    if columns:
        paths = DatasetPaths(root)
        pd.read_parquet(paths.labels).assign(**columns).to_parquet(paths.labels, index=False)
        write_json(paths.manifest, read_json(paths.manifest) | {"labels_sha256": hash_file(paths.labels)})
    return root


def change_manifest(dataset, **entries):
    path = DatasetPaths(dataset).manifest
    write_json(path, read_json(path) | entries)
    return dataset


def targets_of(out, slug="pneumonia", member=0):
    return Targets.load(RunPaths(out).target(slug, member).targets)


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "dataset", ("pneumonia", "edema"), films=FILMS)


def test_without_names_the_chexpert_targets_that_are_labelled():
    assert chosen_targets((), ["fracture", "mass", "edema"], CATALOG) == ["edema", "fracture"]
    assert chosen_targets((), list(CHEXPERT_TARGETS), CATALOG) == list(CHEXPERT_TARGETS)


def test_names_aliases_and_repetitions_become_slugs_in_the_order_asked_for():
    labelled = ["pleural_effusion", "edema"]
    assert chosen_targets(("Edema", "Effusion", "edema"), labelled, CATALOG) == ["edema", "pleural_effusion"]


def test_an_unknown_target_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"Unknown target 'efusion'\. Did you mean 'pleural_effusion'\? Known: "):
        chosen_targets(("efusion",), ["edema"], CATALOG)


def test_a_finding_that_is_not_labelled_is_refused_by_name():
    with pytest.raises(ValueError, match=r"does not label hernia.*It labels: edema, mass\."):
        chosen_targets(("hernia", "mass"), ["edema", "mass"], CATALOG)


def test_nothing_is_written_for_a_target_that_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="hernia"):
        plan(dataset, tmp_path / "run", targets=("pneumonia", "hernia"))
    assert not (tmp_path / "run").exists()


def test_a_run_without_any_target_is_refused(tmp_path):
    data = raw_dataset(tmp_path / "d", {"mass": np.arange(FILMS) % 2})
    with pytest.raises(ValueError, match="none of CheXpert's twelve.*It labels: mass"):
        plan(data, tmp_path / "run")


def test_every_job_has_its_files_and_the_plan_names_it(dataset, tmp_path):
    jobs = plan(dataset, tmp_path / "run", members=2)
    assert [job.name for job in jobs] == ["edema/0", "edema/1", "pneumonia/0", "pneumonia/1"]
    assert not any(job.finished for job in jobs)
    for job in jobs:
        stored = read_json(job.paths.config)
        assert TrainConfig(**stored["config"]) == job.config
        assert (stored["target"], stored["member"]) == (job.slug, job.member)
        assert len(Targets.load(job.paths.targets).row) == FILMS
    written = read_json(RunPaths(tmp_path / "run").plan)
    assert list(written["jobs"]) == [job.name for job in jobs]
    assert set(written["jobs"]["edema/0"]) == {"threads", "precision", "device", "config"}


def test_the_configuration_leaves_nothing_to_decide_later(dataset, tmp_path):
    jobs = plan(dataset, tmp_path / "run", targets=("edema",), members=2, settings={"seed": 7})
    assert [job.config.seed for job in jobs] == [7, 8]
    config = jobs[0].config
    assert (config.device, config.precision) == ("cpu", cpu_precision())
    assert LabelPolicy(uncertain=config.uncertain, blank=config.blank) == CATALOG["edema"].policy
    for card in ("bf16", "fp16", "auto"):  # auto: the training process finds out
        assert resolved_config(CATALOG["edema"], {}, 0, "cuda", card=card).precision == card
    assert resolved_config(CATALOG["edema"], {"precision": "fp32"}, 0, "cuda", card="fp16").precision == "fp32"
    assert resolved_config(CATALOG["edema"], {"device": "cpu"}, 0, "cuda").device == "cpu"


def test_the_user_overrides_the_finding_and_the_finding_the_defaults():
    own = dataclasses.replace(CATALOG["edema"], training={"epochs": 3, "batch_size": 8})
    config = resolved_config(own, {"epochs": 5, "uncertain": "ones"}, 0, "cpu")
    assert (config.epochs, config.batch_size, config.uncertain) == (5, 8, "ones")
    assert config.learning_rate == TrainConfig().learning_rate


def test_a_pathology_file_with_an_unknown_setting_is_named():
    own = dataclasses.replace(CATALOG["edema"], training={"epoch": 3})
    with pytest.raises(ValueError, match=r"Unknown setting 'epoch'.*'epochs'.*edema\.toml"):
        resolved_config(own, {}, 0, "cpu")


def test_labels_of_calibrate_and_test_are_not_handed_to_a_training(dataset, tmp_path):
    plan(dataset, tmp_path / "run", targets=("pneumonia",))
    targets = targets_of(tmp_path / "run")
    for part in ("calibrate", "test"):
        there = targets.all_of(part)
        assert len(there) > 0
        assert np.isnan(targets.value[there]).all()
        assert not targets.weight[there].any()
    for part in ("train", "select"):
        assert len(targets.usable(part)) == len(targets.all_of(part)) > 0


def test_the_training_contract_shapes_train_and_the_reference_contract_select(tmp_path):
    raw = np.resize([-1.0, 1.0, np.nan, 0.0], FILMS)
    data = raw_dataset(tmp_path / "d", {"edema": raw})
    plan(data, tmp_path / "run", settings={"uncertain": "ones", "blank": "ignore"})
    targets = targets_of(tmp_path / "run", "edema")
    train, select = targets.all_of("train"), targets.all_of("select")
    for places, uncertain, blank in ((train, 1.0, np.nan), (select, np.nan, 0.0)):
        assert {-1.0, 1.0, 0.0} <= set(raw[places])
        assert np.isnan(raw[places]).any()
        expected = np.where(raw[places] == -1, uncertain, np.where(np.isnan(raw[places]), blank, raw[places]))
        np.testing.assert_array_equal(targets.value[places], expected)
        np.testing.assert_array_equal(targets.weight[places], ~np.isnan(expected))


def test_a_policy_does_not_touch_select(tmp_path):
    data = raw_dataset(tmp_path / "d", {"edema": np.resize([-1.0, 1.0, np.nan, 0.0], FILMS)})
    kept = []
    for number, policy in enumerate(("zeros", "ones", "ignore", "soft(0.2,0.8)")):
        plan(data, tmp_path / str(number), settings={"uncertain": policy})
        targets = targets_of(tmp_path / str(number), "edema")
        kept.append(targets.value[targets.all_of("select")])
    for other in kept[1:]:
        np.testing.assert_array_equal(kept[0], other)


def test_closure_lifts_a_blank_parent_of_a_positive_child(tmp_path):
    child = np.arange(FILMS) % 2
    data = raw_dataset(tmp_path / "d", {"pneumonia": child, "lung_opacity": np.full(FILMS, np.nan)})
    plan(data, tmp_path / "run", targets=("lung_opacity",))
    targets = targets_of(tmp_path / "run", "lung_opacity")
    known = targets.usable("train")
    np.testing.assert_array_equal(targets.value[known], child[targets.row[known]])


def test_a_source_that_does_not_label_the_finding_is_unknown(tmp_path):
    """Of merged sources, blanks of the one are negatives; the other never looked for the finding."""
    source = np.resize(["chexpert", "chexpert", "nih", "nih"], FILMS)
    raw = np.where(source == "chexpert", np.resize([1.0, np.nan], FILMS), np.nan)
    data = raw_dataset(tmp_path / "d", {"fracture": raw, "edema": np.arange(FILMS) % 2}, source=source)
    change_manifest(data, sources={"chexpert": ["fracture", "edema"], "nih": ["edema"]})
    plan(data, tmp_path / "run")
    targets = targets_of(tmp_path / "run", "fracture")
    for part in ("train", "select"):
        here = targets.all_of(part)
        foreign = source[targets.row[here]] == "nih"
        assert foreign.any()
        assert np.isnan(targets.value[here][foreign]).all()
        assert not targets.weight[here][foreign].any()
        assert set(targets.value[here][~foreign]) == {0.0, 1.0}


def test_only_films_of_the_views_asked_for(tmp_path):
    view = np.resize(["frontal", "lateral", ""], FILMS)
    data = raw_dataset(tmp_path / "d", {"edema": np.arange(FILMS) % 2}, view=view)
    for views, wanted in (("frontal", ["frontal"]), ("lateral", ["lateral"]), ("all", ["frontal", "lateral", ""])):
        plan(data, tmp_path / views, settings={"views": views})
        np.testing.assert_array_equal(targets_of(tmp_path / views, "edema").row, np.flatnonzero(np.isin(view, wanted)))
    assert usable_views(pd.DataFrame({"view": view}), "all").all()


def test_rows_parts_and_names_of_the_targets_fit_the_data_set(dataset, tmp_path):
    plan(dataset, tmp_path / "run", targets=("edema",))
    targets = targets_of(tmp_path / "run", "edema")
    split = pd.read_csv(DatasetPaths(dataset).split)
    assert targets.image_id.astype(str).tolist() == split["image_id"].tolist()
    assert [PARTS[number] for number in targets.part] == split["part"].tolist()


def finish(job):
    write_json(job.paths.outcome, {"status": "ok"})
    job.paths.weights.write_bytes(b"weights")


def test_a_finished_job_is_recognised_and_kept(dataset, tmp_path):
    first = plan(dataset, tmp_path / "run")
    finish(first[0])
    assert [job.finished for job in plan(dataset, tmp_path / "run")] == [True, False]
    assert first[0].paths.weights.exists()


def test_a_failed_job_is_not_finished(dataset, tmp_path):
    job = plan(dataset, tmp_path / "run")[0]
    write_json(job.paths.outcome, {"status": "failed"})
    assert not plan(dataset, tmp_path / "run")[0].finished


def test_the_configuration_of_a_finished_target_is_fixed_without_force(dataset, tmp_path):
    job = plan(dataset, tmp_path / "run", targets=("edema",), settings={"epochs": 3})[0]
    finish(job)
    with pytest.raises(ValueError, match=r"trained already.*epochs: 3 -> 4.*--force"):
        plan(dataset, tmp_path / "run", targets=("edema",), settings={"epochs": 4})
    assert job.paths.weights.exists()
    again = plan(dataset, tmp_path / "run", targets=("edema",), settings={"epochs": 4}, force=True)[0]
    assert not again.finished
    assert again.paths.weights.exists(), "until the new training starts"
    again.replace_earlier()
    assert not again.paths.weights.exists()
    assert read_json(again.paths.config)["config"]["epochs"] == 4


def test_checkpoints_of_another_configuration_are_not_gone_on_from(dataset, tmp_path):
    job = plan(dataset, tmp_path / "run", settings={"epochs": 3})[0]
    job.paths.new_attempt().checkpoint.write_bytes(b"half-way")
    assert plan(dataset, tmp_path / "run", settings={"epochs": 3})[0].paths.newest_attempt().number == 1
    anew = plan(dataset, tmp_path / "run", settings={"epochs": 4}, force=True)[0]
    anew.replace_earlier()
    assert anew.paths.newest_attempt() is None


def test_how_often_checkpoints_are_written_may_change_at_any_time(dataset, tmp_path):
    first, second = plan(dataset, tmp_path / "run", settings={"checkpoint_minutes": 5.0})
    second.paths.new_attempt()
    finish(first)
    again = plan(dataset, tmp_path / "run", settings={"checkpoint_minutes": 1.0})
    assert [job.finished for job in again] == [True, False]
    assert second.paths.newest_attempt().number == 1
    assert read_json(second.paths.config)["config"]["checkpoint_minutes"] == 1.0


def test_a_run_grows_by_targets_and_members(dataset, tmp_path):
    finish(plan(dataset, tmp_path / "run", targets=("edema",))[0])
    grown = plan(dataset, tmp_path / "run", members=2)
    assert {job.name: job.finished for job in grown} == {
        "edema/0": True, "edema/1": False, "pneumonia/0": False, "pneumonia/1": False
    }  # fmt: skip
    plan(dataset, tmp_path / "run", targets=("edema",))
    assert len(read_json(RunPaths(tmp_path / "run").plan)["jobs"]) == 4


def test_one_run_has_one_data_set(dataset, tmp_path):
    plan(dataset, tmp_path / "run", targets=("edema",))
    other = make_dataset(tmp_path / "other", ("pneumonia", "edema"), films=FILMS, seed=1)
    with pytest.raises(ValueError, match=r"begun on another data set \(images_sha256, labels_sha256 differ\)"):
        plan(other, tmp_path / "run", targets=("pneumonia",))


def test_a_data_set_may_move(dataset, tmp_path):
    plan(dataset, tmp_path / "run")
    moved = dataset.rename(tmp_path / "moved")
    plan(moved, tmp_path / "run")
    assert read_json(RunPaths(tmp_path / "run").plan)["dataset"] == str(moved)


def test_a_folder_that_is_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="No prepared data set.*`hilum prepare SOURCE"):
        plan(tmp_path, tmp_path / "run")


def test_device_and_precision_are_resolved_once_in_a_run(dataset, tmp_path):
    """On a machine with other flags the same command goes on with what the run began with."""
    import orchestrator.planning.job_config as job_config
    import orchestrator.planning.plan as plan

    request = TrainRequest(dataset=dataset, out=tmp_path / "run", targets=("pneumonia",))
    first = plan.plan_run(request, "cpu")[0]
    other = {"bf16": "fp32", "fp32": "bf16"}[first.config.precision]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_config, "cpu_precision", lambda: other)
        again = plan.plan_run(request, "cpu")[0]
    assert again.config == first.config
    elsewhere = plan.plan_run(request, "cuda")[0]  # unfinished: it begins anew on the device that is here
    assert elsewhere.config.device == "cuda"
    write_json(elsewhere.paths.outcome, {"status": "ok"})
    assert plan.plan_run(request, "cuda", "fp16")[0].finished, "as the card that it was trained on"
    back = plan.plan_run(request, "cpu")[0]
    assert back.finished
    assert back.config.device == "cuda"


def test_members_may_differ_in_their_settings(dataset, tmp_path):
    jobs = plan(dataset, tmp_path / "run", targets=("pneumonia",), members=2,
                settings={"epochs": 3}, member_settings={1: {"backbone": "resnet34"}})  # fmt: skip
    assert [(job.config.backbone, job.config.epochs, job.config.seed) for job in jobs] == [
        ("resnet18", 3, 0),
        ("resnet34", 3, 1),
    ]
    with pytest.raises(ValueError, match="settings for member 2.*--members 3"):
        plan(dataset, tmp_path / "other", members=2, member_settings={2: {"epochs": 1}})
