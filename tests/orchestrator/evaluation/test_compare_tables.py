"""Foreign tables compared: figures as scikit-learn has them, paired differences, blends, readers."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics as reference

from models.statistics.bootstrap import holm
from models.statistics.metrics import sigmoid
from orchestrator.evaluation import compare_tables as comparison
from orchestrator.evaluation import compare_tables_plots, compare_tables_report, table_blends
from orchestrator.evaluation.compare_tables import TablesRequest, compare_tables
from orchestrator.evaluation.scoring import EvaluationSettings

NAMES = ["No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"]
NAMES += ["Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"]
NAMES += ["Fracture", "Support Devices"]
SHORT = ["Edema", "Pneumonia", "Pleural Effusion"]
QUICK = EvaluationSettings(resamples=50)
LEARNED = [table_blends.GREEDY, table_blends.STACKED]


def write_tables(folder, tables: int, studies: int = 120, names=SHORT, seed: int = 0):
    """Truth and noisy tables of the same studies, rows in another order each; every fourth holds logits."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(-1, 1.5, (studies, len(names)))
    truth = (generator.random(logit.shape) < sigmoid(logit)).astype(int)
    ids = [f"CheXpert-v1.0/test/patient{64741 + number}/study1" for number in range(studies)]
    _write(folder / "truth.csv", truth, names, ids)
    for number in range(tables):
        noisy = logit + generator.normal(0, 0.3 + 0.3 * number, logit.shape)
        _write(folder / f"t{number}.csv", noisy if number % 4 == 3 else sigmoid(noisy), names, ids, number)
    return [folder / f"t{number}.csv" for number in range(tables)], truth


def _write(path, values, names, ids, seed: int = 0):
    frame = pd.DataFrame(values, columns=names)
    frame.insert(0, "Study", ids)
    frame.sample(frac=1, random_state=seed).to_csv(path, index=False)


def compare(folder, paths, **changes):
    request = {"predictions": tuple(paths), "truth": folder / "truth.csv", "settings": QUICK}
    return compare_tables(TablesRequest(**(request | changes)))


def test_figures_equal_scikit_learn(tmp_path):
    paths, truth = write_tables(tmp_path, 1)
    found = compare(tmp_path, paths)
    scores = pd.read_csv(paths[0]).sort_values("Study")[SHORT].to_numpy()
    order = np.argsort([f"patient{64741 + number}" for number in range(120)])
    truth, calls = truth[order], scores >= 0.5
    expected = {
        "auc": np.mean([reference.roc_auc_score(truth[:, k], scores[:, k]) for k in range(3)]),
        "average_precision": reference.average_precision_score(truth, scores, average="macro"),
        "f1": reference.f1_score(truth, calls, average="macro"),
        "f2": reference.fbeta_score(truth, calls, beta=2, average="macro"),
        "sensitivity": reference.recall_score(truth, calls, average="macro"),
        "brier": np.mean([reference.brier_score_loss(truth[:, k], scores[:, k]) for k in range(3)]),
    }
    for name, value in expected.items():
        assert found.means["t0"][name].value == pytest.approx(value, abs=1e-9), name
    together = found.multi_label["t0"]
    assert together["subset_accuracy"].value == pytest.approx(reference.accuracy_score(truth, calls), abs=1e-9)
    assert together["hamming_loss"].value == pytest.approx(reference.hamming_loss(truth, calls), abs=1e-9)
    sample_f1 = reference.f1_score(truth, calls, average="samples", zero_division=1.0)
    assert together["sample_f1"].value == pytest.approx(sample_f1, abs=1e-9)
    assert together["sample_f1"].low < together["sample_f1"].value < together["sample_f1"].high


def test_logits_evaluate_with_one_complaint_only(tmp_path):
    paths, _ = write_tables(tmp_path, 4)
    found = compare(tmp_path, [paths[0], paths[3]])
    finding = found.reports["t3"].findings["edema"]
    assert finding.problems == ("not a probability",)
    assert np.isnan(found.means["t3"]["ece"].value)
    assert 0 < finding.figures["sensitivity"].value < 1
    assert [note for note in found.notes if note.startswith("t3")] == [
        "t3: threshold by rule f2, chosen on other patients: all findings."
    ]
    assert "No mean of probabilities: the scores of t3 are none." in found.notes


def test_ranks_do_not_care_about_the_scale(tmp_path):
    paths, _ = write_tables(tmp_path, 1)
    frame = pd.read_csv(paths[0])
    frame[SHORT] = 3 * np.log(frame[SHORT] / (1 - frame[SHORT])) + 7
    frame.to_csv(tmp_path / "scaled.csv", index=False)
    found = compare(tmp_path, [paths[0], tmp_path / "scaled.csv"])
    assert found.means["t0"]["auc"] == found.means["scaled"]["auc"]
    fixed = found.differences[~found.differences["other"].isin(LEARNED)]
    fixed = fixed[~fixed["table"].isin(LEARNED)]
    assert len(fixed) == 3 * 4
    assert (fixed["auc_difference"].abs() < 1e-12).all()
    assert not fixed["differs"].any()
    assert (found.differences["differs"] == (found.differences["p_holm"] < 0.05)).all()
    frame = found.differences
    means = frame["finding"] == "mean"
    for _, pair in frame[~means].groupby(["table", "other"]):
        assert pair["p_holm"].tolist() == holm(pair["p"]).tolist()
    assert found.differences.loc[means, "p_holm"].tolist() == holm(found.differences.loc[means, "p"]).tolist()


def test_differences_are_paired_and_find_the_better_table(tmp_path):
    paths, _ = write_tables(tmp_path, 7)
    found = compare(tmp_path, [paths[0], paths[6]], settings=EvaluationSettings(resamples=1000))
    row = found.differences.query("table == 't0' and other == 't6' and finding == 'mean'").iloc[0]
    assert row["auc_difference"] == pytest.approx(found.means["t0"]["auc"].value - found.means["t6"]["auc"].value)
    assert 0 < row["low"] < row["auc_difference"] < row["high"]
    assert row["differs"]
    few = compare(tmp_path, [paths[0], paths[6]])
    assert any("50 resamples are too few to call any of" in note for note in few.notes)
    assert not any("resamples are too few" in note for note in found.notes)


def test_blend_of_independent_errors_is_better(tmp_path):
    paths, _ = write_tables(tmp_path, 3, studies=400)
    found = compare(tmp_path, paths)
    best_single = max(found.means[f"t{number}"]["auc"].value for number in (1, 2))
    assert found.means["mean of probabilities"]["auc"].value > best_single
    assert found.means["mean of ranks"]["auc"].value > best_single
    assert np.isnan(found.means["mean of ranks"]["brier"].value)  # a rank is no probability


def test_learned_blends_find_the_good_one_and_learn_nothing_from_noise(tmp_path):
    paths, truth = write_tables(tmp_path, 1, studies=300)
    draws, ids = np.random.default_rng(7), pd.read_csv(paths[0])["Study"].tolist()
    for number in range(5):
        _write(tmp_path / f"noise{number}.csv", draws.random(truth.shape), SHORT, ids)
    noise = [tmp_path / f"noise{number}.csv" for number in range(5)]
    found = compare(tmp_path, [*noise, *paths]).means
    good = found["t0"]["auc"].value
    assert found[table_blends.GREEDY]["auc"].value > good - 0.02
    assert found[table_blends.RANKS]["auc"].value < good - 0.1
    nothing = compare(tmp_path, noise).means
    for name in LEARNED:  # judged on the rows it learned from, greedy selection would reach 0.6 here
        assert 0.44 < nothing[name]["auc"].value < 0.56


def test_pictures(tmp_path):
    paths, _ = write_tables(tmp_path, 2)
    truth = pd.read_csv(tmp_path / "truth.csv")
    truth["Edema"] = 0
    truth.to_csv(tmp_path / "truth.csv", index=False)
    found = compare(tmp_path, paths)
    for draw in (compare_tables_plots.draw_comparison, compare_tables_plots.draw_roc_curves):
        with Image.open(draw(found, tmp_path / "picture.png")) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert 0.003 < (pixels < 128).mean() < 0.3


def test_subsets_of_findings_and_targets(tmp_path):
    paths, _ = write_tables(tmp_path, 2)
    pd.read_csv(paths[1]).drop(columns="Edema").rename(columns={"Pleural Effusion": "Effusion"}).to_csv(
        paths[1], index=False
    )
    found = compare(tmp_path, paths)
    assert set(found.reports["t0"].findings) == {"edema", "pneumonia", "pleural_effusion"}
    assert set(found.reports["t1"].findings) == {"pneumonia", "pleural_effusion"}
    assert set(found.reports["mean of ranks"].findings) == {"pneumonia", "pleural_effusion"}
    assert set(compare(tmp_path, paths, targets=("Effusion",)).reports["t0"].findings) == {"pleural_effusion"}
    with pytest.raises(ValueError, match="has fracture"):
        compare(tmp_path, paths, targets=("fracture",))
    with pytest.raises(ValueError, match="Unknown operating point rule"):
        compare(tmp_path, paths, rule="best")


def test_own_calls_are_the_operating_point(tmp_path):
    paths, _ = write_tables(tmp_path, 1)
    frame = pd.read_csv(paths[0])
    frame = frame.rename(columns={"Edema": "edema"})
    frame["edema_positive"] = 1
    frame.to_csv(paths[0], index=False)
    finding = compare(tmp_path, paths).reports["t0"].findings["edema"]
    assert finding.figures["sensitivity"].value == 1
    assert finding.figures["specificity"].value == 0


def test_readers(tmp_path):
    paths, truth = write_tables(tmp_path, 1)
    reader = truth.copy()
    reader[:, 0] = 0  # never sees an oedema
    ids = [f"patient{64741 + number}/study1" for number in range(120)]
    _write(tmp_path / "reader.csv", reader, SHORT, ids)
    points = compare(tmp_path, paths, readers=(tmp_path / "reader.csv",)).readers.set_index("finding")
    assert points.loc["edema", "sensitivity"] == 0
    assert points.loc["edema", "specificity"] == 1
    assert points.loc["pneumonia", "sensitivity"] == 1
    assert 0 < points.loc["pneumonia", "t0 at this specificity"] < 1
    _write(tmp_path / "odd.csv", reader * 0.5, SHORT, ids)
    with pytest.raises(ValueError, match="Reader odd"):
        compare(tmp_path, paths, readers=(tmp_path / "odd.csv",))


def test_height_of_the_curve():
    score, truth = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 0.0, 1.0])
    assert comparison.sensitivity_at(score, truth, 1.0) == 0.5
    assert comparison.sensitivity_at(score, truth, 0.75) == 0.75
    assert comparison.sensitivity_at(score, truth, 0.5) == 1
    assert np.isnan(comparison.sensitivity_at(score, np.zeros(4), 0.5))


def test_outputs(tmp_path):
    paths, _ = write_tables(tmp_path, 2)
    found = compare(tmp_path, paths)
    shown = (
        compare_tables_report.comparison_table,
        compare_tables_report.finding_table,
        compare_tables_report.difference_table,
    )
    for titles, rows in [table(found) for table in shown]:
        assert {len(row) for row in rows} == {len(titles)}
        assert all(isinstance(cell, str) for row in rows for cell in row)
    frame = compare_tables_report.comparison_frame(found)
    assert len(frame) == (2 + 5) * (3 + 1)
    last = frame.query("table == 't1' and finding == 'mean'").iloc[0]
    assert last["f2"] == found.means["t1"]["f2"].value
    assert last["subset_accuracy_low"] == found.multi_label["t1"]["subset_accuracy"].low


def test_a_missing_class_is_no_error(tmp_path):
    paths, _ = write_tables(tmp_path, 2)
    truth = pd.read_csv(tmp_path / "truth.csv")
    truth["Edema"] = 0
    truth["Pneumonia"] = np.nan
    truth.to_csv(tmp_path / "truth.csv", index=False)
    found = compare(tmp_path, paths)
    assert found.reports["t0"].left_out == {"edema": "no positives", "pneumonia": "no known labels"}
    assert found.means["t0"]["auc"].value == found.reports["t0"].findings["pleural_effusion"].figures["auc"].value


@pytest.mark.slow
def test_ten_tables_of_500_studies(tmp_path):
    paths, _ = write_tables(tmp_path, 10, studies=500, names=NAMES)
    found = compare(tmp_path, paths, settings=EvaluationSettings(resamples=1000))
    assert len(found.reports["t0"].findings) == 14
