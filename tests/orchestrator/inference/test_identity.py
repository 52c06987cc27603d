"""Whose film it is: layouts that are recognised exactly, and everything that only looks like one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orchestrator.inference import identity
from orchestrator.inference.identity import Asked, identify
from tests.models.data.test_dicom import make

PIXELS = np.array([[0, 100], [200, 255]], np.uint8)


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0/test/", "CheXpert-v1.0-small/valid/", "", "D:\\data\\test\\"])
def test_ids_from_paths(prefix):
    path = pd.Series([f"{prefix}patient64741/study1/view1_frontal.jpg", f"{prefix}patient64741/study1"])
    path = path.str.replace("/", "\\") if "\\" in prefix else path
    assert identity.ids_at(path, "patient").tolist() == ["patient64741"] * 2
    assert identity.ids_at(path, "study").tolist() == ["patient64741/study1"] * 2
    assert identity.ids_at(path, "image")[0] == "patient64741/study1/view1_frontal.jpg"
    assert identity.ids_at(pd.Series([7, 8]), "patient").tolist() == ["7", "8"]
    with pytest.raises(ValueError, match="Unknown level 'film'"):
        identity.ids_at(path, "film")


@pytest.mark.parametrize(
    ("path", "patient", "study"),
    [
        ("/x/CheXpert-v1.0/train/patient00001/study2/view1_frontal.jpg", "patient00001", "patient00001/study2"),
        ("patient00001/study2/view12_lateral.dcm", "patient00001", "patient00001/study2"),
        ("flat_patient64741/study1/view1_frontal", "patient64741", "patient64741/study1"),
        ("test/patient64741", "patient64741", ""),
        ("files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg", "p10000032", "p10000032/s50414267"),
        ("images_001/00000001_000.png", "00000001", "00000001_000"),
        ("00030805_123", "00030805", "00030805_123"),
        # what only looks like one
        ("/data/patients/0001/a.png", None, None),
        ("/data/patients/study1/view1_frontal.jpg", None, None),
        ("/data/patient00001_old/a.png", None, None),
        ("/data/patient00001/a.png", None, None),
        ("/data/patient00001/study2/extra/view1_frontal.jpg", None, None),
        ("inpatient3/study1/view1_frontal.jpg", None, None),
        ("patient_photos", None, None),
        ("files/p11/p10000032/s50414267/02aa804e.jpg", None, None),
        ("p10/scans/s50414267/a.jpg", None, None),
        ("20240131_001.png", None, None),
        ("x00000001_000.png", None, None),
        ("00000001_0001.png", None, None),
    ],
)
def test_layouts_are_recognised_whole(path, patient, study):
    place = identity.recognise(path)
    assert (place and place.patient) == patient
    assert (place and place.study) == study


def test_names_of_two_data_sets_in_one_table_stay_apart():
    path = pd.Series([f"{site}/patient1/study1/view1_frontal.jpg" for site in "ab"])
    for level in ("image", "study", "patient"):
        assert identity.ids_at(path, level).nunique() == 2
    assert identity.ids_at(path[:1], "patient").tolist() == ["patient1"]


def test_nih_patients_are_one_across_the_folders_of_its_archives():
    found = identify(["images_001/00000001_000.png", "images_002/00000001_001.png"], "patient")
    assert found.names == ["00000001"] * 2
    assert found.note("patient").startswith("1 patient found in 2 films, by the folders of NIH (2). All films are of")


def test_what_the_user_says_comes_first_and_tags_before_folders(tmp_path):
    file = tmp_path / "patient1" / "study1" / "view1.dcm"
    file.parent.mkdir(parents=True)
    file.write_bytes(make(PIXELS, bits=8, PatientID="7", IssuerOfPatientID="north", StudyInstanceUID="1.2.3"))
    assert identify([file], "patient").names == ["north:7"]
    assert identify([file], "study").names == ["1.2.3"]
    listed = {str(file): ("listed", "the column 'patient'")}
    assert identify([file], "patient", listed=listed).names == ["listed"]
    asked = Asked(patient_pattern=r"(patient)\d")
    assert identify([file], "patient", listed=listed, asked=asked).names == ["patient"]
    file.write_bytes(make(PIXELS, bits=8))
    assert identify([file], "patient").names == [f"{tmp_path}/patient1"]


@pytest.mark.parametrize("content", [b"", b"DICM", bytes(128) + b"DICM", bytes(128) + b"DICM" + bytes(range(256)) * 4])
def test_a_damaged_dicom_says_nothing(tmp_path, content):
    (tmp_path / "a.dcm").write_bytes(content)
    assert identity.tagged(tmp_path / "a.dcm", "patient") is None
    assert identity.tagged(Path("none.dcm"), "patient") is None
