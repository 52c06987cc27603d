"""VinDr-CXR: a small file in the published format, and every way in which such a file is wrong."""

import pytest

from pathologies.sources.registry import read_labels
from tests.label_files import check_frame, touch, write

VINDR_BOXES = (
    "image_id,rad_id,class_name,x_min,y_min,x_max,y_max",
    "aaaa,R1,Cardiomegaly,1,1,9,9",
    "aaaa,R1,Cardiomegaly,2,2,8,8",
    "aaaa,R2,Cardiomegaly,1,1,9,9",
    "aaaa,R2,Rib fracture,1,1,9,9",
    "aaaa,R3,Clavicle fracture,1,1,9,9",
    "bbbb,R1,Pleural effusion,1,1,9,9",
    "bbbb,R4,No finding,,,,",
    "bbbb,R5,No finding,,,,",
)
VINDR_COLUMNS = (
    "image_id,rad_id,Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,"
    "Emphysema,Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,"
    "Pleural effusion,Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,"
    "Pneumonia,Tuberculosis,Other diseases,No finding"
)


def vindr_row(names: str, *present: str) -> str:
    return ",".join([names, *("1" if name in present else "0" for name in VINDR_COLUMNS.split(",")[2:])])


@pytest.mark.parametrize(
    ("options", "cardiomegaly", "fracture", "effusion"),
    [
        ({}, [1, 0], [1, 0], [0, -1]),
        ({"agreement": 3}, [-1, 0], [-1, 0], [0, -1]),
        ({"agreement": 1}, [1, 0], [1, 0], [0, 1]),
        ({"minority": "negative"}, [1, 0], [1, 0], [0, 0]),
    ],
)
def test_vindr_boxes_become_image_labels_by_agreement(tmp_path, options, cardiomegaly, fracture, effusion):
    read = read_labels("vindr", write(tmp_path / "annotations_train.csv", *VINDR_BOXES), **options)
    frame = check_frame(read, 2)
    assert frame["cardiomegaly"].tolist() == cardiomegaly  # two boxes of one reader are one vote
    assert frame["fracture"].tolist() == fracture  # rib and clavicle count together
    assert frame["pleural_effusion"].tolist() == effusion
    assert "pneumonia" not in frame  # a global label, which no box can hold
    assert set(frame["official_split"]) == {"train"}
    assert frame["patient_id"].is_unique


def test_vindr_kaggle_table_has_fourteen_classes(tmp_path):
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    rows = [f"aaaa,Cardiomegaly,3,R{n},1,1,9,9" for n in (1, 2, 3)]
    read = read_labels("vindr", write(tmp_path / "train.csv.gz", header, *rows))
    frame = check_frame(read, 1)
    assert "fracture" not in frame
    assert "edema" not in frame
    assert any("fracture" in note for note in read.notes)


def test_vindr_label_columns_and_consensus(tmp_path):
    rows = [vindr_row("aaaa,R1", "Pneumonia"), vindr_row("aaaa,R2", "Pneumonia"), vindr_row("aaaa,R3", "No finding")]
    frame = check_frame(read_labels("vindr", write(tmp_path / "image_labels_train.csv", VINDR_COLUMNS, *rows)), 1)
    assert (frame["pneumonia"].item(), frame["no_finding"].item(), frame["edema"].item()) == (1, -1, 0)
    header = VINDR_COLUMNS.replace("rad_id,", "").replace("Other diseases", "Other disease")
    labels = write(tmp_path / "image_labels_test.csv", header, vindr_row("cccc", "Pneumonia"))
    images = touch(tmp_path / "png", "test/cccc.png")
    frame = check_frame(read_labels("vindr", labels, images), 1)
    assert (frame["pneumonia"].item(), frame["official_split"].item()) == (1, "test")
    assert frame["path"].item() == "test/cccc.png"


def test_vindr_bad_input_is_named(tmp_path):
    text = "\n".join(VINDR_BOXES)
    with pytest.raises(ValueError, match="line 2: 'Cardiomegali'"):
        read_labels("vindr", write(tmp_path / "a.csv", text.replace("Cardiomegaly", "Cardiomegali", 1)))
    with pytest.raises(ValueError, match="both 'No finding' and a finding"):
        read_labels("vindr", write(tmp_path / "b.csv", text.replace("bbbb,R4", "bbbb,R1")))
    with pytest.raises(ValueError, match="fewer readers than agreement=2"):
        read_labels("vindr", write(tmp_path / "c.csv", *VINDR_BOXES[:3]))
    with pytest.raises(ValueError, match="agreement=4"):
        read_labels("vindr", write(tmp_path / "d.csv", text), agreement=4)
    with pytest.raises(ValueError, match="unknown column"):
        read_labels("vindr", write(tmp_path / "e.csv", VINDR_COLUMNS.replace("Edema", "Oedema"), vindr_row("a,R1")))
    row = vindr_row("a,R1", "Edema").replace(",1,", ",2,")
    with pytest.raises(ValueError, match="line 2: 2"):
        read_labels("vindr", write(tmp_path / "f.csv", VINDR_COLUMNS, row))
