"""Tables from anywhere: columns by any name, rows by any form of id, nothing dropped in silence."""

import numpy as np
import pandas as pd
import pytest

from orchestrator.evaluation.alignment import align
from orchestrator.inference import prediction_tables
from orchestrator.inference.prediction_tables import Columns, read_table, read_truth

STUDIES = [f"patient{64741 + number}/study1" for number in range(6)]


def write(folder, name: str, columns: dict) -> object:
    path = folder / f"{name}.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_columns_under_any_name(tmp_path):
    path = write(tmp_path, "a", {
        "Sex": ["F"] * 6, "Study": STUDIES, "Effusion": np.arange(6.0), "pleural_thickening": np.zeros(6),
        "EDEMA": np.ones(6), "No Finding": np.zeros(6), "Support Devices": np.zeros(6),
    })  # fmt: skip
    table = read_table(path)
    assert list(table.values) == ["pleural_effusion", "pleural_thickening", "edema", "no_finding", "support_devices"]
    assert table.values["pleural_effusion"].tolist() == [0, 1, 2, 3, 4, 5]
    assert list(table.ignored) == ["Sex"]
    assert table.level == "study"
    assert table.name == "a"


def test_own_predictions_bring_their_calls(tmp_path):
    given = {"path": ["x.png", "y.png"], "edema": [0.2, 0.8], "edema_positive": [0, 1]}
    table = read_table(write(tmp_path, "own", given))
    assert table.calls["edema"].tolist() == [0, 1]
    assert list(table.values) == ["edema"]
    assert table.level == "image"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Edema": [0.1]}, "has no id column. It has: Edema. Name one with --id"),
        ({"Path": ["a"], "Effusion": [1], "Pleural Effusion": [1]}, "both mean pleural_effusion"),
        ({"Path": ["a"], "Edema": ["high"]}, "column 'Edema' holds 'high', which is not a number"),
        ({"Path": ["a"], "Edema": [np.inf]}, "infinite"),
        ({"Path": [None], "Edema": [0.5]}, "1 rows have no Path"),
    ],
)
def test_errors_name_file_column_and_next_step(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path, "bad", columns))


def test_named_columns(tmp_path):
    path = write(tmp_path, "a", {"Path": ["a", "b"], "code": ["x", "y"], "who": ["p", "p"], "Edema": [0, 1]})
    table = read_table(path, Columns(id_name="code", patient_name="who"))
    assert table.ids.tolist() == ["x", "y"]
    assert table.patients.tolist() == ["p", "p"]
    typo = Columns(id_name="key")
    with pytest.raises(ValueError, match="No table has the column 'key' of --id. Found instead: Path"):
        prediction_tables.require_columns([read_table(path, typo)], read_truth(path, typo), typo)
    typo = Columns(patient_name="whom")
    with pytest.raises(ValueError, match="no column 'whom'"):
        prediction_tables.require_columns([], read_truth(path, typo), typo)
    with pytest.raises(FileNotFoundError, match="no table"):
        read_table(tmp_path / "none.csv")


def test_truth_is_one_zero_or_unknown(tmp_path):
    truth = read_truth(write(tmp_path, "t", {"Study": STUDIES[:5], "Edema": [1, 0, -1, None, -2]}))
    assert truth.values["edema"].tolist() == pytest.approx([1, 0, np.nan, np.nan, np.nan], nan_ok=True)
    blank = read_truth(tmp_path / "t.csv", blank_as_zero=True)
    assert blank.values["edema"].tolist() == pytest.approx([1, 0, np.nan, 0, np.nan], nan_ok=True)
    with pytest.raises(ValueError, match="'edema' holds 0.4. A truth is 1, 0, -1, -2 or blank"):
        read_truth(write(tmp_path, "soft", {"Study": STUDIES[:1], "Edema": [0.4]}))


def test_rows_meet_whatever_prefix_order_and_level(tmp_path):
    films = [f"CheXpert-v1.0/test/{study}/view{view}_frontal.jpg" for study in STUDIES[:4] for view in (1, 2)]
    by_film = write(tmp_path, "films", {"Path": films, "Edema": [0.2, 0.5, 0.5, 0.5, 0.9, 0.9, 0.1, 0.1]})
    by_study = write(tmp_path, "studies", {"Study": [f"valid/{one}/" for one in STUDIES[::-1]], "Edema": range(6)})
    truth = write(tmp_path, "truth", {"Study": STUDIES, "Edema": [0, 1, 0, 1, 0, 1]})
    aligned = align([read_table(by_film), read_table(by_study)], read_truth(truth), [])
    assert aligned.level == "study"
    assert aligned.truth.index.tolist() == STUDIES[:4]
    assert aligned.scores["films"]["edema"].tolist() == pytest.approx([1 / 3, 0.5, 0.9, 0.1])
    assert aligned.scores["studies"]["edema"].tolist() == [5, 4, 3, 2]
    assert aligned.truth["edema"].tolist() == [0, 1, 0, 1]
    assert aligned.patients.tolist() == [study.split("/")[0] for study in STUDIES[:4]]
    assert "truth: 2 of 6 rows are not in every table and are left out." in aligned.notes


def test_file_names_meet_and_nih_patients_are_known(tmp_path):
    names = ["00000001_000.png", "00000001_001.png", "00000002_000.png"]
    table = read_table(write(tmp_path, "a", {"path": [f"/data/{one}" for one in names], "Edema": [0.1, 0.2, 0.3]}))
    truth = read_truth(write(tmp_path, "t", {"Image Index": names, "Edema": [0, 0, 1]}))
    aligned = align([table], truth, [])
    assert aligned.level == "image"
    assert aligned.patients.tolist() == ["00000001", "00000001", "00000002"]
    assert aligned.scores["a"]["edema"].tolist() == [0.1, 0.2, 0.3]
    by_patient = align([table], truth, [], "patient")
    assert by_patient.truth.index.tolist() == ["00000001", "00000002"]
    assert by_patient.patients.tolist() == ["00000001", "00000002"]


def test_unnamed_patients_are_said(tmp_path):
    table = read_table(write(tmp_path, "a", {"id": ["x", "y"], "Edema": [0.1, 0.2]}))
    path = write(tmp_path, "t", {"id": ["x", "y"], "Edema": [0, 1]})
    for level in (None, "patient"):
        with pytest.raises(ValueError, match="Nothing says whose the 2 rows of the truth are.*--each-row-a-patient"):
            align([table], read_truth(path), [], level)
    each = align([table], read_truth(path, Columns(each_row_a_patient=True)), [])
    assert each.notes == ("Each of the 2 rows counts as a patient of its own, as --each-row-a-patient says.",)
    assert each.patients.tolist() == ["x", "y"]
    named = read_truth(write(tmp_path, "n", {"id": ["x", "y"], "Edema": [0, 1], "patient_id": ["p", "p"]}))
    aligned = align([table], named, [], "patient")
    assert aligned.truth["edema"].to_dict() == {"p": 1}
    assert aligned.scores["a"]["edema"].tolist() == pytest.approx([1 / 7])  # odds of 1/9 and 1/4: their mean is 1/6
    assert aligned.notes[0].startswith("1 patient in 2 labelled rows, by the column 'patient_id'. All rows are of one")
    with pytest.raises(ValueError, match="leave --each-row-a-patient out"):
        read_truth(tmp_path / "n.csv", Columns(each_row_a_patient=True))
    with pytest.raises(ValueError, match="1 of 2 rows have no patient_id, the first 'y'"):
        read_truth(write(tmp_path, "h", {"id": ["x", "y"], "Edema": [0, 1], "patient_id": ["p", None]}))


FOLDERS = [f"/data/patients/{number:04d}/a.png" for number in range(6)]


def test_a_folder_of_patients_is_not_one_patient(tmp_path):
    table = read_table(write(tmp_path, "a", {"path": FOLDERS, "Edema": np.arange(6) / 10}))
    path = write(tmp_path, "t", {"path": FOLDERS, "Edema": [0, 1] * 3})
    assert table.level == "image"
    with pytest.raises(ValueError, match="Nothing says whose the 6 rows"):
        align([table], read_truth(path), [])
    truth = read_truth(path, Columns(patient_pattern=r"/(\d{4})/"))
    aligned = align([table], truth, [], "patient")
    assert aligned.truth.index.tolist() == [f"{number:04d}" for number in range(6)]
    assert aligned.notes == ("6 patients in 6 labelled rows, by --patient-pattern.",)
    with pytest.raises(ValueError, match="finds no patient in 5 of 6 ids, the first '/data/patients/0001/a.png'"):
        read_truth(path, Columns(patient_pattern="/(0000)/"))
    with pytest.raises(ValueError, match="6 of 6 ids name no study"):
        align([table], truth, [], "study")


def test_an_id_that_patients_share_is_refused(tmp_path):
    columns = {"Study": ["study1"] * 4, "Edema": [0, 1, 0, 1], "patient": list("abcd")}
    table, truth = read_table(write(tmp_path, "a", columns)), read_truth(write(tmp_path, "t", columns))
    with pytest.raises(ValueError, match="1 ids that rows of several patients share, the first 'study1'"):
        align([table], truth, [])


def test_tables_that_do_not_meet(tmp_path):
    table = read_table(write(tmp_path, "a", {"id": ["x"], "Edema": [0.1]}))
    truth = read_truth(write(tmp_path, "t", {"id": ["y"], "Edema": [1]}))
    with pytest.raises(ValueError, match="a and the truth share no row: 'x' against 'y'"):
        align([table], truth, [])
    with pytest.raises(ValueError, match="Unknown level 'film'"):
        align([table], truth, [], "film")
    with pytest.raises(ValueError, match="Two tables are called 'a'"):
        align([table, table], truth, [])
    assert set(prediction_tables.ID_NAMES).isdisjoint(prediction_tables.PATIENT_NAMES)


@pytest.mark.parametrize(
    ("theirs", "level"),
    [
        ("CheXpert-v1.0-small/valid/{}/view1_frontal.jpg", "study"),
        ("{}", "study"),
        ("/data/{}/", "study"),
        ("C:\\films\\{}\\view1_frontal.png", "study"),
        ("flat_{}_view1_frontal.jpg", "study"),
        ("{}.dcm", "study"),
    ],
)
def test_ids_of_the_same_study_meet(tmp_path, theirs, level):
    ids = [theirs.format(study.replace("/", "_") if "flat" in theirs else study) for study in STUDIES]
    table = read_table(write(tmp_path, "a", {"Path": ids, "Edema": np.arange(6) / 10}))
    truth = read_truth(write(tmp_path, "truth", {"Study": [f"CheXpert-v1.0/test/{one}" for one in STUDIES[::-1]],
                                                "Edema": [0, 1] * 3}))  # fmt: skip
    aligned = align([table], truth, [])
    assert aligned.level == level
    assert aligned.truth.index.tolist() == STUDIES
    assert aligned.scores["a"]["edema"].tolist() == pytest.approx(np.arange(6) / 10)
    assert aligned.truth["edema"].tolist() == [1, 0] * 3


def test_views_of_the_same_name_are_not_mixed_up(tmp_path):
    films = [f"{study}/view1_frontal" for study in STUDIES]
    table = read_table(write(tmp_path, "a", {"Path": [f"{one}.png" for one in films], "Edema": np.arange(6) / 10}))
    truth = read_truth(write(tmp_path, "t", {"Path": [f"x/{one}.jpg" for one in films], "Edema": [0, 1] * 3}))
    aligned = align([table], truth, [])
    assert len(aligned.truth) == 6
    assert aligned.patients.nunique() == 6
    other = [one.replace("patient", "person") for one in films]  # only the views' names are the same: no match
    with pytest.raises(ValueError, match="share no row"):
        align([read_table(write(tmp_path, "b", {"Path": other, "Edema": np.arange(6) / 10}))], truth, [])


def test_levels_follow_the_coarsest_table(tmp_path):
    patients = [study.split("/")[0] for study in STUDIES]
    table = read_table(write(tmp_path, "a", {"Patient": patients, "Edema": np.arange(6) / 10}))
    truth = read_truth(write(tmp_path, "t", {"Study": STUDIES, "Edema": [0, 1] * 3}))
    assert align([table], truth, []).level == "patient"
    assert align([table], truth, []).truth["edema"].tolist() == [0, 1] * 3
    with pytest.raises(ValueError, match="a has a row per patient, so nothing can be judged by study"):
        align([table], truth, [], "study")


def test_ids_keep_their_zeros_and_semicolons_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\ufeffid;Edema\n007;0.5\n07;0.25\n", encoding="utf-8")
    table = read_table(path)
    assert table.ids.tolist() == ["007", "07"]
    assert table.values["edema"].tolist() == [0.5, 0.25]
