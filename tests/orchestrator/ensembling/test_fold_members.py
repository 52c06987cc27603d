"""The networks of a cross-validation as one column: out of fold where something is fitted, their mean in the bundle."""

import shutil

import numpy as np
import pandas as pd
import pytest

from models.classifier import load_classifier
from models.data.cache import open_images
from models.files.layout import BundlePaths, RunPaths, read_json, write_json
from models.statistics import metrics
from models.statistics.blending import align_folds
from orchestrator.datasets.dataset import load_dataset
from orchestrator.ensembling.adapt import AdaptRequest, adapt
from orchestrator.ensembling.build import EnsembleRequest, build_bundle, pack_members
from orchestrator.ensembling.logit_tables import copied_table, held_out_films, mean_logits, member_table
from orchestrator.ensembling.members import columns_of, finished_targets
from orchestrator.ensembling.replace import ReplaceRequest, replace_findings
from orchestrator.evaluation.compare_runs import CompareRequest, compare_runs
from orchestrator.inference.bundle import load_bundle
from orchestrator.inference.bundle_description import open_description
from tests.fake_run import (
    QUICK,
    fold_logits,
    fold_of_films,
    make_fake_dataset,
    make_truth,
    usual_logits,
    write_fake_run,
    write_fold_run,
)
from tests.small_data import label_frame, make_targets
from tests.small_run import rewrite_bundle

FOLDS = 3
SLUGS = ("edema", "pneumonia")
FILMS = label_frame(make_truth())["image_id"].to_numpy(str)
FOLD = fold_of_films(FOLDS)


def logits_of(seed: int = 0, slugs=SLUGS, **how) -> dict[str, np.ndarray]:
    return {slug: fold_logits(make_truth()[slug], FOLDS, seed=seed + n, **how) for n, slug in enumerate(slugs)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_fake_dataset(tmp_path_factory.mktemp("folds") / "dataset")


@pytest.fixture(scope="module")
def run(dataset):
    """Both findings by folds, alone and shared."""
    root = write_fold_run(dataset.parent / "run", dataset, logits_of())
    return write_fold_run(root, dataset, logits_of(5), shared=True)


@pytest.fixture(scope="module")
def bundle(dataset, run):
    build_bundle(EnsembleRequest(run=run, out=dataset.parent / "bundle", settings=QUICK))
    return dataset.parent / "bundle"


@pytest.fixture
def own_run(tmp_path, run):
    return shutil.copytree(run, tmp_path / "run")


def test_each_film_is_in_the_table_once_as_said_by_the_network_that_did_not_learn_from_it(run):
    trained = finished_targets(RunPaths(run), use="single")[0]["edema"]
    assert [one.fold for one in trained] == [(0, 3), (1, 3), (2, 3)]
    table = member_table(trained, "calibrate")
    assert list(table.columns) == ["0..2"]
    taught = FOLD >= 0
    assert list(table.index) == sorted(FILMS[taught])
    said = logits_of()["edema"][FOLD, np.arange(len(FILMS))][taught]
    expected = pd.Series(align_folds(said, FOLD[taught]), index=FILMS[taught]).sort_index()
    np.testing.assert_allclose(table["0..2"], expected)


def test_on_part_test_the_column_is_the_mean_of_the_networks(run):
    trained = finished_targets(RunPaths(run), use="single")[0]["edema"]
    expected = pd.Series(logits_of()["edema"].mean(axis=0)[FOLD < 0], index=FILMS[FOLD < 0]).sort_index()
    np.testing.assert_allclose(mean_logits(trained, "test"), expected)
    with pytest.raises(ValueError, match="have learned from the films of part 'select'.*part calibrate"):
        member_table(trained, "select")


def test_an_own_and_a_shared_cross_validation_are_two_columns(run):
    trained = finished_targets(RunPaths(run))[0]["edema"]
    assert list(member_table(trained, "calibrate").columns) == ["0..2", "shared/0..2"]
    for use, count in (("both", 6), ("single", 3), ("shared", 3)):
        assert len(finished_targets(RunPaths(run), use=use)[0]["edema"]) == count


def test_a_second_member_of_every_fold_is_a_column_of_its_own(dataset, own_run):
    write_fold_run(own_run, dataset, logits_of(9, ("edema",)), base=FOLDS)
    trained = finished_targets(RunPaths(own_run), use="single")[0]["edema"]
    assert list(member_table(trained, "calibrate").columns) == ["0..2", "3..5"]
    assert [[one.member for one in column] for column in columns_of(trained)] == [[0, 1, 2], [3, 4, 5]]


def test_the_bundle_asks_the_mean_of_the_networks_of_a_group(dataset, bundle):
    description, _ = open_description(bundle)
    entry = description["findings"]["edema"]
    assert description["format"] == "hilum-bundle/2"
    assert [(model["group"], model["fold"]["index"]) for model in entry["models"]] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]  # fmt: skip
    assert entry["counts"]["films"] == (FOLD >= 0).sum()
    assert len(entry["consumes"]) == 6 or entry["combine"] == "stacking"
    opened, films = load_bundle(bundle, "cpu"), open_images(dataset)[:5]
    columns = opened.member_logits(films)["edema"]
    each = copied_table(entry["models"], bundle, load_dataset(dataset), pd.Index(FILMS[:5])).to_numpy()
    np.testing.assert_allclose(columns, np.column_stack([each[:, :3].mean(1), each[:, 3:].mean(1)]), atol=1e-5)
    assert (bundle / "bundle.sha256").is_file()


def test_without_folds_a_bundle_has_the_format_that_every_hilum_reads(tmp_path, dataset):
    run = write_fake_run(tmp_path / "run", dataset, {"edema": usual_logits()["edema"]})
    description = build_bundle(EnsembleRequest(run=run, out=tmp_path / "bundle", settings=QUICK))
    assert description["format"] == "hilum-bundle/1"
    assert not any("group" in model for model in description["findings"]["edema"]["models"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.update(format="hilum-bundle/1"), "groups of models or heads, which 'hilum-bundle/1'"),
        (lambda one: one["findings"]["edema"]["models"][1].update(group=-1), "group is -1, not a whole number"),
        (lambda one: one["findings"]["edema"]["models"][1].update(group=1), "models of group 1 are of two kinds"),
        (lambda one: one["findings"]["edema"]["models"][1].update(copies=True), "models of group 0 are of two kinds"),
        (lambda one: one["findings"]["edema"]["models"][1].pop("group"), "is not one of 3 columns"),
    ],
)
def test_a_description_whose_groups_do_not_fit_is_a_sentence(tmp_path, bundle, change, said):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    description = read_json(copy / "bundle.json")
    description["findings"]["edema"]["blend"] = {"method": "greedy selection", "weights": [0.5, 0.5]}
    change(description)
    rewrite_bundle(copy, description, test=False)
    with pytest.raises(ValueError, match=said):
        open_description(copy)


def test_a_missing_fold_is_refused_with_its_name_and_what_goes_on(own_run):
    RunPaths(own_run).target("edema", 1).outcome.unlink()
    with pytest.raises(ValueError, match=r"fold 2 of 3 is missing \(edema/1\).*give the train command again"):
        finished_targets(RunPaths(own_run), ("edema",), use="single")
    trained, left_out = finished_targets(RunPaths(own_run))
    assert [one.name for one in trained["edema"]] == ["shared/0", "shared/1", "shared/2"]
    assert set(left_out) == {"edema/1", "edema/0..2"}


def test_films_in_two_folds_or_in_none_are_refused(own_run):
    trained = finished_targets(RunPaths(own_run), ("edema",), use="single")[0]["edema"]
    path = trained[0].paths.predictions
    stored = pd.read_parquet(path)
    stored.drop(stored.index[stored["part"] == "calibrate"][:2]).to_parquet(path, index=False)
    with pytest.raises(ValueError, match="2 of 980 are in no fold"):
        member_table(trained, "calibrate")
    stored.to_parquet(path, index=False)
    shutil.copy(path, trained[1].paths.predictions)
    with pytest.raises(ValueError, match="films are in two folds"):
        member_table(trained, "calibrate")


def test_networks_without_folds_are_left_out_beside_those_of_folds(dataset, own_run):
    plan = read_json(own_run / "plan.json")
    write_fake_run(own_run, dataset, {"pneumothorax": [make_truth()["pneumothorax"]]})
    shutil.move(own_run / "pneumothorax" / "0", own_run / "edema" / "3")
    jobs = {"jobs": plan["jobs"] | {"edema/3": {}}}
    write_json(own_run / "plan.json", plan | jobs)
    trained, left_out = finished_targets(RunPaths(own_run))
    assert [one.member for one in trained["edema"]] == [0, 1, 2, 0, 1, 2]
    assert left_out == {"edema/3": "trained without folds, beside networks of folds"}


def test_copies_of_a_film_are_asked_of_the_network_of_its_fold_and_in_the_bundle_of_all(tmp_path, dataset, run):
    trained = finished_targets(RunPaths(run), ("edema",), use="single")[0]["edema"]
    data = load_dataset(dataset)
    models, table = pack_members(trained, BundlePaths(tmp_path), data, tta=True)
    assert [(model["group"], model["copies"]) for model in models] == [*[(0, False)] * 3, *[(1, True)] * 3]
    assert list(table.index) == sorted(FILMS[FOLD >= 0])
    some = held_out_films(trained[1])[:40]
    alone = copied_table([models[4]], tmp_path, data, some)[0]
    assert np.corrcoef(table.iloc[:, 1].loc[some], alone)[0, 1] > 0.999999  # on the scale of all folds, else the same
    films, contract = open_images(dataset)[:3], {"pixel_mean": 0.4, "pixel_std": 0.2}
    entry = {"combine": "mean of logits", "calibration": {"method": "identity"}, "models": models}
    asked = load_classifier("edema", entry, contract, tmp_path, "cpu").columns(films)
    assert asked.shape == (3, 2)
    alone = [{name: value for name, value in model.items() if name != "group"} for model in models]
    each = load_classifier("edema", entry | {"models": alone}, contract, tmp_path, "cpu").columns(films)
    np.testing.assert_allclose(asked, np.column_stack([each[:, :3].mean(1), each[:, 3:].mean(1)]), atol=1e-9)


def test_a_finding_of_folds_is_replaced_and_the_bundle_still_says_the_same_of_the_other(tmp_path, dataset, run, bundle):
    new = write_fold_run(tmp_path / "new", dataset, logits_of(30, ("edema",), noise=0.8))
    asked = {"run": new, "bundle": bundle, "targets": ("edema",), "settings": QUICK}
    with pytest.raises(ValueError, match=r"depend on edema: pneumonia \(by a shared network\)"):
        replace_findings(ReplaceRequest(**asked, out=tmp_path / "out"))
    made = replace_findings(ReplaceRequest(**asked, out=tmp_path / "out", refit_dependents=True))
    assert made["format"] == "hilum-bundle/2"
    assert [model["group"] for model in made["findings"]["edema"]["models"]] == [0, 0, 0]
    report = made["replaced"]["findings"]
    assert report["pneumonia"]["role"] == "fitted again"
    assert made["findings"]["pneumonia"]["counts"]["films"] == (FOLD >= 0).sum()
    gain = report["edema"]["auc_gain"]
    assert gain is None or gain["low"] > 0
    load_bundle(tmp_path / "out", "cpu")


def test_a_finding_without_folds_takes_the_place_of_one_with(tmp_path, dataset, run):
    asked = {"use": "single", "targets": ("edema",), "settings": QUICK}
    build_bundle(EnsembleRequest(run=run, out=tmp_path / "bundle", **asked))
    new = write_fake_run(tmp_path / "new", dataset, {"edema": usual_logits()["edema"]})
    request = {"run": new, "bundle": tmp_path / "bundle", **asked}
    made = replace_findings(ReplaceRequest(**request, out=tmp_path / "out"))
    assert made["format"] == "hilum-bundle/1"
    assert made["replaced"]["findings"]["edema"]["auc_gain"] is None  # other films
    assert made["findings"]["edema"]["counts"]["films"] == 140


def test_a_bundle_of_folds_is_adapted_like_any_other(tmp_path, bundle):
    adapt(AdaptRequest(bundle=bundle, out=tmp_path / "out", prevalence=("edema=0.05",), device="cpu"))
    description, _ = open_description(tmp_path / "out")
    assert description["format"] == "hilum-bundle/2"
    assert (
        description["findings"]["edema"]["models"] == read_json(bundle / "bundle.json")["findings"]["edema"]["models"]
    )


def test_two_runs_of_folds_are_compared_on_all_films_and_one_without_on_those_that_it_did_not_learn_from(
    tmp_path, dataset, run
):
    other = write_fold_run(tmp_path / "other", dataset, logits_of(40, noise=4))
    asked = {"use_a": "single", "use_b": "single", "resamples": 200}
    found = compare_runs(CompareRequest(run_a=run, run_b=other, **asked))
    assert found.films == (FOLD >= 0).sum()
    assert {row.better for row in found.rows} == {found.names[0]}
    assert any("the network that did not learn from it" in note for note in found.notes)
    plain = write_fake_run(tmp_path / "plain", dataset, {slug: usual_logits()[slug] for slug in SLUGS})
    for path in plain.glob("*/*/outcome.json"):
        write_json(path, read_json(path) | {"epochs_trained": 1})
        make_targets(make_truth()["edema"]).save(path.with_name("targets.npz"))
    mixed = compare_runs(CompareRequest(run_a=run, run_b=plain, **asked))
    assert mixed.films == 140
    assert any("part calibrate alone" in note for note in mixed.notes)
    assert not any("their view" in note for note in mixed.notes)


def test_the_alignment_takes_off_what_a_network_shifts_and_stretches_and_no_more():
    draws = np.random.default_rng(3)
    truth = (draws.random(3000) < 0.3).astype(float)
    fold = draws.integers(0, 5, 3000)
    clean = 1.5 * truth + draws.normal(size=3000)
    shift, stretch = np.array([-1, 0.5, 0, 1, -0.5]), np.array([0.6, 1.4, 1, 1.2, 0.8])
    pooled = shift[fold] + stretch[fold] * clean
    assert metrics.auc(align_folds(pooled, fold), truth) > metrics.auc(pooled, truth) + 0.03
    assert metrics.auc(align_folds(pooled, fold), truth) == pytest.approx(metrics.auc(clean, truth), abs=0.003)
    mean = np.mean([shift[one] + stretch[one] * clean for one in range(5)], axis=0)  # what a bundle would say
    np.testing.assert_allclose(align_folds(pooled, fold), mean, atol=0.25)
    assert np.abs(align_folds(clean, fold) - clean).mean() < 0.05  # nothing there, so next to nothing is taken off
    few = fold[:20] % 2
    np.testing.assert_allclose(align_folds(clean[:20], few), clean[:20], atol=0.3)
    np.testing.assert_array_equal(align_folds([1.0, 1.0, 2.0], [0, 0, 1]), [1.0, 1.0, 2.0])
