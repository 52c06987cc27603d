"""orchestrator/datasets/dataset.py: a data set opens when its files belong together, and says what does not fit."""

import numpy as np
import pytest

from models.files.layout import read_json, write_json
from orchestrator.datasets.dataset import load_dataset
from orchestrator.datasets.prepare import prepare
from orchestrator.datasets.request import PrepareRequest
from pathologies.splits.assignment import PARTS
from tests.nih_like import write_nih_like


@pytest.fixture
def folder(tmp_path):
    labels = write_nih_like(tmp_path / "nih", patients=16)
    out = tmp_path / "out"
    prepare(PrepareRequest(source="nih", labels=labels, images=labels.parent / "images", out=out, size=32))
    return out


def test_frame_parts_and_images_have_the_same_rows(folder):
    dataset = load_dataset(str(folder))
    frame, parts = dataset.read_labels_frame(), dataset.parts()
    assert len(frame) == len(parts) == len(dataset.images()) == 32
    assert set(parts) == set(PARTS)
    assert frame["pneumonia"].dtype == np.float32
    assert frame["patient_id"][0] == "00000001"
    assert dataset.root == folder
    dataset.check_images()


def edit(path, change):
    path.write_bytes(change(path.read_bytes()))


def swap_parts(data):
    return data.replace(b"train", b"other").replace(b"test", b"train").replace(b"other", b"test")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("labels.parquet", lambda data: data[:-1] + b"x", "changed after it was prepared"),
        ("split.csv", swap_parts, "not the split"),
        ("split.csv", lambda data: data[: data.rstrip().rindex(b"\n") + 1], "not the split"),
        ("images.u8", lambda data: data[:-1], "32767 bytes; 32768"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(folder, name, change, message):
    edit(folder / name, change)
    with pytest.raises(ValueError, match=message):
        load_dataset(folder)


def test_changed_pixels_are_found_by_the_full_check(folder):
    edit(folder / "images.u8", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"images\.u8 was changed"):
        load_dataset(folder).check_images()


@pytest.mark.parametrize("name", ["labels.parquet", "split.csv"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_dataset(folder)


def test_an_incomplete_or_foreign_folder_is_no_data_set(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json"):
        load_dataset(tmp_path)
    (folder / "manifest.json").unlink()
    (folder / "shards").mkdir()
    with pytest.raises(FileNotFoundError, match="not complete"):
        load_dataset(folder)


def test_another_format_is_refused(folder):
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", manifest | {"format": "hilum-dataset/9"})
    with pytest.raises(ValueError, match=r"'hilum-dataset/9'; 'hilum-dataset/1' is read"):
        load_dataset(folder)
