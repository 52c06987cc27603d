"""Pictures: every panel draws for every kind of finding, and says so where there is nothing to draw."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from models.statistics.metrics import sigmoid
from orchestrator.evaluation import plots
from orchestrator.evaluation.plots import FindingCurves
from orchestrator.evaluation.scoring import EvaluationSettings, evaluate_predictions

HISTORY = [{"epoch": 1, "train_loss": 0.6, "select_loss": 0.5, "train_auc": 0.6, "select_auc": None}]


def finding(**changes) -> FindingCurves:
    logit = np.random.default_rng(0).normal(-1, 1, 200)
    truth = (np.random.default_rng(1).random(200) < sigmoid(logit)).astype(float)
    given = {"name": "Edema", "probability": sigmoid(logit), "truth": truth, "threshold": 0.3}
    return FindingCurves(**(given | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"uncalibrated": np.full(200, 0.4), "histories": {"0": HISTORY * 2, "1": HISTORY}},
        {"truth": np.zeros(200), "threshold": None},
        {"truth": np.full(200, np.nan)},
        {"probability": np.arange(200.0) - 50},
    ],
    ids=["all panels", "no positives", "no labels", "no probability"],
)
def test_picture_of_a_finding(tmp_path, changes):
    path = plots.draw_finding(finding(**changes), tmp_path / "deep" / "edema.png")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[0] > 900
    assert 0.003 < (pixels < 128).mean() < 0.2  # drawn, and not a black page
    assert [file.name for file in path.parent.iterdir()] == ["edema.png"]


def test_the_curve_runs_from_never_to_always():
    recall, alarms, precision = plots._curve(np.array([0.1, 0.5, 0.5, 0.9]), np.array([0.0, 1, 0, 1]))
    assert recall.tolist() == [0, 0.5, 1, 1]
    assert alarms.tolist() == [0, 0, 0.5, 1]
    assert precision[1:].tolist() == pytest.approx([1, 2 / 3, 0.5])


def test_overview(tmp_path):
    truth = pd.DataFrame({"edema": [0, 1] * 30, "hernia": [0] * 60, "mass": [1] + [0] * 59}, dtype=float)
    scores = pd.DataFrame(np.random.default_rng(0).random((60, 3)), columns=truth.columns)
    report = evaluate_predictions(scores, truth, range(60), settings=EvaluationSettings(resamples=30))
    path = plots.draw_overview(report, tmp_path / "overview.png", {"edema": "Oedema"})
    again = plots.draw_overview(report, tmp_path / "again.png", {"edema": "Oedema"})
    assert path.read_bytes() == again.read_bytes()
    with Image.open(path) as picture:
        assert picture.width > 1000
