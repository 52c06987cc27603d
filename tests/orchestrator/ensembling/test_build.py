"""orchestrator/ensembling/build.py: a run becomes a bundle that says what it was made of; part `test` stays
closed.
"""

import hashlib
import shutil

import numpy as np
import pandas as pd
import pytest

from models.files.layout import RunPaths, read_json, write_json
from models.statistics.metrics import auc
from orchestrator.datasets.dataset import load_dataset
from orchestrator.ensembling.build import EnsembleRequest, build_bundle, finished_targets, mean_logits
from orchestrator.inference.bundle import load_bundle
from tests.small_data import make_dataset
from tests.small_run import FILMS, FINDINGS, train_inline


@pytest.fixture
def run(house, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(house / "run", tmp_path / "run")


@pytest.fixture(scope="module")
def description(house):
    return read_json(house / "bundle" / "bundle.json")


def bundle_of(run, out, **request):
    return build_bundle(EnsembleRequest(run=run, out=out, **request))


def test_the_bundle_says_what_films_it_takes_and_what_it_was_made_of(house, description):
    manifest = load_dataset(house / "dataset").manifest
    for name in ("size", "letterbox", "intensity", "pixel_mean", "pixel_std"):
        assert description["input"][name] == manifest[name]
    assert description["input"]["views"] == ["frontal"]
    for name in ("images_sha256", "labels_sha256", "split_hash"):
        assert description["data"][name] == manifest[name]
    assert description["reference_contract"] == manifest["reference_contract"]
    assert (house / "bundle" / description["run"]).resolve() == (house / "run").resolve()
    assert not description["left_out"]


def test_every_finding_lists_the_models_that_it_consumes(house, description):
    members = {slug: [model["member"] for model in entry["models"]] for slug, entry in description["findings"].items()}
    assert members == {"edema": [0], "pneumonia": [0, 1]}
    for slug, entry in description["findings"].items():
        for model in entry["models"]:
            data = (house / "bundle" / model["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == model["sha256"]
            trained = RunPaths(house / "run").target(slug, model["member"])
            assert data == trained.weights.read_bytes()
            assert model["seed"] == read_json(trained.config)["config"]["seed"]
        assert set(entry["consumes"]) >= {model["file"] for model in entry["models"]}


def test_there_is_no_pickle(house):
    kinds = {path.suffix for path in (house / "bundle").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors", ".png", ".sha256", ".txt"}


def test_calibration_and_counts_come_from_the_part_calibrate_alone(house, description):
    dataset = load_dataset(house / "dataset")
    frame = dataset.read_labels_frame()[dataset.parts() == "calibrate"]
    for slug, entry in description["findings"].items():
        assert entry["counts"]["films"] == len(frame)
        assert entry["counts"]["positives"] == (frame[slug] == 1).sum()
        assert entry["counts"]["patients"] == frame["patient_id"].nunique()


def test_the_figures_are_those_of_the_stored_logits(house, description):
    trained, _ = finished_targets(RunPaths(house / "run"))
    frame = load_dataset(house / "dataset").read_labels_frame().set_index("image_id")
    logits = mean_logits(trained["pneumonia"], "calibrate")
    tables = [pd.read_parquet(one.paths.predictions).set_index("image_id")["logit"] for one in trained["pneumonia"]]
    np.testing.assert_allclose(logits, np.mean([table[logits.index] for table in tables], axis=0), rtol=1e-6)
    figures = description["findings"]["pneumonia"]["cross_validated"]
    assert figures["auc"] == pytest.approx(auc(logits.to_numpy(), frame.loc[logits.index, "pneumonia"].to_numpy()))
    assert figures["auc_low"] <= figures["auc"] <= figures["auc_high"]
    assert figures["auc"] > 0.8


def test_labels_of_test_change_nothing(house, tmp_path):
    """The same run and a data set whose test labels are turned round gives the same bundle, hashes of data apart."""
    dataset = load_dataset(house / "dataset")
    moved = shutil.copytree(house / "dataset", tmp_path / "dataset")
    frame = dataset.read_labels_frame()
    frame.loc[dataset.parts() == "test", list(FINDINGS)] = 1 - frame[list(FINDINGS)]
    frame.to_parquet(moved / "labels.parquet", index=False)
    changed = hashlib.sha256((moved / "labels.parquet").read_bytes()).hexdigest()
    write_json(moved / "manifest.json", read_json(moved / "manifest.json") | {"labels_sha256": changed})
    run = shutil.copytree(house / "run", tmp_path / "run")
    plan = read_json(run / "plan.json")
    plan["data"]["labels_sha256"] = changed
    write_json(run / "plan.json", plan)
    here = bundle_of(run, tmp_path / "a", dataset=moved)["findings"]
    there = bundle_of(house / "run", tmp_path / "b")["findings"]
    assert _plain(here) == _plain(there)


def _plain(findings):
    """As JSON says it, where NaN is null and equals itself."""
    from models.files.layout import to_plain

    return to_plain(findings)


def test_only_the_findings_that_are_asked_for(house, tmp_path):
    made = bundle_of(house / "run", tmp_path / "bundle", targets=("Pneumonia",))
    assert list(made["findings"]) == ["pneumonia"]
    assert load_bundle(tmp_path / "bundle", "cpu").slugs == ["pneumonia"]


def test_an_unknown_finding_gives_the_nearest_name(house, tmp_path):
    with pytest.raises(ValueError, match="Unknown target 'pneumona'. Did you mean 'pneumonia'"):
        bundle_of(house / "run", tmp_path / "bundle", targets=("pneumona",))


def test_a_target_that_failed_is_left_out_with_its_reason(run, tmp_path):
    write_json(run / "edema" / "0" / "outcome.json", {"status": "failed", "error": "too dark"})
    (run / "pneumonia" / "1" / "outcome.json").unlink()
    made = bundle_of(run, tmp_path / "bundle")
    assert list(made["findings"]) == ["pneumonia"]
    assert len(made["findings"]["pneumonia"]["models"]) == 1
    assert made["left_out"]["edema/0"] == "failed: too dark"
    assert "not finished" in made["left_out"]["pneumonia/1"]
    with pytest.raises(ValueError, match=r"no finished training of edema\. edema/0: failed: too dark"):
        bundle_of(run, tmp_path / "other", targets=("edema",))


def test_a_finding_of_ones_own_is_not_dropped_silently(run, tmp_path):
    plan = read_json(run / "plan.json")
    (run / "edema").rename(run / "own_finding")
    plan["jobs"]["own_finding/0"] = plan["jobs"].pop("edema/0")
    write_json(run / "plan.json", plan)
    with pytest.raises(ValueError, match="No pathology file describes own_finding.*--findings"):
        bundle_of(run, tmp_path / "bundle")


def test_no_run_no_bundle(house, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a run: it has no plan\.json"):
        bundle_of(house / "dataset", tmp_path / "bundle")


def test_a_data_set_that_moved_is_asked_for_and_another_one_refused(run, tmp_path):
    plan = read_json(run / "plan.json")
    write_json(run / "plan.json", plan | {"dataset": str(tmp_path / "gone")})
    with pytest.raises(FileNotFoundError, match="not at .*gone any more.*--dataset"):
        bundle_of(run, tmp_path / "bundle")
    other = make_dataset(tmp_path / "other", FINDINGS, films=FILMS, seed=1)
    with pytest.raises(ValueError, match="is not the data set of .*images_sha256"):
        bundle_of(run, tmp_path / "bundle", dataset=other)


def test_a_folder_that_is_something_else_is_left_alone(house, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    for out in (tmp_path / "precious", house / "run"):
        with pytest.raises(ValueError, match="--out"):
            bundle_of(house / "run", out)
    assert (tmp_path / "precious" / "file").read_text() == "mine"
    assert (house / "run" / "plan.json").exists()


def test_a_bundle_is_made_anew_as_a_whole(house, tmp_path):
    bundle_of(house / "run", tmp_path / "bundle")
    bundle_of(house / "run", tmp_path / "bundle", targets=("edema",))
    assert [path.name for path in (tmp_path / "bundle" / "weights").iterdir()] == ["edema-0.safetensors"]


def test_a_calibrate_part_without_positives_still_gives_a_bundle(tmp_path):
    """With nothing to calibrate on there is no useful threshold, and the reason is told."""
    from tests.small_data import disc_films, label_frame, parts_of, write_dataset

    truth = (np.random.default_rng(0).random(90) < 0.4).astype(float)
    truth[parts_of(label_frame({"edema": truth})) == "calibrate"] = 0
    data = write_dataset(tmp_path / "dataset", {"edema": truth}, disc_films(truth))
    train_inline(data, tmp_path / "run", settings={"epochs": 1})
    entry = bundle_of(tmp_path / "run", tmp_path / "bundle")["findings"]["edema"]
    assert "0 positives" in entry["cross_validated"]["reason"]
    assert not entry["operating_points"][entry["operating_point"]]["useful"]
    assert load_bundle(tmp_path / "bundle", "cpu").classifiers[0].threshold is None


@pytest.mark.parametrize("how", ["film", "local", "local_inside"])
def test_the_bundle_standardises_films_as_the_training_did(house, tmp_path, how):
    """What a network was asked on the stored films at the end of its training, the bundle answers too."""
    run, out = tmp_path / "run", tmp_path / "bundle"
    train_inline(house / "dataset", run, targets=("pneumonia",), settings={"epochs": 1, "standardise": how})
    bundle_of(run, out)
    (classifier,) = load_bundle(out).classifiers
    assert [model["standardise"] for model in classifier.entry["models"]] == [how]
    stored = pd.read_parquet(RunPaths(run).target("pneumonia", 0).predictions)
    dataset = load_dataset(house / "dataset")
    rows = pd.Index(dataset.read_labels_frame()["image_id"]).get_indexer(stored["image_id"])
    found = classifier.logits(dataset.images()[rows])
    np.testing.assert_allclose(found, stored["logit"], atol=1e-3)
