"""orchestrator/evaluation/uncertain_labels.py: what films with a hedging report could change, beside the
figures without them.
"""

import numpy as np
import pandas as pd
import pytest

from models.statistics import metrics, reliability
from models.statistics.metrics import sigmoid
from orchestrator.evaluation.uncertain_labels import measure_uncertain, uncertain_notes, uncertain_table


def films():
    """1,000 calibrated films; the report of 300, most of them doubtful ones, hedges."""
    draws = np.random.default_rng(0)
    logit = draws.normal(-1, 2, 1000)
    truth = (draws.random(1000) < sigmoid(logit)).astype(float)
    hedged = np.zeros(1000, dtype=bool)
    hedged[np.argsort(np.abs(logit) + draws.normal(0, 0.5, 1000))[:300]] = True
    return sigmoid(logit), truth, hedged


def measured():
    probability, truth, hedged = films()
    frames = [pd.DataFrame({"edema": np.where(hedged, value, truth), "mass": truth}) for value in (np.nan, 0.0, 1.0)]
    scores = pd.DataFrame({"edema": probability, "mass": probability})
    return measure_uncertain(scores, frames[0], {"absent": frames[1], "present": frames[2]})


def test_each_reading_has_the_figures_of_its_own_labels():
    probability, truth, hedged = films()
    found = measured()
    assert found["finding"].tolist() == ["edema"]  # mass has no uncertain film, so nothing is said of it
    row = found.iloc[0]
    assert (row["uncertain"], row["positives"]) == (300, truth[~hedged].sum())
    assert row["per_positive"] == pytest.approx(300 / truth[~hedged].sum())
    assert row["uncertain_mean_probability"] == pytest.approx(probability[hedged].mean())
    for name, answer in (("absent", np.where(hedged, 0, truth)), ("present", np.where(hedged, 1, truth))):
        assert row[f"auc_{name}"] == metrics.auc(probability, answer)
        assert row[f"ece_{name}"] == reliability.ece(probability, answer)
        assert row[f"rate_{name}"] == pytest.approx(answer.mean())
        assert row[f"mean_probability_{name}"] == pytest.approx(probability.mean())
    assert row["auc_left_out"] == metrics.auc(probability[~hedged], truth[~hedged])
    assert row["mean_probability_left_out"] == pytest.approx(probability[~hedged].mean())
    assert row["auc_left_out"] > metrics.auc(probability, truth) + 0.02  # without the doubtful films it flatters
    assert row["rate_absent"] < truth.mean() < row["rate_present"]


def test_the_table_and_the_sentence():
    titles, rows = uncertain_table(measured())
    assert {len(row) for row in rows} == {len(titles)}
    row = measured().iloc[0]
    assert rows[0][3] == f"{row['auc_left_out']:.3f} ({row['auc_absent']:.3f}, {row['auc_present']:.3f})"
    assert "For edema the table also has" in uncertain_notes(measured())[0]
    assert uncertain_notes(pd.DataFrame()) == []
