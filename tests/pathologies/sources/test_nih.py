"""NIH ChestX-ray14: a small file in the published format, and every way in which such a file is wrong."""

import numpy as np
import pytest

from pathologies.sources.registry import read_labels
from tests.label_files import check_frame, touch, write
from tests.nih_like import HEADER as NIH_HEADER

NIH_ROWS = (
    "00000001_000.png,Cardiomegaly|Effusion,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
    "00000001_001.png,No Finding,1,1,411,F,AP,2500,2048,0.168,0.168,",
    "00000002_000.png,Pleural_Thickening|Mass,0,2,006M,F,PA,2500,2048,0.168,0.168,",
)


@pytest.mark.parametrize("name", ["Data_Entry_2017.csv", "Data_Entry_2017.csv.gz"])
@pytest.mark.parametrize("sex", ["Patient Gender", "Patient Sex"])
def test_nih_reads_whole_tokens(tmp_path, name, sex):
    labels = write(tmp_path / name, NIH_HEADER.replace("Patient Gender", sex), *NIH_ROWS)
    read = read_labels("nih", labels)
    frame = check_frame(read, 3)
    assert len(read.findings) == 14
    assert frame["pleural_effusion"].tolist() == [1, 0, 0]
    assert frame["pleural_thickening"].tolist() == [0, 0, 1]
    assert frame["nodule"].tolist() == [0, 0, 0]
    assert frame["no_finding"].tolist() == [0, 1, 0]
    assert frame["patient_id"].tolist() == ["00000001", "00000001", "00000002"]
    assert frame["study_id"].is_unique
    assert set(frame["view"]) == {"frontal"}
    assert frame["projection"].tolist() == ["PA", "AP", "PA"]
    np.testing.assert_array_equal(frame["age"], np.float32([58, np.nan, 0.5]))
    assert any("411" in note for note in read.notes)
    assert any("'nodule'" in note for note in read.notes)


def test_nih_rows_with_a_trailing_comma_do_not_shift_the_columns(tmp_path):
    labels = write(tmp_path / "d.csv", NIH_HEADER.rstrip(","), *NIH_ROWS)
    assert read_labels("nih", labels).frame["image_id"].tolist()[0] == "00000001_000.png"


def test_nih_images_in_their_archive_folders_and_official_lists(tmp_path):
    labels = write(tmp_path / "d.csv", NIH_HEADER, *NIH_ROWS)
    images = touch(tmp_path / "in", "images_001/images/00000001_000.png", "images_002/images/00000002_000.png")
    write(tmp_path / "train_val_list.txt", "00000001_000.png", "00000001_001.png")
    write(tmp_path / "test_list.txt", "00000002_000.png")
    frame = read_labels("nih", labels, images, official_lists=tmp_path).frame
    assert frame["path"].tolist() == [
        "images_001/images/00000001_000.png",
        "00000001_001.png",
        "images_002/images/00000002_000.png",
    ]
    assert frame["official_split"].tolist() == ["train_val", "train_val", "test"]
    (tmp_path / "test_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match="test_list.txt"):
        read_labels("nih", labels, official_lists=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Effusion", "Efusion", "line 2.*Did the file mean 'effusion'"),
        ("Effusion", "Pleural Effusion", "line 2"),
        ("Cardiomegaly|Effusion", "", "line 2: nan"),
        ("Pleural_Thickening|Mass", "No Finding|Mass", "'No Finding' alone"),
        ("Finding Labels", "Labels", "no column 'Finding Labels'"),
        ("M,PA", "M,XX", "line 2: 'XX'"),
        ("00000001_001.png,No Finding,1,1", "00000001_001.png,No Finding,1,3", "line 3: '00000001_001.png'"),
    ],
)
def test_nih_bad_input_is_named(tmp_path, old, new, message):
    text = "\n".join([NIH_HEADER, *NIH_ROWS])
    assert old in text
    with pytest.raises(ValueError, match=message):
        read_labels("nih", write(tmp_path / "d.csv", text.replace(old, new)))


def test_nih_sample_of_real_films(real_data):
    folder = real_data / "nih-sample"
    read = read_labels("nih", folder / "Data_Entry_2017.csv", folder / "images")
    frame = check_frame(read, 785)
    counts = {"pneumonia": 388, "infiltration": 147, "pleural_effusion": 71, "pneumothorax": 10, "hernia": 3}
    assert {slug: int(frame[slug].sum()) for slug in counts} == counts  # the folder's own README
    assert frame["no_finding"].sum() == 397
    assert frame["patient_id"].nunique() == 539
