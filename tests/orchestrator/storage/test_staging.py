"""orchestrator/storage/staging.py: once per node, whole, checked, and making room without touching what is in use."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest

from models.files.layout import DatasetPaths
from orchestrator.datasets.dataset import load_dataset
from orchestrator.storage import staging
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.object_store import Store
from orchestrator.storage.scratch import scratch
from orchestrator.storage.staging import origin, staged_bundle, staged_dataset
from tests.conftest import PROJECT
from tests.small_data import make_dataset


@pytest.fixture
def uri(storage, tmp_path):
    """A data set in the storage."""
    make_dataset(tmp_path / "made", films=40)
    return send(tmp_path / "made", f"{storage.uri}/data")


@pytest.fixture
def stage():
    """As `staged_dataset`, until the test ends or `close` is called."""
    with contextlib.ExitStack() as stack:
        yield SimpleNamespace(dataset=lambda place: stack.enter_context(staged_dataset(place)), close=stack.close)


def send(folder, uri):
    Mirror(Store(uri), folder).push()
    return uri


def test_a_staged_data_set_is_an_ordinary_one(stage, uri, tmp_path, storage):
    folder = stage.dataset(uri)
    assert folder.is_relative_to(tmp_path / "cache")
    load_dataset(folder).check_images()
    assert (folder / "images.u8").read_bytes() == (tmp_path / "made" / "images.u8").read_bytes()
    assert origin(folder) == uri
    assert stage.dataset(uri) == folder
    assert storage.downloads("images.u8") == 1
    assert stage.dataset(tmp_path / "made") == tmp_path / "made"


@pytest.mark.slow
def test_several_processes_of_a_node_download_once(uri, storage):
    code = "import sys; from orchestrator.storage.staging import staged_dataset\n"
    code += "with staged_dataset(sys.argv[1]) as folder: print(folder)"
    words = [sys.executable, "-c", code, uri]
    several = [subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    folders = {one.communicate(timeout=120)[0] for one in several}
    assert [one.returncode for one in several] == [0] * 4
    assert len(folders) == 1
    assert storage.downloads("images.u8") == storage.downloads("labels.parquet") == 1


def test_the_same_content_elsewhere_is_the_same_folder(stage, uri, storage, tmp_path):
    first = stage.dataset(uri)
    copy = send(tmp_path / "made", f"{storage.uri}/copy")
    assert stage.dataset(copy) == first
    assert origin(first) == copy
    assert storage.downloads("images.u8") == 1


def test_what_arrives_otherwise_than_described_is_refused(stage, uri, tmp_path):
    Store(uri).write("images.u8", bytes(DatasetPaths(tmp_path / "made").images.stat().st_size))
    with pytest.raises(ValueError, match=r"images.u8 of s3://.* is not what its manifest.json describes"):
        stage.dataset(uri)
    assert [path for path in (tmp_path / "cache" / "staged").iterdir() if path.is_dir()] == []


def test_weights_of_a_bundle_are_compared_with_what_it_says_of_them(storage, tmp_path):
    uri, weights = f"{storage.uri}/bundle", tmp_path / "weights" / "edema-0.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    model = {"file": "weights/edema-0.safetensors", "sha256": hashlib.sha256(b"weights").hexdigest()}
    (tmp_path / "bundle.json").write_text(json.dumps({"findings": {"edema": {"models": [model]}}}))
    with staged_bundle(send(tmp_path, uri)) as folder:
        assert (folder / model["file"]).read_bytes() == b"weights"
    weights.write_bytes(b"others!")
    (tmp_path / "bundle.json").write_text(json.dumps({"findings": {"edema": {"models": [model]}}}, indent=1))
    send(tmp_path, uri)
    with pytest.raises(ValueError, match="edema-0.safetensors of s3://.* is not what its"), staged_bundle(uri):
        pass


def test_what_is_not_complete_is_told(stage, storage):
    with pytest.raises(FileNotFoundError, match=r"No complete data set at s3://.*: it has no manifest.json"):
        stage.dataset(f"{storage.uri}/nothing")
    with pytest.raises(FileNotFoundError, match="make it: `hilum ensemble`"), staged_bundle(f"{storage.uri}/nothing"):
        pass


def others(storage, tmp_path, count):
    """Further data sets of the same size."""
    for number in range(count):
        make_dataset(tmp_path / f"other{number}", films=40, seed=number + 1)
        yield send(tmp_path / f"other{number}", f"{storage.uri}/other{number}")


def test_what_was_used_longest_ago_makes_room(stage, uri, storage, tmp_path, monkeypatch):
    one, two = others(storage, tmp_path, 2)
    old, newer = stage.dataset(uri), stage.dataset(one)
    stage.close()
    os.utime(old.with_suffix(".used"), (1, 1))
    size = staging._size(old)
    monkeypatch.setenv("HILUM_CACHE_GB", str(2.5 * size / 2**30))
    newest = stage.dataset(two)
    assert not old.exists()
    assert newer.is_dir()
    assert newest.is_dir()


def test_what_is_in_use_stays_and_its_maps_stay_whole(stage, uri, storage, tmp_path, monkeypatch):
    (one,) = others(storage, tmp_path, 1)
    used = stage.dataset(uri)
    images = load_dataset(used).images()
    monkeypatch.setenv("HILUM_CACHE_GB", "0.00001")
    assert stage.dataset(one).is_dir()
    assert used.is_dir()
    stage.close()
    images_before = images.copy()
    assert staging._evict(used.with_suffix(".used"))
    assert not used.exists()
    assert (images == images_before).all()  # unlinked, not cut short


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(stage, uri, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(OSError, match=r"takes 0.00 GiB, and .* free, with nothing to remove .* Set HILUM_CACHE"):
        stage.dataset(uri)
    assert list((tmp_path / "cache" / "staged").glob("*/images.u8")) == []


def test_scratch_of_a_killed_process_is_removed(storage, tmp_path):
    code = "import os; from orchestrator.storage.scratch import scratch\n"
    code += "with scratch('x') as root:\n os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=60, check=False)
    above = tmp_path / "cache" / "scratch"
    assert len(list(above.iterdir())) == 2
    with scratch("mine") as root:
        assert sorted(path.name for path in above.iterdir()) == [root.name, f"{root.name}.lock"]
    assert list(above.iterdir()) == []
