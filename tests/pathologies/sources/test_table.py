"""A table that a mapping describes: what it becomes, and every way in which mapping or table is wrong."""

import numpy as np
import pytest

from pathologies.sources.registry import read_labels
from tests.label_files import check_frame, touch, write

MAPPING = """
source = "st-elsewhere"
[columns]
path = "file"
patient = "number"
view = "view"
age = "years"
[constants]
projection = "PA"
[values.view]
F = "frontal"
S = "lateral"
[values.labels]
yes = 1
no = 0
maybe = -1
"?" = "blank"
"n/a" = "unknown"
[findings]
pneumonia = "Pneu"
edema = "Oedema"
"""
TABLE = ("file,number,view,years,Pneu,Oedema", "a/1.png,7,F,50,yes,1", "a/2.png,7,S,50,?,0", "b/1.png,8,,130,maybe,n/a")


def test_table_by_its_mapping(tmp_path):
    mapping = write(tmp_path / "m.toml", MAPPING)
    images = touch(tmp_path / "in", "films/a/1.png")
    read = read_labels("table", write(tmp_path / "t.csv.gz", *TABLE), images, mapping=mapping)
    frame = check_frame(read, 3)
    assert read.findings == ("pneumonia", "edema")
    assert frame["view"].tolist() == ["frontal", "lateral", ""]
    assert frame["path"].tolist()[0] == "films/a/1.png"
    assert set(frame["source"]) == {"st-elsewhere"}
    assert frame["patient_id"].tolist() == ["7", "7", "8"]
    np.testing.assert_array_equal(frame["pneumonia"], np.float32([1, np.nan, -1]))
    np.testing.assert_array_equal(frame["edema"], np.float32([1, 0, -2]))
    np.testing.assert_array_equal(frame["age"], np.float32([50, 50, np.nan]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('pneumonia = "Pneu"', 'pneumona = "Pneu"', "Did you mean 'pneumonia'"),
        ('"Pneu"', '"Pnue"', "no column 'Pnue'.*'Pneu'"),
        ("[constants]", "[constant]", "unknown key 'constant'.*'constants'"),
        ('patient = "number"', "", "has no 'patient'"),
        ("maybe = -1", "", "line 4: 'maybe'"),
        ("maybe = -1", "maybe = 2", "'maybe' = 2. Allowed"),
        ('S = "lateral"', 'S = "sideways"', "'sideways'. Allowed: frontal"),
        ('S = "lateral"', "", "line 3: 'S'"),
        ("[findings]", "[findings", "not a TOML file"),
    ],
)
def test_table_bad_mapping_is_named(tmp_path, old, new, message):
    mapping = write(tmp_path / "m.toml", MAPPING.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_labels("table", write(tmp_path / "t.csv", *TABLE), mapping=mapping)


def test_table_refuses_an_empty_column_and_a_missing_mapping(tmp_path):
    rows = [TABLE[0], *(",".join([*row.split(",")[:4], "?", "1"]) for row in TABLE[1:])]
    labels = write(tmp_path / "t.csv", *rows)
    with pytest.raises(ValueError, match="says nothing about 'pneumonia'"):
        read_labels("table", labels, mapping=write(tmp_path / "m.toml", MAPPING))
    with pytest.raises(ValueError, match="needs the option 'mapping'"):
        read_labels("table", labels)
    with pytest.raises(FileNotFoundError, match="No mapping"):
        read_labels("table", labels, mapping=tmp_path / "none.toml")
