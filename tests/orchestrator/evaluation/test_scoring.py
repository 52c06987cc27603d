"""The evaluation: figures with counts, intervals, reasons and the simplest answers; films brought to studies."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from models.statistics import metrics, reliability
from models.statistics.metrics import sigmoid
from orchestrator.evaluation import scoring
from orchestrator.evaluation.scoring import EvaluationSettings, evaluate_predictions
from orchestrator.inference import aggregation as levels

QUICK = EvaluationSettings(resamples=60)
SLUGS = ("edema", "fracture", "pneumonia", "hernia")


def tables(rows: int = 300, seed: int = 0):
    generator = np.random.default_rng(seed)
    logit = generator.normal(-1, 1.5, (rows, len(SLUGS)))
    truth = pd.DataFrame((generator.random(logit.shape) < sigmoid(logit)).astype(float), columns=SLUGS)
    truth["hernia"] = 0.0
    truth.loc[10:, "pneumonia"] = np.nan
    return pd.DataFrame(sigmoid(logit), columns=SLUGS), truth, generator.integers(0, 100, rows).astype(str)


def test_figures_counts_and_reasons():
    scores, truth, patients = tables()
    report = evaluate_predictions(scores, truth, patients, dict.fromkeys(SLUGS, 0.3), QUICK)
    edema, pneumonia, hernia = (report.findings[slug] for slug in ("edema", "pneumonia", "hernia"))
    counts = metrics.confusion(scores["edema"] >= 0.3, truth["edema"])
    assert edema.figures["auc"].value == pytest.approx(metrics.auc(scores["edema"], truth["edema"]))
    assert edema.figures["f2"].value == pytest.approx(metrics.f_beta(counts, 2))
    assert edema.figures["ece"].value == pytest.approx(reliability.ece(scores["edema"], truth["edema"]))
    assert edema.figures["auc"].low < edema.figures["auc"].value < edema.figures["auc"].high
    assert edema.positives + edema.negatives + edema.unknown == 300
    assert edema.problems == ()
    assert 0.7 < edema.slope < 1.4
    assert (pneumonia.rows, pneumonia.unknown, pneumonia.underpowered) == (10, 290, True)
    assert math.isnan(hernia.figures["auc"].value)
    assert hernia.problems == ("no positives",)
    assert report.left_out == {"hernia": "no positives"}
    areas = [report.findings[slug].figures["auc"].value for slug in SLUGS[:3]]
    assert report.mean_auc.value == pytest.approx(np.mean(areas))
    assert (report.rows, report.patients) == (300, len(set(patients)))


def test_never_yes_is_shown_for_what_it_is():
    truth = pd.DataFrame({"edema": [0.0] * 84 + [1.0] * 16})
    scores = pd.DataFrame({"edema": np.full(100, 0.16)})
    finding = evaluate_predictions(scores, truth, range(100), {"edema": 0.5}, QUICK).findings["edema"]
    assert finding.figures["accuracy"].value == 0.84
    assert finding.figures["sensitivity"].value == 0
    assert math.isnan(finding.figures["precision"].value)
    assert finding.figures["auc"].value == 0.5
    assert finding.figures["brier"].value == pytest.approx(finding.simple["prevalence"]["brier"])


def test_no_threshold_no_calls_and_no_probability_no_brier():
    scores, truth, patients = tables()
    report = evaluate_predictions(5 * scores[["edema"]] - 2, truth, patients, {"edema": None}, QUICK)
    finding = report.findings["edema"]
    assert all(math.isnan(finding.figures[name].value) for name in ("sensitivity", "f2", "brier", "ece"))
    assert finding.problems == ("no useful threshold", "not a probability")
    notes = " ".join(scoring.report_notes(report))
    assert "No useful threshold" in notes
    assert "Not a probability" in notes


def test_films_without_a_score_are_left_out():
    scores, truth, patients = tables()
    scores.loc[:4, "edema"] = np.nan
    finding = evaluate_predictions(scores[["edema"]], truth, patients, {"edema": 0.3}, QUICK).findings["edema"]
    assert finding.rows == 295


def test_outputs_are_complete_and_plain():
    scores, truth, patients = tables()
    report = evaluate_predictions(scores, truth, patients, dict.fromkeys(SLUGS, 0.3), QUICK)
    titles, rows = scoring.report_table(report)
    assert {len(row) for row in rows} == {len(titles)}
    assert rows[-1][0] == "mean of 3"
    assert all(isinstance(cell, str) for row in rows for cell in row)
    frame = scoring.report_frame(report).set_index("finding")
    assert list(frame.index) == [*SLUGS, "mean"]
    assert frame.loc["edema", "never_recall"] == 0
    assert frame.loc["edema", "auc_low"] == report.findings["edema"].figures["auc"].low
    assert frame.loc["hernia", "notes"] == "no positives"
    assert frame.loc["mean", "notes"] == "over 3 of 4 findings"
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["findings"]["hernia"]["figures"]["auc"]["value"] is None
    assert any("Left out of the mean: hernia (no positives)" in note for note in scoring.report_notes(report))


def test_no_rows_and_no_defined_finding():
    empty = pd.DataFrame({"edema": []}, dtype=float)
    report = evaluate_predictions(empty, empty, [], {"edema": 0.5}, QUICK)
    assert math.isnan(report.mean_auc.value)
    assert report.left_out == {"edema": "no known labels"}
    scoring.report_table(report)


def test_tables_that_do_not_fit():
    scores, truth, patients = tables()
    with pytest.raises(ValueError, match="299 of truth"):
        evaluate_predictions(scores, truth[1:], patients)
    with pytest.raises(ValueError, match="No truth for fracture"):
        evaluate_predictions(scores, truth.drop(columns="fracture"), patients)
    with pytest.raises(ValueError, match="no patient id"):
        evaluate_predictions(scores, truth, [None, *patients[1:]])


def test_films_to_studies():
    groups = ["b", "a", "a", "b"]
    scores = pd.DataFrame({"edema": [0.9, 0.2, 0.5, np.nan], "mass": [3.0, -1.0, 2.0, 5.0]})
    mean, highest = levels.aggregate_scores(scores, groups), levels.aggregate_scores(scores, groups, "max")
    assert mean.index.tolist() == ["a", "b"]
    assert mean["edema"].tolist() == pytest.approx([1 / 3, 0.9])  # log odds of 0.2 are -ln 4, half of that is -ln 2
    assert mean["mass"].tolist() == [0.5, 4.0]
    assert highest["mass"].tolist() == [2.0, 5.0]
    truth = pd.DataFrame({"edema": [0, 1, np.nan, 0], "mass": [np.nan, 0, 0, 0]}, dtype=float)
    assert levels.aggregate_truth(truth, groups)["edema"].tolist() == [1, 0]
    assert levels.aggregate_truth(truth, groups)["mass"].tolist() == pytest.approx([0, np.nan], nan_ok=True)
    assert levels.aggregate_ids(["p", "q", "q", "p"], groups).tolist() == ["q", "p"]
    with pytest.raises(ValueError, match="Unknown aggregation"):
        levels.aggregate_scores(scores, groups, "median")


def test_intervals_of_one_patient_are_said_to_mean_nothing():
    scores, truth, patients = tables()
    assert scoring.ONE_PATIENT in scoring.report_notes(evaluate_predictions(scores, truth, ["p"] * len(patients)))
    assert scoring.ONE_PATIENT not in scoring.report_notes(evaluate_predictions(scores, truth, patients))
