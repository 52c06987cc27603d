"""models/training/lr_range_test.py and orchestrator/tuning/lr_finder.py: a sensible decade, a marked divergence,
nothing changed.
"""

import math

import numpy as np
import pytest
from PIL import Image

from models.files.layout import read_json
from models.training.lr_range_test import Ramp, RangeTest, smooth
from orchestrator.cli.app import app
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.object_store import Store
from orchestrator.tuning.lr_finder import RateRequest, RateResult, find_rate, suggestions
from tests.small_data import make_dataset

SETTINGS = {"backbone": "plain", "batch_size": 16, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """`pneumonia` can be seen on the films, `edema` is drawn by chance."""
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", ("pneumonia", "edema"), films=270)


def curve(losses, low=1e-5, high=10.0):
    losses = np.asarray(losses, float)
    rates = np.geomspace(low, high, len(losses))
    return RangeTest(rates=rates, losses=losses, smoothed=smooth(losses), diverged=None, passes=1.0)


def test_the_steepest_fall_of_a_known_curve():
    """A logistic fall over the logarithm of the rate is steepest in its middle, 1e-3, also under noise."""
    decade = np.linspace(-5, 1, 100)
    fall = 0.7 - 0.4 / (1 + np.exp(-4 * (decade + 3)))
    assert math.log10(curve(fall).steepest) == pytest.approx(-3, abs=0.15)
    noisy = fall + np.random.default_rng(0).normal(0, 0.03, 100)
    assert math.log10(curve(noisy).steepest) == pytest.approx(-3, abs=0.6)
    assert curve(np.full(100, 0.7)).steepest is None
    rising = np.where(decade > 0, 5.0, fall)  # a fall back from a rise is no descent to choose by
    assert math.log10(curve(rising).steepest) == pytest.approx(-3, abs=0.2)


def test_what_ran_away_does_not_drown_the_curve():
    losses = np.array([0.7] * 30 + [0.3] * 29 + [np.inf])
    assert smooth(losses)[:55] == pytest.approx(smooth(losses[:59])[:55], rel=0.02)
    assert np.isfinite(smooth(np.array([0.7, np.nan]))).all()


def test_ramps():
    assert Ramp(low=1e-3, high=1e-1, steps=11).rates(5)[[0, 5, 10]] == pytest.approx([1e-3, 1e-2, 1e-1])
    assert [len(Ramp().rates(updates)) for updates in (3, 20, 1000)] == [40, 60, 100]
    for wrong in ({"low": 0.0}, {"low": 1.0, "high": 0.1}, {"high": math.inf}, {"low": math.nan}):
        with pytest.raises(ValueError, match="a lowest above 0 and a higher one"):
            Ramp(**wrong)
    with pytest.raises(ValueError, match="9 steps are too few"):
        Ramp(steps=9)


def test_the_suggestion_is_in_a_sensible_decade(dataset):
    """Discs are learned by a small network with AdamW at rates about 1e-3; 1e-4 and 1e-1 would be no advice."""
    result = find_rate(RateRequest(dataset=dataset, target="pneumonia", settings=SETTINGS))
    assert 2e-4 < result.test.steepest < 2e-2
    assert len(result.test.rates) == len(result.test.losses) == len(result.test.smoothed)
    assert "steepest descent" in suggestions(result)[0][0][1]


def test_a_rate_that_diverges_is_marked(dataset):
    """Labels by chance cannot be learned: at a rate of 10 the network is far worse than knowing nothing."""
    recipe = {"loss": "asymmetric", "sampler": "balanced", "mixup": 0.3, "averaging": 0.9, "accumulate": 2,
              "start_size": 0.5, "frozen_epochs": 1, "noise": 0.1, "erasing": 0.2, "clip": 0.0}  # fmt: skip
    ramp = Ramp(low=1e-3, high=1e3, steps=30)
    for settings in (SETTINGS, SETTINGS | recipe):
        test = find_rate(RateRequest(dataset=dataset, target="edema", settings=settings, ramp=ramp)).test
        assert test.diverged is not None
        assert 1e-2 < test.diverged <= 1e3
        assert test.tenth == test.diverged / 10
        assert test.rates[-1] == test.diverged
    flat = RangeTest(
        rates=np.geomspace(1e-5, 1, 30), losses=np.full(30, 0.5), smoothed=np.full(30, 0.5), diverged=1.0, passes=1.0
    )
    assert flat.steepest is None
    notes = suggestions(RateResult(slug="edema", config={"learning_rate": 1e-3}, test=flat))[1]
    assert not any("Next:" in note for note in notes)  # where it only runs away, nothing is known to learn
    still = Ramp(low=1e-9, high=1e-8, steps=30)
    result = find_rate(RateRequest(dataset=dataset, target="edema", settings=SETTINGS, ramp=still))
    assert (result.test.diverged, result.test.tenth, result.test.steepest) == (None, None, None)
    assert any("did not fall" in note for note in suggestions(result)[1])


def test_the_same_test_again_gives_the_same_figures(dataset):
    request = RateRequest(dataset=dataset, target="edema", settings=SETTINGS, ramp=Ramp(steps=10))
    np.testing.assert_array_equal(find_rate(request).test.losses, find_rate(request).test.losses)


def test_the_command_writes_figures_and_picture_and_changes_nothing(dataset, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    words = ["lr-find", str(dataset), "--target", "Pneumonia", "--steps", "12"]
    words += [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    outs = [str(tmp_path / "a" / "rates.png"), str(tmp_path / "rates.json")]
    app(args=[*words, "--out", outs[0], "--out", outs[1]], prog_name="hilum", standalone_mode=False)
    assert "learning_rate as it is set" in capsys.readouterr().out
    assert np.asarray(Image.open(outs[0]).convert("L")).std() > 10
    stored = read_json(outs[1])
    assert stored["target"] == "pneumonia"
    assert set(stored["suggestions"]) == {"steepest_descent", "tenth_of_divergence"}
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before
    with pytest.raises(ValueError, match="written as .png"):
        app(args=[*words, "--out", "rates.pdf"], prog_name="hilum", standalone_mode=False)
    with pytest.raises(ValueError, match="does not label fracture"):
        app(args=[*words[:3], "fracture"], prog_name="hilum", standalone_mode=False)


def test_a_data_set_in_object_storage(dataset, storage, tmp_path):
    uri, found = f"{storage.uri}/data", []
    Mirror(Store(uri), dataset).push()
    for place in (uri, str(dataset)):
        words = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
        out = tmp_path / f"{len(found)}.json"
        app(["lr-find", place, "--target", "edema", "--steps", "20", "--out", str(out), *words], standalone_mode=False)
        found.append(out.read_bytes())
    assert found[0] == found[1]
