"""`hilum predict`: operating points by name, thresholds by hand, studies instead of films, the third answer."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from models.metrics import sigmoid
from models.reliability import log_odds
from orchestrator.answers import group_of_paths, parse_assignments, thresholds_of
from orchestrator.predict import PredictRequest, predict
from tests.small_data import disc_films
from tests.small_run import FINDINGS, write_films

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
    table = ask(house, films, tmp_path, operating_point="Sensitivity >= 0.9", thresholds=("Edema=0.3",)).predictions
    stored = json.loads((house / "bundle" / "bundle.json").read_text())["findings"]["pneumonia"]["operating_points"]
    assert (table["edema_positive"] == (table["edema"] >= 0.3)).all()
    assert (table["pneumonia_positive"] == (table["pneumonia"] >= stored["sensitivity>=0.9"]["threshold"])).all()
    assert set(table["pneumonia_positive"]) == {0, 1}


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


def test_paths_without_a_study_stand_alone(tmp_path):
    groups, alone = group_of_paths(["/a/patient1/study2/view1.png", "/b/film.png"], "study")
    assert groups == ["/a/patient1/study2", "/b/film.png"]
    assert alone == 1


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
    (tmp_path / "old" / "bundle.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="no conformal zone for edema"):
        ask(house, films, tmp_path, bundle=tmp_path / "old", conformal=True)


def test_thresholds_of_a_useless_point_are_none():
    point = {"threshold": 0.4, "useful": False}
    entry = {"operating_point": "f2", "operating_points": {"f2": point, "youden": point | {"useful": True}}}
    assert thresholds_of({"edema": entry}) == {"edema": None}
    assert thresholds_of({"edema": entry}, "youden") == {"edema": 0.4}
    assert thresholds_of({"edema": entry}, None, {"edema": 0.1}) == {"edema": 0.1}
    assert parse_assignments(["Pleural Effusion=0.5"], ["pleural_effusion"], "--x") == {"pleural_effusion": 0.5}
