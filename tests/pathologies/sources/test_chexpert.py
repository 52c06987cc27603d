"""CheXpert: a small file in the published format, and every way in which such a file is wrong."""

import numpy as np
import pandas as pd
import pytest

from pathologies.findings.catalog import CHEXPERT_TARGETS
from pathologies.sources.registry import read_labels
from tests.chexpert_like import HEADER, write_chexpert_like
from tests.label_files import check_frame, touch, write

TWELVE = set(CHEXPERT_TARGETS)
CHEXPERT_ROWS = (
    "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
    "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Male,0,Frontal,LL,,,,-1.0,1.0,,-1.0,,,,-1.0,,1.0,",
    "CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Unknown,87,Lateral,,,,,-1.0,1.0,,-1.0,,,,-1.0,,1.0,",
    "CheXpert-v1.0-small/train/patient00003/study1/view1_frontal.jpg,Male,18,Frontal,PA" + ",0.0" * 14,
)


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
def test_chexpert_keeps_the_raw_labels(tmp_path, name):
    read = read_labels("chexpert", write(tmp_path / name, HEADER, *CHEXPERT_ROWS))
    frame = check_frame(read, 4)
    assert set(read.findings) == TWELVE
    assert frame["image_id"].tolist()[0] == "train/patient00001/study1/view1_frontal.jpg"
    assert frame["patient_id"].tolist() == ["patient00001", "patient00002", "patient00002", "patient00003"]
    assert frame["study_id"].tolist()[1:3] == ["patient00002/study2"] * 2
    assert frame["view"].tolist() == ["frontal", "frontal", "lateral", "frontal"]
    assert frame["projection"].tolist() == ["AP", "LL", "", "PA"]
    assert frame["sex"].tolist() == ["F", "M", "", "M"]
    np.testing.assert_array_equal(frame["age"], np.float32([68, np.nan, 87, 18]))
    np.testing.assert_array_equal(frame["no_finding"], np.float32([1, np.nan, np.nan, 0]))
    np.testing.assert_array_equal(frame["pneumothorax"], np.float32([0, np.nan, np.nan, 0]))
    np.testing.assert_array_equal(frame["lung_opacity"], np.float32([np.nan, -1, -1, 0]))
    np.testing.assert_array_equal(frame["fracture"], np.float32([np.nan, 1, 1, 0]))
    assert any("ages of 0" in note for note in read.notes)
    assert any("Support Devices" in note for note in read.notes)


def test_an_empty_column_is_left_out_and_said_so(tmp_path):
    read = read_labels("chexpert", write(tmp_path / "train.csv", HEADER, *CHEXPERT_ROWS[:3]))
    assert "pleural_other" not in check_frame(read, 3)
    assert any("without a column" in note and "pleural_other" in note for note in read.notes)
    blank = CHEXPERT_ROWS[0].rsplit(",", 14)[0] + "," * 14
    with pytest.raises(ValueError, match="every label cell"):
        read_labels("chexpert", write(tmp_path / "blank.csv", HEADER, blank))


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0/", "", "/mnt/data/CheXpert-v1.0-small/", "some where/"])
@pytest.mark.parametrize("root", ["", "CheXpert-v1.0-small/", "elsewhere/"])
def test_chexpert_finds_the_images_whatever_the_prefix(tmp_path, prefix, root):
    rows = [row.replace("CheXpert-v1.0-small/", prefix) for row in CHEXPERT_ROWS]
    labels = write(tmp_path / "train.csv", HEADER, *rows)
    images = touch(tmp_path / "images", f"{root}train/patient00002/study2/view2_lateral.jpg")
    read = read_labels("chexpert", labels, images)
    assert read.frame["image_id"].tolist()[2] == "train/patient00002/study2/view2_lateral.jpg"
    assert (images / read.frame["path"].tolist()[2]).is_file()


def test_chexpert_without_any_image_names_the_first_missing(tmp_path):
    labels = write(tmp_path / "train.csv", HEADER, *CHEXPERT_ROWS)
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"patient00001/study1/view1_frontal\.jpg"):
        read_labels("chexpert", labels, tmp_path / "images")
    with pytest.raises(FileNotFoundError, match="No image folder"):
        read_labels("chexpert", labels, tmp_path / "none")


def test_chexpert_columns_are_found_by_name_and_alias(tmp_path):
    names = HEADER.replace("Lung Opacity", "Airspace Opacity").split(",")
    cells = [dict(zip(names, row.split(","), strict=True)) for row in CHEXPERT_ROWS]
    shuffled = names[::-1]
    lines = [",".join(shuffled), *(",".join(row[name] for name in shuffled) for row in cells)]
    frame = read_labels("chexpert", write(tmp_path / "train.csv", *lines)).frame
    expected = read_labels("chexpert", write(tmp_path / "plain.csv", HEADER, *CHEXPERT_ROWS)).frame
    pd.testing.assert_frame_equal(frame, expected)


def test_chexpert_test_labels_by_image_and_by_study(tmp_path):
    findings = HEADER.split(",")[5:]
    values = ",".join(["0"] * 13 + ["1"])
    rows = [f"CheXpert-v1.0/test/patient64741/study1,{values}", f"CheXpert-v1.0/test/patient64742/study1,{values}"]
    labels = write(tmp_path / "groundtruth.csv", ",".join(["Study", *findings]), *rows)
    views = ("patient64741/study1/view1_frontal.jpg", "patient64741/study1/view2_lateral.jpg")
    images = touch(tmp_path / "in", *(f"CheXpert/test/{n}" for n in (*views, "patient64742/study1/view1_frontal.jpg")))
    with pytest.raises(FileNotFoundError, match="2 studies"):
        read_labels("chexpert", labels, images)
    read = read_labels("chexpert", labels, images / "CheXpert")
    frame = check_frame(read, 3)
    assert frame["view"].tolist() == ["frontal", "lateral", "frontal"]
    assert set(frame["official_split"]) == {"test"}
    with pytest.raises(ValueError, match="whole studies"):
        read_labels("chexpert", labels)
    by_image = [f"test/{views[0]},{values}", f"test/{views[1]},{values}"]
    labels = write(tmp_path / "test_labels.csv", ",".join(["Path", *findings]), *by_image)
    assert check_frame(read_labels("chexpert", labels), 2)["view"].tolist() == ["frontal", "lateral"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Pneumonia", "Pnuemonia", "no column 'Pneumonia'.*'Pnuemonia'"),
        ("Sex,", "Gender,", "no column 'Sex'"),
        ("Path", "File", "no column 'Path'"),
        ("Frontal,AP", "Oblique,AP", "line 2: 'Oblique'.*Frontal"),
        ("Frontal,LL", "Frontal,XX", "line 3: 'XX'.*'RL'"),
        ("Female", "female?", "line 2: 'female\\?'"),
        (",LL,,,,-1.0", ",LL,,,,2", "'Lung Opacity'.*line 3: 2.*Allowed: 1, 0, -1"),
        (",LL,,,,-1.0", ",LL,,,,yes", "'Lung Opacity'.*line 3: 'yes'"),
        ("patient00001/study1", "00001/study1", "line 2: .*00001/study1"),
        ("view2_lateral", "view1_frontal", "listed more than once"),
        (",1.0\n", ",1.0,7\n", "cannot be read as a CSV table"),
    ],
)
def test_chexpert_bad_input_is_named(tmp_path, old, new, message):
    text = "\n".join([HEADER, *CHEXPERT_ROWS]) + "\n"
    assert old in text
    path = write(tmp_path / "train.csv", text.replace(old, new, 1 if old != ",1.0\n" else 9).rstrip("\n"))
    with pytest.raises(ValueError, match=message) as caught:
        read_labels("chexpert", path)
    assert "train.csv" in str(caught.value)


@pytest.mark.slow
def test_chexpert_of_full_size_keeps_its_counts(tmp_path):
    read = read_labels("chexpert", write_chexpert_like(tmp_path / "train.csv"))
    frame = check_frame(read, 223_414)
    assert (frame["view"] == "frontal").sum() == 191_027
    assert [(frame["cardiomegaly"] == value).sum() for value in (1, 0, -1)] == [27_000, 11_116, 8_087]
