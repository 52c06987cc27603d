"""What is the same for every label source: unreadable files, unknown names."""

import gzip

import pytest

from pathologies.sources.registry import SOURCES, read_labels
from tests.chexpert_like import HEADER
from tests.label_files import write


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="No label file"):
        read_labels("chexpert", tmp_path / "none.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(HEADER.encode() * 100)[:60])
    with pytest.raises(ValueError, match="cannot be read as a CSV table"):
        read_labels("chexpert", tmp_path / "cut.csv.gz")
    with pytest.raises(ValueError, match="cannot be read as a CSV table"):
        read_labels("nih", write(tmp_path / "empty.csv", ""))


def test_unknown_source_and_option(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'chexpert'"):
        read_labels("chexprt", tmp_path / "x.csv")
    with pytest.raises(ValueError, match="no option"):
        read_labels("chexpert", tmp_path / "x.csv", official_lists=tmp_path)
    assert set(SOURCES) == {"chexpert", "nih", "mimic", "vindr", "padchest", "table"}
