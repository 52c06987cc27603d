"""`hilum evaluate` in both forms: a bundle by study with its zones, and tables in the published CheXpert formats."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.statistics.metrics import sigmoid
from orchestrator.cli.app import main
from orchestrator.cli.evaluation import repeat_options
from orchestrator.evaluation.conformal_coverage import coverage_notes, coverage_table, measure_coverage
from orchestrator.evaluation.evaluate_bundle import EvaluateRequest, evaluate
from orchestrator.evaluation.scoring import EvaluationSettings

FIVE = ["Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"]
FOURTEEN = ["No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"]
FOURTEEN += ["Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"]
FOURTEEN += ["Fracture", "Support Devices"]
STUDIES = 150


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Files as the CheXpert test set's repository has them: a truth and a radiologist with 14 findings by `Study`,
    predictions of five findings, one of them with scores above 1 for two, one by film, and 0/1 decisions.
    """
    root, draws = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    studies = [f"CheXpert-v1.0/test/patient{64741 + number}/study1" for number in range(STUDIES)]
    logit = pd.DataFrame(draws.normal(-1, 1.5, (STUDIES, 14)), columns=FOURTEEN)
    truth = (pd.DataFrame(draws.random(logit.shape), columns=FOURTEEN) < sigmoid(logit)).astype(int)
    flipped = truth.where(draws.random(logit.shape) > 0.1, 1 - truth)
    five = pd.DataFrame(sigmoid(logit[FIVE] + draws.normal(0, 0.5, (STUDIES, 5))), columns=FIVE)
    tables = {"groundtruth": truth, "bc4": flipped, "drnet": five, "drnet_decisions": (five > 0.4).astype(int)}
    tables["desmond"] = five * [0.5, 2.0, 1.0, 1.0, 1.5]
    for name, table in tables.items():
        pd.DataFrame({"Study": studies}).join(pd.DataFrame(table)).to_csv(root / f"{name}.csv", index=False)
    films = [f"{study}/view{view}_frontal.jpg" for study in studies for view in (1, 2)]
    both = pd.DataFrame(np.repeat(five.to_numpy(), 2, axis=0), columns=FIVE)
    pd.DataFrame({"Path": films}).join(both).to_csv(root / "films.csv", index=False)
    return root


@pytest.fixture
def run(published, tmp_path, monkeypatch, capsys):
    """hilum evaluate in the folder of the published files; returns (exit code, standard output, errors)."""
    monkeypatch.chdir(published)

    def call(words: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(["evaluate", *words.replace("OUT", str(tmp_path / "out")).split()])
        except SystemExit as stop:
            code = stop.code or 0
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


def test_several_tables_after_one_option(run, tmp_path):
    code, text, _ = run(
        "--predictions drnet.csv desmond.csv films.csv --truth groundtruth.csv --readers bc4.csv drnet_decisions.csv "
        "--resamples 20 --out OUT"
    )
    assert code == 0
    for name in ("drnet", "desmond", "films", "mean of ranks", "greedy selection", "stacking across findings", "bc4"):
        assert name in text
    assert f"{STUDIES} studies of {STUDIES} patients" in text
    assert "Not a probability, so without Brier score and calibration error: desmond." in text
    assert "left out" not in text
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"comparison.txt", "comparison.json", "figures.csv", "differences.csv", "readers.csv",
                     "overview.png", "roc.png"}  # fmt: skip
    figures = pd.read_csv(tmp_path / "out" / "figures.csv").set_index(["table", "finding"])
    assert figures.loc[("films", "edema"), "auc"] == figures.loc[("drnet", "edema"), "auc"]
    assert np.isnan(figures.loc[("desmond", "cardiomegaly"), "ece"])  # in [0, 1], but of a table of scores
    assert figures.loc[("desmond", "cardiomegaly"), "auc"] == figures.loc[("drnet", "cardiomegaly"), "auc"]


def test_json_is_all_there_is_on_standard_output(run):
    code, text, _ = run(
        "--predictions drnet.csv --truth groundtruth.csv --targets edema,Cardiomegaly --resamples 20 --json"
    )
    assert code == 0
    found = json.loads(text)
    assert set(found["tables"]["drnet"]["findings"]) == {"cardiomegaly", "edema"}
    assert 0.6 < found["means"]["drnet"]["auc"]["value"] < 1


def test_blanks_of_a_truth_are_unknown_unless_told(run, published):
    truth = pd.read_csv(published / "groundtruth.csv").astype({"Edema": float})
    truth.loc[:39, "Edema"] = np.nan
    truth.to_csv(published / "blank.csv", index=False)
    words = "--predictions drnet.csv --truth blank.csv --targets edema --resamples 20 --json"
    unknown, zero = (json.loads(run(words + more)[1]) for more in ("", " --blank-as-zero"))
    assert unknown["tables"]["drnet"]["findings"]["edema"]["rows"] == STUDIES - 40
    assert zero["tables"]["drnet"]["findings"]["edema"]["rows"] == STUDIES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Give a BUNDLE and a DATASET, or --predictions"),
        ("--predictions drnet.csv", "--truth is missing"),
        ("--readers bc4.csv --truth groundtruth.csv", "--predictions is missing"),
        ("somewhere --predictions drnet.csv --truth groundtruth.csv", "BUNDLE: these go with a bundle"),
        ("--predictions drnet.csv --part test --truth groundtruth.csv", "--part: these go with a bundle"),
        ("bundle dataset --id Study", "--id: these go with --predictions"),
        ("bundle dataset --blank-as-zero", "--blank-as-zero: these go with --predictions"),
        ("--predictions none.csv --truth groundtruth.csv", "There is no table 'none.csv'"),
        ("--predictions drnet.csv --truth groundtruth.csv --id Key", "No table has the column 'Key'"),
        ("--predictions drnet.csv --truth groundtruth.csv --operating-point best", "Unknown operating point rule"),
        ("--predictions drnet.csv --truth groundtruth.csv --level image", "so nothing can be judged by image"),
    ],
)
def test_mistakes_are_sentences(run, words, message):
    code, _, errors = run(words)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors


def test_tables_of_one_name_are_told_apart(run, published, tmp_path):
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "drnet.csv").write_bytes((published / "drnet.csv").read_bytes())
    words = f"--predictions drnet.csv {tmp_path}/second/drnet.csv --truth groundtruth.csv --resamples 20 --json"
    assert "second/drnet" in json.loads(run(words)[1])["tables"]


def test_repeated_options():
    names = ("--p", "--r")
    assert repeat_options(["--p", "a", "b", "--t", "c", "d"], names) == ["--p", "a", "--p", "b", "--t", "c", "d"]
    assert repeat_options(["x", "--r=a", "b", "-q", "--p", "c"], names) == ["x", "--r=a", "--r", "b", "-q", "--p", "c"]
    assert repeat_options(["--p", "a", "--", "b"], names) == ["--p", "a", "--", "b"]
    assert repeat_options(["--p", "--t", "c"], names) == ["--p", "--t", "c"]


@given(st.lists(st.sampled_from(["a", "b", "--t", "c"])))
def test_without_such_options_words_stay_as_they_are(words):
    assert repeat_options(words, ("--p",)) == words


def judge(house, tmp_path, **changes):
    request = {"bundle": house / "bundle", "dataset": house / "dataset", "out": tmp_path / "out", "device": "cpu"}
    return evaluate(EvaluateRequest(**(request | {"resamples": 20} | changes)))


def test_a_bundle_by_study_at_a_stored_point(house, tmp_path):
    films = judge(house, tmp_path, targets=("pneumonia",))
    result = judge(house, tmp_path, targets=("pneumonia",), level="study", operating_point="youden")
    assert list(result.report.findings) == ["pneumonia"]
    assert result.report.rows == films.report.rows / 2
    stored = json.loads((house / "bundle" / "bundle.json").read_text())["findings"]["pneumonia"]["operating_points"]
    assert result.report.findings["pneumonia"].threshold == stored["youden"]["threshold"]
    assert any("A row is a study" in note for note in result.notes)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert len(table) == result.report.rows
    assert table["path"].str.fullmatch(r"patient\d+/study1").all()
    with pytest.raises(ValueError, match="stores no such operating point"):
        judge(house, tmp_path, operating_point="f3")
    with pytest.raises(ValueError, match="Unknown level"):
        judge(house, tmp_path, level="film")


def test_the_zones_coverage_is_measured(house, tmp_path):
    result = judge(house, tmp_path)
    frame = pd.read_csv(tmp_path / "out" / "conformal.csv")
    assert frame["finding"].tolist() == list(result.report.findings)
    assert (frame["nominal"] == 0.9).all()
    assert frame["positives_covered"].between(0, 1).all()
    assert [row[0] for row in result.conformal[1]] == frame["finding"].tolist()
    assert any("third answer" in note for note in result.notes)
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["conformal"][0]["nominal"] == 0.9


def test_coverage_by_hand():
    zone = {"coverage": 0.9, "low": 0.3, "high": 0.7, "reason": ""}
    probability = pd.DataFrame({"edema": [0.1, 0.2, 0.5, 0.9, 0.1, 0.5, 0.8, 0.9, 0.5]})
    truth = pd.DataFrame({"edema": [0, 0, 0, 0, 1, 1, 1, 1, np.nan]})
    settings = EvaluationSettings(resamples=50)
    frame = measure_coverage(probability, truth, range(9), {"edema": {"conformal": zone}}, settings)
    row = frame.iloc[0]
    assert (row["positives_covered"], row["negatives_covered"], row["uncertain"]) == (0.75, 0.75, 0.25)
    assert row["positives_covered_low"] < 0.75 < row["positives_covered_high"]
    titles, rows = coverage_table(frame)
    assert len(rows[0]) == len(titles)
    assert measure_coverage(probability, truth, range(9), {"edema": {}}, settings).empty
    assert coverage_notes(pd.DataFrame()) == []
    worse = frame.assign(positives_covered_high=0.8)
    assert "falls short" in coverage_notes(worse)[1]


def test_rows_of_nobody_need_a_word_from_the_user(run, tmp_path):
    rows = pd.DataFrame({"path": [f"/data/patients/{number:02d}/a.png" for number in range(30)]})
    rows.assign(Edema=np.arange(30) / 30).to_csv(tmp_path / "ours.csv", index=False)
    rows.assign(Edema=np.arange(30) % 3 == 0).astype({"Edema": int}).to_csv(tmp_path / "labels.csv", index=False)
    command = f"--predictions {tmp_path}/ours.csv --truth {tmp_path}/labels.csv --resamples 10"
    code, _, errors = run(command)
    assert code == 2
    assert "--each-row-a-patient" in " ".join(errors.split())
    code, shown, _ = run(f"{command} --patient-pattern /(\\d\\d)/")
    assert code == 0
    assert "30 patients in 30 labelled rows, by --patient-pattern." in " ".join(shown.split())
    code, shown, _ = run(f"{command} --each-row-a-patient")
    assert code == 0
    assert "Each of the 30 rows counts as a patient of its own" in " ".join(shown.split())
    code, _, errors = run("bundle data --each-row-a-patient")
    assert code == 2
    assert "go with --predictions" in " ".join(errors.split())
