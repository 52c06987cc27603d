"""Copies of a film in another part are found, different films are not, and what remains has none."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from pathologies.splits.duplicates import _candidates, _hash_all, duplicates_between_parts, find_duplicates

SIDE = 64


def films(count: int, seed: int = 0) -> np.ndarray:
    """Different films that share the broad shape of a chest: two dark lungs on a bright ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    chest = 180 - 110 * sum(np.exp(-((x - side) ** 2 / 0.02 + (y - 0.5) ** 2 / 0.06)) for side in (0.3, 0.7))
    detail = gaussian_filter(rng.normal(size=(count, SIDE, SIDE)), (0, 1.5, 1.5))
    return np.clip(chest + 25 * detail / detail.std(), 0, 255).astype(np.uint8)


def as_jpeg(film: np.ndarray, quality: int = 40) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(film).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def half_size(film: np.ndarray) -> np.ndarray:
    image = Image.fromarray(film)
    return np.asarray(image.resize((image.width // 2, image.height // 2)).resize(image.size))


def paler(film: np.ndarray) -> np.ndarray:
    return (0.8 * film + 25).astype(np.uint8)


def noisy(film: np.ndarray) -> np.ndarray:
    return np.clip(film + np.random.default_rng(1).normal(0, 5, film.shape), 0, 255).astype(np.uint8)


def frame_of(count: int) -> pd.DataFrame:
    return pd.DataFrame({"image_id": [f"film{row}" for row in range(count)]})


def test_different_films_are_no_duplicates():
    assert len(find_duplicates(films(600))) == 0


@pytest.mark.parametrize("copy", [as_jpeg, half_size, paler, noisy])
def test_copies_in_another_part_are_found(copy):
    originals = films(60)
    images = np.concatenate([originals, [copy(film) for film in originals[:20]]])
    rank = np.repeat([0, 3], [60, 20])
    pairs = find_duplicates(images, rank)
    assert pairs[["first", "second"]].to_numpy().tolist() == [[row, 60 + row] for row in range(20)]
    assert set(pairs["kind"]) == {"near-identical"}
    assert pairs["correlation"].between(0.9, 1).all()


def test_films_of_one_shape_but_other_detail_are_no_copies():
    rng = np.random.default_rng(3)
    shape = gaussian_filter(rng.normal(size=(80, SIDE, SIDE)), (0, 3, 3))  # what the hash sees
    detail = gaussian_filter(rng.normal(size=(2, 80, SIDE, SIDE)), (0, 0, 0.7, 0.7))
    images = 120 + 40 * shape / shape.std() + 8 * detail / detail.std()
    images = np.clip(np.concatenate(images), 0, 255).astype(np.uint8)
    rank = np.repeat([0, 1], 80)
    assert len(_candidates(*_hash_all(images, None)[1:], rank)) >= 70
    assert len(find_duplicates(images, rank)) == 0


def test_identical_films_are_called_so_and_the_later_part_loses_them():
    originals = films(12)
    images = np.concatenate([originals, originals[[3, 3, 5, 7]]])
    parts = np.array(["test"] * 4 + ["select"] * 4 + ["train"] * 4 + ["train", "calibrate", "select", "test"])
    duplicates = duplicates_between_parts(frame_of(16), parts, images)
    assert duplicates.dropped[["row", "part"]].to_numpy().tolist() == [[3, "test"], [13, "calibrate"], [15, "test"]]
    assert duplicates.dropped["reason"].tolist() == [
        "identical to film12 in part train",
        "identical to film12 in part train",
        "identical to film7 in part select",
    ]  # 5 and 14 both lie in select
    assert set(duplicates.pairs["kind"]) == {"identical"}
    again = duplicates_between_parts(
        frame_of(int(duplicates.keep.sum())), parts[duplicates.keep], images[duplicates.keep]
    )
    assert again.keep.all()
    assert again.pairs.empty


def test_mixed_copies_leave_nothing_behind():
    originals = films(40, seed=2)
    copies = [as_jpeg(originals[0]), as_jpeg(originals[0], 70), originals[1], paler(originals[1])]
    images = np.concatenate([originals, copies])
    parts = np.array(["train"] * 40 + ["select", "calibrate", "test", "select"])
    duplicates = duplicates_between_parts(frame_of(44), parts, images)
    assert np.flatnonzero(~duplicates.keep).tolist() == [40, 41, 42, 43]
    assert duplicates_between_parts(frame_of(40), parts[duplicates.keep], images[duplicates.keep]).pairs.empty


def test_without_parts_every_pair_counts():
    originals = films(5)
    pairs = find_duplicates(np.concatenate([originals, originals[:1], [as_jpeg(originals[1])]]))
    assert pairs[["first", "second", "kind"]].to_numpy().tolist() == [[0, 5, "identical"], [1, 6, "near-identical"]]


def test_films_without_a_picture_are_alike_only_if_identical():
    images = np.stack([np.full((SIDE, SIDE), value, np.uint8) for value in (0, 0, 7, 255)])
    pairs = find_duplicates(images)
    assert pairs[["first", "second"]].to_numpy().tolist() == [[0, 1]]


def test_a_memory_map_of_any_size_is_read_in_pieces(tmp_path):
    small = films(70)[:, ::4, 8:40]
    images = np.memmap(tmp_path / "images.u8", np.uint8, "w+", shape=(71, *small.shape[1:]))
    images[:70], images[70] = small, small[4]
    seen = []
    pairs = find_duplicates(images, on_progress=lambda done, total: seen.append((done, total)))
    assert pairs[["first", "second"]].to_numpy().tolist() == [[4, 70]]
    assert seen[-1] == (71, 71)
    assert len(find_duplicates(images[:0])) == 0


def test_bad_input_is_refused():
    images = films(3)
    with pytest.raises(ValueError, match="Expected N x H x W, uint8"):
        find_duplicates(images.astype(np.float32))
    with pytest.raises(ValueError, match="not one data set"):
        duplicates_between_parts(frame_of(2), np.array(["train"] * 3), images)
    with pytest.raises(ValueError, match="Unknown part"):
        duplicates_between_parts(frame_of(3), np.array(["train", "test", "valid"]), images)


def test_real_films_do_not_collide_and_their_copies_do(real_data):
    files = sorted((real_data / "nih-sample" / "images").glob("*.png"))[:400]
    originals = np.stack([np.asarray(Image.open(file).convert("L").resize((128, 128))) for file in files])
    assert len(find_duplicates(originals)) == 0
    images = np.concatenate([originals, [as_jpeg(film, 30) for film in originals[:100]]])
    pairs = find_duplicates(images, np.repeat([0, 1], [400, 100]))
    assert pairs[["first", "second"]].to_numpy().tolist() == [[row, 400 + row] for row in range(100)]
