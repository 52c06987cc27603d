"""models/data/cache.py: shards that are whole or made again, one file joined from them, and a map that is
checked first.
"""

import hashlib

import numpy as np
import pytest

from models.data.cache import (
    Shard,
    join_shards,
    measure_pixels,
    open_images,
    read_shard,
    read_shard_reasons,
    write_shard,
)
from models.files.layout import DatasetPaths, write_json


@pytest.fixture
def films():
    return np.random.default_rng(0).integers(0, 256, (7, 8, 8), dtype=np.uint8)


@pytest.fixture
def data_set(tmp_path, films):
    paths = DatasetPaths(tmp_path)
    paths.images.write_bytes(films.tobytes())
    write_json(paths.manifest, {"images": 7, "size": 8})
    return paths


def test_open_images(data_set, films):
    opened = open_images(data_set.root)
    assert np.array_equal(opened, films)
    assert not opened.flags.writeable


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_a_file_of_the_wrong_size_is_not_mapped(data_set, change):
    data_set.images.write_bytes(change(data_set.images.read_bytes()))
    with pytest.raises(ValueError, match=rf"has {data_set.images.stat().st_size} bytes; 448 make 7 x 8 x 8"):
        open_images(data_set.root)


def test_an_incomplete_data_set_is_not_opened(data_set):
    data_set.images.unlink()
    with pytest.raises(ValueError, match="has 0 bytes"):
        open_images(data_set.root)
    data_set.manifest.unlink()
    with pytest.raises(FileNotFoundError, match="manifest"):
        open_images(data_set.root)


def test_shards_come_back_and_join_in_order(tmp_path, films):
    shards = [
        Shard(images=films[:3], reasons=("", "", "truncated", "")),
        Shard(images=films[:0], reasons=("missing", "é")),
        Shard(images=films[3:], reasons=("",) * 4),
    ]
    paths = [tmp_path / f"{number}.npz" for number in range(3)]
    for path, shard in zip(paths, shards, strict=True):
        write_shard(path, shard)
        stored = read_shard(path)
        assert np.array_equal(stored.images, shard.images)
        assert stored.reasons == shard.reasons == read_shard_reasons(path)
    assert join_shards(paths, tmp_path / "images.u8") == hashlib.sha256(films.tobytes()).hexdigest()
    assert (tmp_path / "images.u8").read_bytes() == films.tobytes()


def test_a_damaged_shard_is_none_and_stops_the_joining(tmp_path, films):
    path = tmp_path / "0.npz"
    assert read_shard(path) is read_shard_reasons(path) is None
    write_shard(path, Shard(images=films, reasons=("",) * 7))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert read_shard(path) is read_shard_reasons(path) is None
    path.write_bytes(whole.replace(films[3].tobytes(), bytes(64)))
    assert read_shard(path) is None
    with pytest.raises(ValueError, match="redone"):
        join_shards([path], tmp_path / "images.u8")
    assert list(tmp_path.iterdir()) == []


def test_pixels_are_measured_in_the_rows_given(films):
    rows = np.array([1, 4, 5])
    mean, std = measure_pixels(films, rows)
    assert mean == pytest.approx(films[rows].mean() / 255, abs=1e-12)
    assert std == pytest.approx(films[rows].std() / 255, abs=1e-12)
    first, last = measure_pixels(films, np.array([0, 6])), measure_pixels(films, np.arange(7), at_most=2)
    assert first == last
    with pytest.raises(ValueError, match="empty"):
        measure_pixels(films, rows[:0])
