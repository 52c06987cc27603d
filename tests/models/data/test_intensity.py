"""models/data/intensity.py: how bright a film is, is not for a few pixels to say; and every version keeps its
meaning.
"""

import hashlib
import io
import json

import numpy as np
import pydicom
import pytest
from PIL import Image

from models.data.images import decode
from models.data.intensity import INTENSITY_CONTRACT, INTENSITY_CONTRACTS, NEWEST, intensity_version, shown_range
from pathologies.errors import InputError
from tests.coded_films import make


def film(side=64, bits=12, seed=0):
    """Structure over most of the range, and noise."""
    y, x = np.mgrid[0:side, 0:side] / side
    grey = 0.5 + 0.35 * np.sin(5 * x + 2 * y) * np.cos(3 * y)
    grey += np.random.default_rng(seed).normal(0, 0.01, grey.shape)
    return np.clip(grey * (2**bits - 1), 0, 2**bits - 1).astype(np.uint16)


def png(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


FORMS = {"png": png, "dicom": lambda values: make(values, bits=16)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hot", [1, 3])
def test_one_pixel_does_not_cost_a_film_its_greys(form, hot):
    plain = film()
    broken = plain.copy()
    broken.flat[100 : 100 + hot] = 65535
    shown, clean = decode(FORMS[form](broken)), decode(FORMS[form](plain))
    assert len(np.unique(decode(FORMS[form](broken), 1))) < 19, "by minimum..maximum"
    assert len(np.unique(shown)) >= 190
    assert (shown.flat[100 : 100 + hot] == 255).all()
    rest = np.delete(shown.ravel().astype(float), range(100, 100 + hot))
    other = np.delete(clean.ravel().astype(float), range(100, 100 + hot))
    assert np.corrcoef(rest, other)[0, 1] > 0.9999
    assert rest.max() - rest.min() >= 255 / 1.21, "a sixth of the range for the margins, and rounding"


@pytest.mark.parametrize("form", FORMS)
def test_dead_pixels_at_the_dark_end_too(form):
    values = film() + np.uint16(40_000)
    values.flat[7] = 0
    assert len(np.unique(decode(FORMS[form](values), 1))) < 30
    assert len(np.unique(decode(FORMS[form](values)))) >= 190


@pytest.mark.parametrize("form", FORMS)
def test_a_film_without_outliers_is_shown_as_ever(form):
    """Version 2 is version 1 wherever the ends of the range lie near the bulk: nothing of it is clipped."""
    for seed in range(3):
        data = FORMS[form](film(seed=seed))
        assert np.array_equal(decode(data, 2), decode(data, 1))


def test_what_is_a_little_brighter_than_the_rest_keeps_its_steps():
    """A wire, a marker: few pixels, and more than one grey."""
    values = film() // 2 + 1000
    high = int(values.max())
    values[10, 10:14] = [high + 60, high + 90, high + 120, high + 150]
    steps = decode(png(values))[10, 10:14].astype(int)
    assert (np.diff(steps) >= 3).all()


def test_a_film_of_nearly_one_value_is_all_in_the_others():
    values = np.full((64, 64), 500, np.uint16)
    values[30, 30:33] = [800, 900, 1000]
    assert shown_range(values, 2) == (500, 1000)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_the_range_is_that_of_sorted_values(kind):
    values = (film(side=80) if kind == np.uint16 else film(side=80).astype(np.int32) - 2000).astype(kind)
    values.flat[:4] = 30_000
    ordered = np.sort(values, axis=None).astype(float)
    low, high = ordered[6], ordered[-7]  # a thousandth of 6400 pixels at either end
    margin = 0.1 * (high - low)
    expected = (max(ordered[0], low - margin), min(ordered[-1], high + margin))
    assert shown_range(values, 2) == pytest.approx(expected)
    assert shown_range(-values.astype(float), 2) == pytest.approx((-expected[1], -expected[0]))
    assert shown_range(values, 1) == (ordered[0], ordered[-1])


def test_the_range_of_a_large_film_is_exact_too():
    """Also where the pixels that a sample takes are not like the rest."""
    values = np.random.default_rng(0).integers(0, 4096, (700, 700)).astype(np.uint16)
    values.ravel()[:: 1 + values.size // 50_000] = 2000
    ordered, rank = np.sort(values, axis=None).astype(float), values.size // 1000
    low, high = ordered[rank], ordered[-1 - rank]
    margin = 0.1 * (high - low)
    assert shown_range(values, 2) == (max(ordered[0], low - margin), min(ordered[-1], high + margin))


def test_a_rescaled_dicom_and_one_with_padding():
    values = film()
    values.flat[5] = 65535
    shown = decode(make(values, bits=16, RescaleSlope=0.5, RescaleIntercept=-1000))
    assert np.abs(shown.astype(int) - decode(make(values, bits=16))).max() <= 1
    values[:, :30] = 60_000
    padded = decode(make(values, bits=16, PixelPaddingValue=60_000))
    assert len(np.unique(padded[:, 30:])) >= 150


@pytest.mark.parametrize("place", ["nih-sample", "hannover"])
def test_nothing_visible_of_real_films_is_lost(real_data, place):
    """As 12 bits, as a detector would give them: a thousandth is clipped, and no two greys that count become one."""
    unchanged = []
    for path in sorted((real_data / place / "images").iterdir())[::40]:
        deep = png(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16)
        first, second = decode(deep, 1), decode(deep, 2)
        unchanged.append(np.array_equal(first, second))
        clipped = ((second == 0) & (first > first.min())) | ((second == 255) & (first < first.max()))
        assert clipped.mean() <= 0.001, path.name
        levels, counts = np.unique(first, return_counts=True)
        greys = [second[first == level][0] for level in levels[counts >= 0.0005 * first.size]]
        assert (np.diff(np.array(greys, int)) > 0).all(), path.name
    assert any(unchanged)


def overlay_bit(values, position=0):
    marked = values.copy()
    marked[20:30, 20:40] |= 1 << position
    return marked


def overlaid(values, position=12, apart=False):
    """An overlay in a bit above the stored ones, as files of before 2004 have it."""
    marked = overlay_bit(values, position)
    numbers = {0x0010: ("US", 64), 0x0011: ("US", 64), 0x0040: ("CS", "G"), 0x0050: ("SS", [1, 1]),
               0x0100: ("US", 16), 0x0102: ("US", position)}  # fmt: skip
    made = pydicom.dcmread(io.BytesIO(make(marked)))
    for element, (vr, value) in numbers.items():
        made.add_new((0x6000, element), vr, value)
    if apart:
        made.add_new((0x6000, 0x3000), "OW", bytes(64 * 64 // 8))
    buffer = io.BytesIO()
    made.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("position", [12, 15])
def test_overlays_in_bits_of_their_own_are_no_pixels(position, caplog):
    values = film()
    assert np.array_equal(decode(overlaid(values, position)), decode(make(values)))
    assert not caplog.records
    assert (decode(overlaid(values, position), 1)[20:30, 20:40] == 255).all(), "as older bundles have learnt them"


def test_an_overlay_that_lies_elsewhere_masks_nothing():
    """Its bit position is 0 by the standard, and a wrong one must not cost a pixel its bits."""
    values = film()
    assert np.array_equal(decode(overlaid(values, 0, apart=True)), decode(make(overlay_bit(values))))
    assert np.array_equal(decode(overlaid(values, 3)), decode(overlaid(values, 3), 1))


def test_the_contract_is_plain_json():
    assert all(isinstance(value, str | int) for value in INTENSITY_CONTRACT.values())
    assert [contract["version"] for contract in INTENSITY_CONTRACTS.values()] == list(INTENSITY_CONTRACTS)


def test_what_data_sets_and_bundles_have_stored_stays_known_to_the_letter():
    """Compared as a whole by evaluate, merge and replace."""
    text = json.dumps(INTENSITY_CONTRACTS[1], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "dae0837c7d4f6a57"
    assert intensity_version(json.loads(text)) == 1
    assert intensity_version(INTENSITY_CONTRACT) == NEWEST == 2
    with pytest.raises(InputError, match=r"by version 3 of the intensity contract; known: 1, 2\. Update hilum"):
        intensity_version({"version": 3})
