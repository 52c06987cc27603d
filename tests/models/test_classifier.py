"""models/classifier.py: one finding of a bundle, ready to use."""

import shutil

import numpy as np
import pytest

from models.classifier import load_classifier
from models.data.cache import open_images
from models.files.layout import read_json
from models.statistics.metrics import auc
from tests.small_data import parts_of


def load(bundle, slug="pneumonia", **changes):
    description = read_json(bundle / "bundle.json")
    return load_classifier(slug, description["findings"][slug] | changes, description["input"], bundle, "cpu")


@pytest.fixture(scope="module")
def films(house):
    return open_images(house / "dataset")[:40]


def test_probabilities_are_calibrated_and_tell_the_disc(house):
    import pandas as pd

    frame = pd.read_parquet(house / "dataset" / "labels.parquet")
    test = np.flatnonzero(parts_of(frame) == "test")
    classifier = load(house / "bundle")
    probability = classifier.probability(open_images(house / "dataset")[test])
    assert ((probability > 0) & (probability < 1)).all()
    assert auc(probability, frame["pneumonia"].to_numpy()[test]) > 0.8
    assert abs(probability.mean() - frame["pneumonia"].to_numpy()[test].mean()) < 0.15


def test_the_logit_is_the_mean_of_the_members(house, films):
    both = load(house / "bundle")
    assert len(both.members) == 2
    alone = [load(house / "bundle", models=[model]).logits(films) for model in both.entry["models"]]
    assert not np.allclose(*alone)
    np.testing.assert_allclose(both.logits(films), np.mean(alone, axis=0), rtol=1e-6)


def test_a_film_scores_the_same_alone_and_in_a_batch(house, films):
    """Batch statistics or dropout left on would show here."""
    classifier = load(house / "bundle")
    together = classifier.logits(films)
    alone = np.concatenate([classifier.logits(films[index : index + 1]) for index in range(5)])
    np.testing.assert_allclose(alone, together[:5], atol=1e-4)


def test_the_threshold_is_that_of_the_operating_point_or_none(house):
    points = load(house / "bundle").entry["operating_points"]
    useful = points | {"youden": {"useful": True, "threshold": 0.25}, "f2": {"useful": False, "threshold": 0.9}}
    assert load(house / "bundle", operating_points=useful, operating_point="youden").threshold == 0.25
    assert load(house / "bundle", operating_points=useful, operating_point="f2").threshold is None


def test_another_size_than_the_films(house, films):
    models = [model | {"image_size": 16} for model in load(house / "bundle").entry["models"]]
    assert load(house / "bundle", models=models).logits(films).shape == (40,)


def test_an_absent_and_a_changed_weight_file_are_refused(house, tmp_path):
    bundle = shutil.copytree(house / "bundle", tmp_path / "bundle")
    file = bundle / "weights" / "pneumonia-1.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"pneumonia-1\.safetensors is not the file.*hash differs"):
        load(bundle)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks .*pneumonia-1\.safetensors"):
        load(bundle)
