"""A run of folds whose networks start from shared ones, trained for real, and the bundle that is made of it."""

import shutil

import numpy as np
import pandas as pd
import pytest

from models.data.cache import open_images
from models.files.layout import BundlePaths, RunPaths, read_json
from orchestrator.datasets.dataset import load_dataset
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.ensembling.logit_tables import bundled_table, copied_table, held_out_films, member_table
from orchestrator.ensembling.members import finished_targets
from orchestrator.ensembling.replace import ReplaceRequest, replace_findings
from orchestrator.evaluation.compare_runs import CompareRequest, compare_runs
from orchestrator.inference.bundle import load_bundle
from tests.fake_run import QUICK
from tests.small_data import make_dataset
from tests.small_run import train_inline

FOLDS = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("folds")
    dataset = make_dataset(root / "dataset", films=216)
    train_inline(dataset, root / "run", start="shared", folds=FOLDS)
    build_bundle(EnsembleRequest(run=root / "run", out=root / "bundle", settings=QUICK))
    return root


def test_every_film_that_is_not_test_is_answered_once_and_no_network_learned_from_what_it_answers(place):
    dataset = load_dataset(place / "dataset")
    table = member_table(finished_targets(RunPaths(place / "run"))[0]["pneumonia"], "calibrate")
    names = dataset.read_labels_frame()["image_id"].to_numpy(str)
    assert list(table.index) == sorted(names[dataset.parts() != "test"])
    assert list(table.columns) == ["0..1", "shared/0..1"]


def test_the_bundle_answers_with_the_mean_of_networks_whose_own_column_alone_was_published(place):
    entry = read_json(place / "bundle" / "bundle.json")["findings"]["pneumonia"]
    assert [(model["group"], model["outputs"]) for model in entry["models"]] == [(0, None)] * 2 + [(1, 1)] * 2
    assert {model["selected_by"] for model in entry["models"]} == {"last_epoch"}
    assert all(0 < one["taught_share"] < 1 for one in entry["prior"])
    bundle, films = load_bundle(place / "bundle", "cpu"), open_images(place / "dataset")
    names = load_dataset(place / "dataset").read_labels_frame()["image_id"].to_numpy(str)
    tested = pd.Index(names[load_dataset(place / "dataset").parts() == "test"][:4])
    stored = member_table(finished_targets(RunPaths(place / "run"))[0]["pneumonia"], "test").loc[tested]
    asked = bundle.member_logits(films[np.flatnonzero(np.isin(names, tested))])["pneumonia"]
    np.testing.assert_allclose(asked, stored, atol=1e-4)


def test_without_the_run_its_folds_are_found_again_in_the_data_set(place, tmp_path):
    entry, dataset = (
        read_json(place / "bundle" / "bundle.json")["findings"]["pneumonia"],
        load_dataset(place / "dataset"),
    )
    bundle, films = BundlePaths(place / "bundle"), pd.Index(sorted(_taught(dataset)))
    stored = bundled_table(entry, bundle, RunPaths(place / "run"), dataset, films)
    asked = bundled_table(entry, bundle, RunPaths(tmp_path / "gone"), dataset, films)
    np.testing.assert_allclose(asked, stored, atol=1e-4)
    strange = [model | {"fold": model["fold"] | {"films_sha256": "0" * 64}} for model in entry["models"]]
    with pytest.raises(ValueError, match="learned in other folds than this data set's"):
        bundled_table(entry | {"models": strange}, bundle, RunPaths(tmp_path / "gone"), dataset, films)
    trained = finished_targets(RunPaths(place / "run"), use="single")[0]["pneumonia"]
    own = copied_table([entry["models"][1]], bundle.root, dataset, held_out_films(trained[1]))[0]
    assert np.corrcoef(own, stored[0].loc[own.index])[0, 1] > 0.9999


def test_a_bundle_of_folds_takes_a_network_of_new_folds(place, tmp_path):
    train_inline(place / "dataset", tmp_path / "run", folds=FOLDS, settings={"epochs": 1})
    asked = {"run": tmp_path / "run", "bundle": place / "bundle", "targets": ("pneumonia",), "settings": QUICK}
    made = replace_findings(ReplaceRequest(**asked, out=tmp_path / "out"))
    one = made["replaced"]["findings"]["pneumonia"]
    assert one["before"]["auc"] is not None
    assert [model["group"] for model in made["findings"]["pneumonia"]["models"]] == [0, 0]
    load_bundle(tmp_path / "out", "cpu")


def test_what_branching_cost_before_the_branch_counts_once(place, tmp_path):
    run = shutil.copytree(place / "run", tmp_path / "run")
    found = compare_runs(CompareRequest(run_a=run, run_b=run, use_a="single", use_b="shared", resamples=100))
    single, shared = found.costs
    assert (single.networks, shared.networks) == (FOLDS, FOLDS)
    assert single.epochs == shared.epochs == (3,)
    assert single.passes == shared.passes > 0  # two epochs of the shared network and one of the own, of the same films
    assert found.films == len(_taught(load_dataset(place / "dataset")))


def _taught(dataset) -> np.ndarray:
    return dataset.read_labels_frame()["image_id"].to_numpy(str)[dataset.parts() != "test"]
