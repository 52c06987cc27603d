"""MIMIC-CXR-JPG: a small file in the published format, and every way in which such a file is wrong."""

from pathlib import Path

import numpy as np
import pytest

from pathologies.findings.catalog import CHEXPERT_TARGETS
from pathologies.sources.registry import read_labels
from tests.label_files import check_frame, touch, write

TWELVE = set(CHEXPERT_TARGETS)


MIMIC_LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices",
    "10000032,50414267,,,,,,,,,1.0,,,,,",
    "10000764,57375967,1.0,-1.0,0.0,0.0,1.0,1.0,1.0,1.0,,0.0,1.0,-1.0,0.0,",
    "10000999,59999999,,,,,,,,,1.0,,,,,",
)
MIMIC_METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning",
    '02aa804e-x,10000032,50414267,"CHEST (PA AND LAT)",PA,3056,2544,21800506,213014.531,"CHEST, PA",,Erect',
    "174413ec-x,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506,213014.531,CHEST,,Erect",
    "096052b7-x,10000764,57375967,CHEST (PORTABLE AP),AP,2021,1736,21321015,93926.0,CHEST,,",
    "b79e55c3-x,10000764,57375967,CHEST (PORTABLE AP),,2021,1736,21321015,93926.0,CHEST,,",
    "dead0000-x,10000800,50000000,CHEST,LL,2021,1736,21321015,93926.0,CHEST,,",
)
MIMIC_SPLIT = (
    "dicom_id,study_id,subject_id,split",
    "02aa804e-x,50414267,10000032,train",
    "174413ec-x,50414267,10000032,train",
    "096052b7-x,57375967,10000764,test",
    "b79e55c3-x,57375967,10000764,test",
    "dead0000-x,50000000,10000800,validate",
)


@pytest.fixture
def mimic(tmp_path) -> Path:
    write(tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz", *MIMIC_METADATA)
    write(tmp_path / "mimic-cxr-2.0.0-split.csv.gz", *MIMIC_SPLIT)
    return write(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", *MIMIC_LABELS)


def test_mimic_joins_its_three_tables(mimic, tmp_path):
    read = read_labels("mimic", mimic)
    frame = check_frame(read, 4)
    assert set(read.findings) == TWELVE
    assert frame["path"].tolist()[0] == "files/p10/p10000032/s50414267/02aa804e-x.jpg"
    assert frame["view"].tolist() == ["frontal", "lateral", "frontal", ""]
    assert frame["projection"].tolist() == ["PA", "", "AP", ""]
    assert frame["official_split"].tolist() == ["train", "train", "test", "test"]
    assert frame["patient_id"].tolist() == ["p10000032"] * 2 + ["p10000764"] * 2
    np.testing.assert_array_equal(frame["cardiomegaly"], np.float32([np.nan, np.nan, -1, -1]))
    np.testing.assert_array_equal(frame["no_finding"], np.float32([1, 1, np.nan, np.nan]))
    assert read.dropped["image"].tolist() == ["dead0000-x"]
    assert any("1 studies" in note for note in read.notes)
    assert any("frontal or lateral: 1." in note for note in read.notes)
    images = touch(tmp_path / "jpg", "p10/p10000764/s57375967/096052b7-x.jpg")
    assert read_labels("mimic", mimic, images).frame["path"].tolist()[2] == "p10/p10000764/s57375967/096052b7-x.jpg"


def test_mimic_radiologists_test_labels_have_no_subject(mimic, tmp_path):
    header = MIMIC_LABELS[0].removeprefix("subject_id,").replace("Lung Opacity", "Airspace Opacity")
    labels = write(tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv", header, MIMIC_LABELS[2].removeprefix("10000764,"))
    read = read_labels("mimic", labels)
    assert check_frame(read, 2)["lung_opacity"].tolist() == [1, 1]
    assert len(read.dropped) == 3


def test_mimic_bad_input_is_named(mimic, tmp_path):
    text = "\n".join(MIMIC_LABELS).replace("0.0,0.0,1.0,1.0", "0.0,3.0,1.0,1.0")
    negbio = write(tmp_path / "mimic-cxr-2.0.0-negbio.csv", text)
    with pytest.raises(ValueError, match="'Edema'.*line 3: 3"):
        read_labels("mimic", negbio)
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match="metadata"):
        read_labels("mimic", mimic)
    other = write(tmp_path / "m.csv", *MIMIC_METADATA)
    assert len(read_labels("mimic", mimic, metadata=other).frame) == 4
