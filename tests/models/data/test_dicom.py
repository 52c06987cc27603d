"""models/data/dicom.py: shown as a viewer shows it, for every way in which a radiograph states its greys."""

import io
import logging
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLosslessSV1, RLELossless

from models.data.images import decode
from tests.coded_films import coded_dicom, make


def lut(entries, first=0, bits=16, packed=False):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = np.asarray(entries, "u1" if packed else "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return [item]


RAMP = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
WINDOW = {"WindowCenter": 2048, "WindowWidth": 1024}
CURVE = (np.arange(4096, dtype=np.int64) ** 2 // 4096).astype(np.uint16)


def windowed(values, center, width):
    """PS3.3 C.11.2.1.2.1, LINEAR, with an output of 0..255."""
    return np.rint(np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255).astype(np.uint8)


VOI = {
    "window": (WINDOW, windowed(RAMP.astype(float), 2048, 1024)),
    "lut": ({"VOILUTSequence": lut(CURVE)}, np.rint(CURVE[RAMP] / CURVE.max() * 255).astype(np.uint8)),
    "none": ({}, np.rint(RAMP / RAMP.max() * 255).astype(np.uint8)),
}


@pytest.mark.parametrize("voi", VOI)
@pytest.mark.parametrize(
    ("grey", "inverted"),
    [
        ({"PhotometricInterpretation": "MONOCHROME2"}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "IDENTITY"}, False),
        ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "INVERSE"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}, True),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_voi_then_inversion(voi, grey, inverted, syntax):
    elements, expected = VOI[voi]
    shown = decode(make(RAMP, syntax=syntax, **elements, **grey))
    assert np.array_equal(shown, 255 - expected if inverted else expected)


def test_the_lut_goes_before_the_window():
    shown = decode(make(RAMP, **WINDOW, VOILUTSequence=lut(CURVE)))
    assert np.array_equal(shown, VOI["lut"][1])


def test_the_first_of_several_windows_counts():
    shown = decode(make(RAMP, WindowCenter=[2048, 300], WindowWidth=[1024, 100]))
    assert np.array_equal(shown, VOI["window"][1])


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        ("LINEAR_EXACT", lambda x: np.clip((x - 2048) / 1024 + 0.5, 0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 2048) / 1024))),  # PS3.3 C.11.2.1.3.1
    ],
)
def test_other_window_functions(function, formula):
    shown = decode(make(RAMP, **WINDOW, VOILUTFunction=function))
    assert np.abs(shown - formula(RAMP.astype(float)) * 255).max() <= 0.51


def test_an_invalid_window_is_left_out_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        shown = decode(make(RAMP, WindowCenter=2048, WindowWidth=0))
    assert np.array_equal(shown, VOI["none"][1])
    assert "window width" in caplog.text


def test_an_8_bit_lut_with_more_than_256_entries_does_not_wrap():
    table = (np.arange(4096) // 16).astype(np.uint8)
    for packed in (True, False):
        shown = decode(make(RAMP, VOILUTSequence=lut(table, bits=8, packed=packed)))
        assert np.array_equal(shown, table[RAMP])


def test_a_lut_holds_its_ends_beyond_its_range():
    shown = decode(make(RAMP, VOILUTSequence=lut(np.arange(1000), first=1000)))
    assert (shown[RAMP < 1000] == 0).all()
    assert (shown[RAMP >= 2000] == 255).all()


def test_rescale_comes_before_the_window():
    values = RAMP.astype(float) * 2 - 1000
    shown = decode(make(RAMP, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=1000, WindowWidth=2000))
    assert np.abs(shown.astype(int) - windowed(values, 1000, 2000)).max() <= 1


def test_a_negative_slope_inverts_once():
    plain = decode(make(RAMP))
    assert np.array_equal(decode(make(RAMP, RescaleSlope=-1, RescaleIntercept=4095)), 255 - plain)
    both = make(RAMP, RescaleSlope=-1, RescaleIntercept=4095, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(decode(both), plain)


def test_modality_lut_then_voi_lut():
    modality = lut(4095 - np.arange(4096))
    shown = decode(make(RAMP, ModalityLUTSequence=modality, VOILUTSequence=lut(CURVE)))
    assert np.array_equal(shown, np.rint(CURVE[4095 - RAMP] / CURVE.max() * 255).astype(np.uint8))


def test_signed_pixels():
    signed = RAMP.astype(np.int16) - 2048
    assert np.array_equal(decode(make(signed)), VOI["none"][1])
    assert np.array_equal(decode(make(signed, WindowCenter=0, WindowWidth=1024)), VOI["window"][1])


def test_signed_pixels_whose_sign_is_not_extended():
    signed = (RAMP.astype(np.int16) - 2048) & 0x0FFF
    assert np.array_equal(decode(make(signed)), VOI["none"][1])


def test_eight_bit_pixels():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(decode(make(grey, bits=8)), grey)


def test_values_beyond_bits_stored_are_clipped_with_a_warning(caplog):
    high = RAMP.copy()
    high[0, 1] = 60000
    with caplog.at_level(logging.WARNING):
        shown = decode(make(high))
    assert "exceed BitsStored=12" in caplog.text
    assert np.array_equal(np.delete(shown, 1), np.delete(np.rint(RAMP / 4095 * 255).astype(np.uint8), 1))


def test_bits_at_the_top_of_the_word():
    assert np.array_equal(decode(make((RAMP << 4).astype(np.uint16), HighBit=15)), VOI["none"][1])


@pytest.mark.parametrize(
    "padding", [{"PixelPaddingValue": 4095}, {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4095}]
)
def test_padding_does_not_stretch_the_range(padding):
    film = (RAMP // 8).astype(np.uint16)
    padded = film.copy()
    padded[:, :2] = 4095
    shown, plain = decode(make(padded, **padding)), decode(make(film))
    inside = film.max() / padded[:, 2:].max()
    assert np.abs(shown[:, 2:] - plain[:, 2:] * inside).max() <= 4
    assert (shown[:, :2] == 255).all()


def test_suffix_and_preamble(tmp_path):
    data = make(RAMP)
    for name, content in {"film.dcm": data, "film": data, "bare.DCM": data[132:], "IM0001.png": data}.items():
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(decode(tmp_path / name), VOI["none"][1]), name


def jpeg_baseline():
    buffer = io.BytesIO()
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(buffer, "JPEG", quality=98)
    pixels = encapsulate([buffer.getvalue()])
    return make(grey, bits=8, syntax=JPEGBaseline8Bit, PixelData=pixels), grey


def test_compressed_pixels_that_need_no_plug_in():
    data, grey = jpeg_baseline()
    assert np.abs(decode(data).astype(int) - grey).max() <= 4
    dataset = pydicom.dcmread(io.BytesIO(make(RAMP)))
    dataset.compress(RLELossless)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    assert np.array_equal(decode(buffer.getvalue()), VOI["none"][1])


def test_a_missing_decoder_is_named(monkeypatch):
    data = coded_dicom(RAMP, JPEGLosslessSV1, 12)
    assert np.array_equal(decode(data), VOI["none"][1])
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # as where it cannot be imported
    with pytest.raises(ValueError, match=r"'JPEG Lossless.*needs the package imagecodecs.*: pip install imagecodecs"):
        decode(data)


def test_what_is_no_single_grey_film_is_refused():
    with pytest.raises(ValueError, match="2 frames"):
        decode(make(np.vstack([RAMP, RAMP]), Rows=16, NumberOfFrames=2))
    with pytest.raises(ValueError, match=r"colour DICOM \(RGB\)"):
        decode(make(RAMP, PhotometricInterpretation="RGB"))
    with pytest.raises(ValueError, match="32 of 32 bits"):
        decode(make(RAMP.astype(np.uint32), bits=32))
    with pytest.raises(ValueError, match="no BitsStored"):
        decode(make(RAMP, BitsStored=None))
    with pytest.raises(ValueError, match="blank image"):
        decode(make(np.full((16, 16), 7, np.uint16)))
    with pytest.raises(ValueError, match="blank image"):
        decode(make(RAMP, WindowCenter=60000, WindowWidth=10))


def test_a_bare_data_set(tmp_path):
    dataset = pydicom.dcmread(io.BytesIO(make(RAMP, syntax=ImplicitVRLittleEndian)))
    with (tmp_path / "bare.dcm").open("wb") as file:
        pydicom.dcmwrite(file, Dataset(dataset), implicit_vr=True, little_endian=True)
    assert np.array_equal(decode(tmp_path / "bare.dcm"), VOI["none"][1])


def test_a_cut_or_foreign_file_is_refused(tmp_path):
    data = make(RAMP)
    for length in (len(data) - 1, len(data) - 200, len(data) - len(RAMP.tobytes()) - 40):
        with pytest.raises(ValueError, match="truncated|damaged|not an image"):
            decode(data[:length])
    with pytest.raises(ValueError, match="truncated"):
        decode(data[:-200])
    path = tmp_path / "film.dcm"
    for content in (b"\0" * 300, b"plain text, no DICOM at all\n" * 30, b"x"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not an image|damaged"):
            decode(path)
    baseline, _ = jpeg_baseline()
    with pytest.raises(ValueError, match="truncated"):
        decode(baseline[:-150])


def test_too_many_pixels_are_refused(monkeypatch):
    monkeypatch.setattr("models.data.decode_guard.MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="^too large"):
        decode(make(RAMP))
