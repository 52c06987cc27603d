"""orchestrator/ensembling/members.py and the new kinds of member: copies of the film, stacked findings,
consistent parents.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from models.classifier import COPIES, moved
from models.data.cache import open_images
from models.data.targets import PARTS
from models.files.layout import BundlePaths, RunPaths, read_json
from models.statistics import blending
from orchestrator.datasets.dataset import load_dataset
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.ensembling.logit_tables import bundled_table, mean_logits, member_table
from orchestrator.ensembling.members import finished_targets, taught_prior
from orchestrator.inference.bundle import load_bundle
from tests.fake_run import QUICK, make_fake_dataset, make_logits, make_truth, usual_logits, write_fake_run
from tests.small_data import make_targets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_fake_dataset(tmp_path_factory.mktemp("members") / "dataset")


@pytest.fixture(scope="module")
def run(dataset):
    return write_fake_run(dataset.parent / "run", dataset, usual_logits())


@pytest.fixture(scope="module")
def trained(run):
    return finished_targets(RunPaths(run))[0]


def test_a_table_has_a_column_per_member(trained):
    table = member_table(trained["edema"], "calibrate")
    assert table.shape == (140, 2)
    assert table.index.is_monotonic_increasing
    np.testing.assert_allclose(mean_logits(trained["edema"], "calibrate"), table.mean(axis=1))


def test_stored_predictions_stand_in_for_the_bundle_only_while_the_weights_are_the_same(
    tmp_path, dataset, run, trained
):
    out = tmp_path / "bundle"
    entry = build_bundle(EnsembleRequest(run=run, out=out, targets=("edema",), settings=QUICK))["findings"]["edema"]
    stored = member_table(trained["edema"], "calibrate")
    args = (entry, BundlePaths(out), RunPaths(run), load_dataset(dataset), stored.index)
    np.testing.assert_array_equal(bundled_table(*args), stored)
    other = [model | {"sha256": "0" * 64} for model in entry["models"]]
    with pytest.raises(ValueError, match="its hash differs"):  # not the run's, so the networks are asked
        bundled_table(entry | {"models": other}, *args[1:])
    asked = bundled_table(entry, BundlePaths(out), RunPaths(tmp_path), *args[3:])  # no run there
    films = open_images(dataset)[list(pd.read_parquet(dataset / "labels.parquet")["image_id"]).index(stored.index[0])]
    bundle = load_bundle(out, "cpu")
    np.testing.assert_allclose(asked.iloc[0], bundle.member_logits(films[None])["edema"][0], atol=1e-4)


def test_copies_are_shifted_and_zoomed_and_never_mirrored():
    film = torch.zeros(1, 1, 40, 40)
    film[0, 0, 20, 30] = 1
    shifted = moved(film, (0.05, -0.1, 1.0))[0, 0]
    assert divmod(int(shifted.argmax()), 40) == (22, 26)
    np.testing.assert_allclose(moved(film, (0.0, 0.0, 1.0)), film, atol=1e-6)
    right = torch.zeros(1, 1, 40, 40)
    right[..., 25:] = 1
    for copy in COPIES:
        copied = moved(right, copy)
        assert copied[..., 30:].mean() > 0.9 > 0.1 > copied[..., :10].mean()


def test_test_time_augmentation_is_a_member_at_prediction_too(tmp_path, house):
    out = tmp_path / "bundle"
    description = build_bundle(EnsembleRequest(run=house / "run", out=out, tta=True, settings=QUICK))
    models = description["findings"]["pneumonia"]["models"]
    assert [(model["member"], model["copies"]) for model in models] == [(0, False), (1, False), (0, True), (1, True)]
    assert len(description["findings"]["pneumonia"]["consumes"]) == 2
    assert len(list((out / "weights").iterdir())) == 3
    films = open_images(house / "dataset")[:6]
    bundle, plain = load_bundle(out, "cpu"), load_bundle(house / "bundle", "cpu")
    columns = bundle.member_logits(films)["pneumonia"]
    assert columns.shape == (6, 4)
    np.testing.assert_allclose(columns[:, :2], plain.member_logits(films)["pneumonia"], atol=1e-5)
    assert 0.001 < np.abs(columns[:, 0] - columns[:, 2]).mean() < 2
    np.testing.assert_allclose(
        bundle.logits(films)[:, bundle.slugs.index("pneumonia")], columns.mean(axis=1), rtol=1e-6
    )


def test_a_stacked_finding_is_answered_by_the_bundle_and_says_what_it_consumes(tmp_path, dataset):
    """Edema's own networks say nothing, those of lung opacity know about edema."""
    truth = make_truth()["edema"]
    logits = {"edema": [make_logits(truth, 30, 1)], "lung_opacity": [make_logits(truth, 1, 2)]}
    run = write_fake_run(tmp_path / "run", dataset, logits)
    entry = build_bundle(EnsembleRequest(run=run, out=tmp_path / "bundle", settings=QUICK))["findings"]["edema"]
    assert entry["combine"] == blending.STACKING
    assert entry["blend"]["inputs"] == ["edema", "lung_opacity"] or entry["blend"]["inputs"] == (
        "edema",
        "lung_opacity",
    )
    assert entry["consumes"] == ["weights/edema-0.safetensors", "weights/lung_opacity-0.safetensors"]
    bundle = load_bundle(tmp_path / "bundle", "cpu")
    films = open_images(dataset)[:5]
    means = [bundle.member_logits(films)[slug].mean(axis=1) for slug in ("edema", "lung_opacity")]
    weights, intercept = entry["blend"]["weights"], entry["blend"]["intercept"]
    expected = weights[0] * means[0] + weights[1] * means[1] + intercept
    np.testing.assert_allclose(bundle.logits(films)[:, bundle.slugs.index("edema")], expected, rtol=1e-6)
    alone = next(one for one in bundle.classifiers if one.slug == "edema")
    with pytest.raises(ValueError, match="edema is stacked from edema, lung_opacity.*Ask the whole bundle"):
        alone.logits(films)


def test_a_consistent_bundle_raises_parents(tmp_path, dataset, run):
    out = tmp_path / "bundle"
    description = build_bundle(EnsembleRequest(run=run, out=out, consistency=True, settings=QUICK))
    assert description["consistency"] is True
    entry = description["findings"]["lung_opacity"]
    assert len(entry["consumes"]) == 6
    assert set(entry["consistency"]) == {"before", "after", "auc_gain", "children"}
    bundle = load_bundle(out, "cpu")
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 3
    probability = dict(zip(bundle.slugs, bundle.calibrate(logits).T, strict=True))
    plain = bundle.classifiers[bundle.slugs.index("edema")].calibration.apply(logits[:, bundle.slugs.index("edema")])
    np.testing.assert_array_equal(probability["edema"], plain)
    for child in ("edema", "pneumonia"):
        assert (probability["lung_opacity"] >= probability[child]).all()
    stored = read_json(out / "selftest" / "expected.json")["probabilities"]
    assert stored["lung_opacity"] >= max(stored["edema"], stored["pneumonia"])


def test_the_prior_that_was_taught_is_visible(trained):
    """40 % positives in `train`; a balanced weight makes them half, a weight of 3 two thirds."""
    value = np.array([1.0, 0, 0, 1, 0] * 360)
    make_targets(value).save(trained["edema"][0].paths.targets)
    plain = taught_prior(trained["edema"][0], 0.4)
    part = make_targets(value).part == PARTS.index("train")
    share = value[part].mean()
    assert plain["taught_share"] == pytest.approx(share)
    one = trained["edema"][0]
    for weight, expected in (("balanced", 0.5), ("3", 3 * share / (1 + 2 * share))):
        config = one.config | {"positive_weight": weight, "device": "cpu"}
        taught = taught_prior(type(one)(**(vars(one) | {"config": config})), 0.4)
        assert taught["taught_share"] == pytest.approx(expected)
        assert taught["positive_weight"] == weight
        wanted = np.log(0.4 / 0.6) - np.log(expected / (1 - expected))
        assert taught["log_odds_to_correct"] == pytest.approx(wanted)
