"""models/files/checksummed.py: pixels that changed after they were prepared are not trained on; a file is read once."""

import os

import numpy as np
import pytest

from models.files.checksummed import verify_images
from models.files.layout import DatasetPaths, TargetPaths, read_json
from models.process.job import run_job
from tests.models.process.test_job import prepare_target
from tests.small_data import make_dataset


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # its stamps go with it
    return DatasetPaths(make_dataset(tmp_path / "dataset"))


def test_a_changed_pixel_is_an_outcome_and_nothing_is_published(dataset, tmp_path):
    images = np.memmap(dataset.images, np.uint8, mode="r+")
    images[1000] ^= 1
    images.flush()
    paths = TargetPaths(prepare_target(tmp_path / "t"))
    outcome = run_job(dataset.root, paths.root, watch_parent=False)
    assert outcome["status"] == "failed"
    assert "images.u8 was changed after it was prepared (SHA-256" in outcome["error"]
    assert not paths.weights.exists()


def test_a_file_is_read_once_until_it_changes(dataset):
    manifest, reads = read_json(dataset.manifest), []
    for _ in range(2):
        verify_images(dataset, manifest, lambda: reads.append(1))
    assert len(reads) == 1
    os.utime(dataset.images, ns=(0, 1))
    verify_images(dataset, manifest, lambda: reads.append(1))
    assert len(reads) == 2


def test_a_failed_check_is_made_again(dataset):
    manifest = read_json(dataset.manifest) | {"images_sha256": "0" * 64}
    for _ in range(2):
        with pytest.raises(ValueError, match="the manifest says 000000000000"):
            verify_images(dataset, manifest, lambda: None)
