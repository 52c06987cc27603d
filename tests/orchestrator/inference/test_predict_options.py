"""`hilum predict`: operating points by name, thresholds by hand, studies instead of films, the third answer."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from models.statistics.metrics import sigmoid
from models.statistics.reliability import log_odds
from models.statistics.thresholds import PROMISE
from orchestrator.cli.app import main
from orchestrator.inference.decisions import parse_assignments, threshold_notes, thresholds_of
from orchestrator.inference.identity import Asked
from orchestrator.inference.predict import PredictRequest, predict
from tests.models.data.test_dicom import make
from tests.small_data import disc_films
from tests.small_run import FINDINGS, rewrite_bundle, write_films

FILMS = disc_films(np.array([0, 1] * 4))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two patients; the first has a study of two films, then one of one film; the second a study of five."""
    root = tmp_path_factory.mktemp("films")
    names = ["patient1/study1/view1", "patient1/study1/view2", "patient1/study2/view1"]
    names += [f"patient2/study1/view{number}" for number in range(1, 6)]
    for path, name in zip(write_films(root / "flat", FILMS), names, strict=True):
        goal = root / "films" / f"{name}.png"
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, goal)
    return root / "films"


def ask(house, films, tmp_path, **changes):
    request = {"bundle": house / "bundle", "inputs": (str(films),), "out": tmp_path / "p.csv", "device": "cpu"}
    return predict(PredictRequest(**(request | changes)))


def test_a_stored_rule_and_a_threshold_by_hand(house, films, tmp_path):
    table = ask(house, films, tmp_path, operating_point="Youden", thresholds=("Edema=0.3",)).predictions
    stored = json.loads((house / "bundle" / "bundle.json").read_text())["findings"]["pneumonia"]["operating_points"]
    assert (table["edema_positive"] == (table["edema"] >= 0.3)).all()
    assert (table["pneumonia_positive"] == (table["pneumonia"] >= stored["youden"]["threshold"])).all()
    assert set(table["pneumonia_positive"]) == {0, 1}


def test_too_few_positives_to_promise_a_sensitivity_leave_the_answer_empty_and_say_so(house, films, tmp_path):
    found = ask(house, films, tmp_path, operating_point="Sensitivity >= 0.9", thresholds=("Edema=0.3",))
    assert found.predictions["pneumonia_positive"].isna().all()
    assert found.notes[0] == f"sensitivity>=0.9: {PROMISE} (pneumonia)."
    assert found.notes[1].startswith("pneumonia: no useful threshold: no threshold can promise a sensitivity of 0.9: ")
    assert "at least 29 are needed." in found.notes[1]
    assert not any("edema" in note for note in found.notes)  # whose threshold was given by hand


def test_a_bundle_of_before_says_that_its_rule_is_an_estimate():
    point = {"rule": "sensitivity>=0.9", "threshold": 0.2, "useful": True, "reason": ""}
    entry = {"operating_point": "sensitivity>=0.9", "operating_points": {"sensitivity>=0.9": point}}
    newer = {**entry, "operating_points": {"sensitivity>=0.9": point | {"promise": PROMISE, "lower_bound": 0.91}}}
    assert threshold_notes({"edema": entry, "mass": newer}, ["edema", "mass"]) == [
        "sensitivity>=0.9: estimate on the films it was chosen on, as in bundles made before the rule meant a bound "
        "(edema).",
        f"sensitivity>=0.9: {PROMISE} (mass).",
    ]
    assert thresholds_of({"edema": entry})["edema"] == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operating_point": "best"}, "stores no such operating point. It has: .*youden"),
        ({"thresholds": ("edem=0.3",)}, "no finding 'edem'. Did you mean 'edema'"),
        ({"thresholds": ("edema",)}, "give finding=value, for example"),
        ({"thresholds": ("edema=30",)}, "'30' is not a number between 0 and 1"),
        ({"thresholds": ("edema=0.1", "Edema=0.2")}, "edema is given twice"),
        ({"level": "film"}, "Unknown level 'film'. Known: image, study, patient"),
    ],
)
def test_mistakes_are_sentences(house, films, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        ask(house, films, tmp_path, **changes)
    assert not (tmp_path / "p.csv").exists()


def test_studies(house, films, tmp_path):
    by_film = ask(house, films, tmp_path).predictions
    result = ask(house, films, tmp_path, level="study")
    table = result.predictions
    assert list(table.columns) == [
        "path",
        *FINDINGS_IN_ORDER,
        *[f"{one}_positive" for one in FINDINGS_IN_ORDER],
        "films",
    ]
    assert table["path"].str.endswith(("patient1/study1", "patient1/study2", "patient2/study1")).all()
    assert table["path"].str.startswith(str(films)).all()  # two sets of films with the same patients stay apart
    assert table["films"].tolist() == [2, 1, 5]
    expected = sigmoid(log_odds(by_film["pneumonia"][:2]).mean())
    assert table["pneumonia"][0] == pytest.approx(expected)
    assert table["pneumonia"][1] == by_film["pneumonia"][2]  # a film alone keeps its answer to the last bit
    assert "mean of its films' log odds" in result.notes[0]
    assert ask(house, films, tmp_path, level="patient").predictions["films"].tolist() == [3, 5]


FINDINGS_IN_ORDER = sorted(FINDINGS)  # edema stands before pneumonia in CheXpert's order too


def test_studies_by_the_column_of_a_csv(house, films, tmp_path):
    paths = sorted(films.rglob("*.png"))
    listed = pd.DataFrame({"path": [str(path) for path in paths], "study_id": list("aabbbbbb")})
    listed.to_csv(tmp_path / "list.csv", index=False)
    table = ask(house, films, tmp_path, inputs=(str(tmp_path / "list.csv"),), level="study").predictions
    assert table["path"].tolist() == ["a", "b"]
    assert table["films"].tolist() == [2, 6]


@pytest.fixture(scope="module")
def hospital(films, tmp_path_factory):
    """The same eight films below patients/, two to a folder, and one file that is no film."""
    root = tmp_path_factory.mktemp("hospital") / "patients"
    for number, path in enumerate(sorted(films.rglob("*.png"))):
        goal = root / f"{number // 2:04d}" / f"{number}.png"
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, goal)
    (root / "broken.png").write_bytes(b"no film")
    return root


@pytest.mark.parametrize("level", ["study", "patient"])
def test_a_folder_of_patients_is_nobody(house, hospital, tmp_path, level):
    with pytest.raises(ValueError, match=f"nothing says so of 9 of 9 films.*--{level}-pattern REGEX.*DICOM tag"):
        ask(house, hospital, tmp_path, level=level)
    assert not (tmp_path / "p.csv").exists()


def test_patients_by_a_pattern(house, hospital, tmp_path):
    result = ask(house, hospital, tmp_path, level="patient", asked=Asked(patient_pattern=r"/(\d{4})/"))
    assert result.predictions["path"].tolist() == ["0000", "0001", "0002", "0003"]
    assert result.predictions["films"].tolist() == [2] * 4
    assert result.notes[1] == "4 patients found in 8 films, by --patient-pattern (8)."
    assert len(result.rejected) == 1  # what is no film needs no patient
    both = Asked(patient_pattern=r"/(\d{4})/", study_pattern=r"patients/.*(0)")
    assert ask(house, hospital, tmp_path, level="study", asked=both).predictions["path"][1] == "0001/0"
    messages = {r"/\d{4}/": "has no group", "(": "no regular expression", r"/(000[01])/": "of 5 of 9 films"}
    for pattern, message in messages.items():
        with pytest.raises(ValueError, match=message):
            ask(house, hospital, tmp_path, level="patient", asked=Asked(patient_pattern=pattern))


def test_the_patterns_are_options_of_the_command(house, hospital, tmp_path, capsys):
    words = ["predict", str(house / "bundle"), str(hospital), "--out", str(tmp_path / "p.csv"), "--level", "study"]
    patterns = ["--patient-pattern", r"/(\d{4})/", "--study-pattern", r"(\d)\.png"]
    for more, expected in (([], 2), (patterns, 0)):
        with pytest.raises(SystemExit) as stopped:
            main([*words, *more])
        assert stopped.value.code == expected
    assert pd.read_csv(tmp_path / "p.csv", dtype="str")["path"].tolist()[:2] == ["0000/0", "0000/1"]
    assert "8 studies found in 8 films, by --study-pattern (8)." in " ".join("".join(capsys.readouterr()).split())


def test_one_patient_for_all_films_is_said(house, hospital, tmp_path):
    result = ask(house, hospital, tmp_path, level="patient", asked=Asked(patient_pattern=r"/(patients)/"))
    assert result.notes[1].startswith("1 patient found in 8 films, by --patient-pattern (8). All films are of one")


def test_patients_by_dicom_tags(house, hospital, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        film = make(FILMS[number], bits=8, PatientID=f"p{number // 2}", StudyInstanceUID="1.2")
        (tmp_path / "in" / f"{number}.dcm").write_bytes(film)
    result = ask(house, tmp_path / "in", tmp_path, level="patient")
    assert result.predictions[["path", "films"]].to_numpy().tolist() == [["p0", 2], ["p1", 1]]
    assert result.notes[1] == "2 patients found in 3 films, by the DICOM tag PatientID (3)."
    assert ask(house, tmp_path / "in", tmp_path, level="study").predictions["path"].tolist() == ["1.2"]
    (tmp_path / "in" / "3.dcm").write_bytes(make(FILMS[3], bits=8, PatientID="", StudyInstanceUID="1.2"))
    with pytest.raises(ValueError, match="nothing says so of 1 of 4 films, the first .*3.dcm"):
        ask(house, tmp_path / "in", tmp_path, level="patient")


def test_a_study_number_that_patients_share_is_no_study(house, hospital, tmp_path):
    paths = sorted(hospital.rglob("[0-9].png"))
    listed = pd.DataFrame({"path": [str(path) for path in paths], "study": "study1", "patient": list("aabbccdd")})
    listed.to_csv(tmp_path / "list.csv", index=False)
    result = ask(house, hospital, tmp_path, inputs=(str(tmp_path / "list.csv"),), level="study")
    assert result.predictions["path"].tolist() == ["a/study1", "b/study1", "c/study1", "d/study1"]
    assert result.notes[1] == "4 studies found in 8 films, by the column 'study' (8)."


def test_the_third_answer(house, films, tmp_path):
    table = ask(house, films, tmp_path, conformal=True).predictions
    assert list(table.columns)[-2:] == ["edema_answer", "pneumonia_answer"]
    zones = json.loads((house / "bundle" / "bundle.json").read_text())["findings"]
    for slug in FINDINGS:
        zone, answer = zones[slug]["conformal"], table[f"{slug}_answer"]
        assert ((answer == 1) == (table[slug] > zone["high"])).all()
        assert ((answer == 0) == (table[slug] < zone["low"])).all()
        assert set(answer) <= {-1, 0, 1}
    written = pd.read_csv(tmp_path / "p.csv")
    assert written["edema_answer"].tolist() == table["edema_answer"].tolist()


def test_a_bundle_without_zones_says_so(house, films, tmp_path):
    shutil.copytree(house / "bundle", tmp_path / "old")
    description = json.loads((tmp_path / "old" / "bundle.json").read_text())
    del description["findings"]["edema"]["conformal"]
    rewrite_bundle(tmp_path / "old", description)
    with pytest.raises(ValueError, match="no conformal zone for edema"):
        ask(house, films, tmp_path, bundle=tmp_path / "old", conformal=True)


def test_thresholds_of_a_useless_point_are_none():
    point = {"threshold": 0.4, "useful": False}
    entry = {"operating_point": "f2", "operating_points": {"f2": point, "youden": point | {"useful": True}}}
    assert thresholds_of({"edema": entry}) == {"edema": None}
    assert thresholds_of({"edema": entry}, "youden") == {"edema": 0.4}
    assert thresholds_of({"edema": entry}, None, {"edema": 0.1}) == {"edema": 0.1}
    assert parse_assignments(["Pleural Effusion=0.5"], ["pleural_effusion"], "--x") == {"pleural_effusion": 0.5}
