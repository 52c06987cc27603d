"""models/data/dicom_codecs.py: every compression that archives send, in 8, 12 and 16 bits, to the very pixels."""

import io
import shutil
import subprocess

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from models.data.images import decode, try_load_image
from tests.coded_films import CODERS, PLAIN, coded_dicom, make

WINDOWS = {bits: {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits} for bits in (8, 10, 12, 16)}


def film(bits, height=40, width=56):
    """Structure and noise over all of the range, with no symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    grey = 0.5 + 0.3 * np.sin(x / 9) * np.cos(y / 7) + 0.15 * x / width
    grey += np.random.default_rng(0).normal(0, 0.02, grey.shape)
    return np.clip(grey * (2**bits - 1), 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [*PLAIN[1:], *CODERS], ids=lambda syntax: syntax.keyword)
def test_every_lossless_syntax_gives_the_film_of_the_uncompressed(syntax, bits):
    stored = film(bits)
    plain = decode(coded_dicom(stored, ExplicitVRLittleEndian, bits, **WINDOWS[bits]))
    assert len(np.unique(plain)) > 150
    assert np.array_equal(decode(coded_dicom(stored, syntax, bits, **WINDOWS[bits])), plain)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, RLELossless], ids=lambda syntax: syntax.keyword)
def test_signed_pixels(syntax):
    signed = film(12).astype(np.int16) - 2048
    window = {"WindowCenter": 0, "WindowWidth": 4096}
    coded = make(signed, syntax=syntax, PixelData=encapsulate([CODERS[syntax](signed.view(np.uint16) & 0xFFF, 12)]))
    assert np.array_equal(decode(coded), decode(make(signed)))
    assert np.abs(decode(make(signed, **window)) - (film(12) / 4095 * 255)).max() <= 1


@pytest.mark.parametrize("bits", [8, 12])
def test_jpeg_extended(bits):
    stored = film(bits)
    pixels = encapsulate([imagecodecs.jpeg8_encode(stored, level=98, bitspersample=bits)])
    coded = make(stored, bits=bits, syntax=JPEGExtended12Bit, PixelData=pixels, **WINDOWS[bits])
    plain = decode(make(stored, bits=bits, **WINDOWS[bits]))
    assert 0 < np.abs(decode(coded).astype(int) - plain).max() <= 6


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_near_lossless_jpeg_ls(bits):
    stored = film(bits)
    pixels = encapsulate([imagecodecs.jpegls_encode(stored, level=2)])
    coded = make(stored, bits=bits, syntax="1.2.840.10008.1.2.4.81", PixelData=pixels, **WINDOWS[bits])
    assert np.abs(decode(coded).astype(int) - decode(make(stored, bits=bits, **WINDOWS[bits]))).max() <= 1


def test_what_the_bytes_are_decides_and_not_what_they_are_called():
    """Archives are found that leave the old syntax where they have compressed anew."""
    stored = film(12)
    for syntax in (JPEGLSLossless, JPEGBaseline8Bit, JPEGLossless):
        coded = make(stored, syntax=syntax, PixelData=encapsulate([CODERS[JPEGLosslessSV1](stored, 12)]))
        assert np.array_equal(decode(coded), decode(make(stored)))


def test_pixels_in_several_fragments():
    stored = film(12)
    data = CODERS[JPEGLosslessSV1](stored, 12)
    pixels = encapsulate([data], fragments_per_frame=3)
    assert np.array_equal(decode(make(stored, syntax=JPEGLosslessSV1, PixelData=pixels)), decode(make(stored)))


@pytest.mark.parametrize("syntax", CODERS, ids=lambda syntax: syntax.keyword)
def test_a_size_other_than_the_data_sets_is_refused_before_it_is_decoded(syntax):
    """As of a file made to fill the memory: a few bytes that say they are 60,000 x 60,000 pixels."""
    small = coded_dicom(film(12), syntax, 12)
    for rows, columns in ((41, 56), (40, 55), (20, 112)):
        dataset = pydicom.dcmread(io.BytesIO(small))
        dataset.Rows, dataset.Columns = rows, columns
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        if syntax == RLELossless and rows * columns <= 40 * 56:
            continue  # such pixels have no size of their own
        with pytest.raises(ValueError, match=r"^(damaged DICOM pixels|truncated)$"):
            decode(buffer.getvalue())


@pytest.mark.parametrize("syntax", CODERS, ids=lambda syntax: syntax.keyword)
def test_a_cut_frame_is_refused(syntax):
    stored = film(12)
    data = CODERS[syntax](stored, 12)
    for length in (len(data) // 3, len(data) // 2, len(data) - 300):
        coded = make(stored, syntax=syntax, PixelData=encapsulate([data[:length]]))
        with pytest.raises(ValueError, match=r"^(damaged DICOM pixels|truncated)$"):
            decode(coded)


def test_packed_bytes_without_end_are_refused():
    """128 bytes out of two: an RLE frame of 2 MB would be 128 MB, of a film of 40 x 56 pixels."""
    header = np.zeros(16, "<u4")
    header[:2] = [1, 64]
    bomb = header.tobytes() + b"\x81\x01" * 2**20
    with pytest.raises(ValueError, match=r"^damaged DICOM pixels$"):
        decode(make(film(8), bits=8, syntax=RLELossless, PixelData=encapsulate([bomb])))


def test_a_compression_that_no_film_has_is_told_with_what_to_do():
    with pytest.raises(ValueError, match=r"'MPEG2 .*' is not supported; store the film uncompressed"):
        decode(make(film(8), bits=8, syntax=MPEG2MPML, PixelData=encapsulate([b"\0\0\1\xba" * 10])))


def test_colour_is_refused():
    stored = film(8)
    colour = encapsulate([imagecodecs.jpeg8_encode(np.dstack([stored] * 3))])
    with pytest.raises(ValueError, match=r"^damaged DICOM pixels$"):
        decode(make(stored, bits=8, syntax=JPEGBaseline8Bit, PixelData=colour))


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
    ],
)
def test_files_that_others_have_made(name, original):
    """Those that come with pydicom, written by other encoders."""
    path, other = (get_testdata_file(one, download=False) for one in (name, original))
    assert np.array_equal(decode(path), decode(other))


@pytest.mark.parametrize(
    ("name", "greys"), [("JPEGLSNearLossless_08.dcm", 7), ("JPEGLSNearLossless_16.dcm", 7), ("JPEG-lossy.dcm", 80)]
)
def test_lossy_files_that_others_have_made(name, greys):
    """JPEG-lossy.dcm is JPEG Extended of 12 bits; the other two are bars."""
    assert len(np.unique(decode(get_testdata_file(name, download=False)))) >= greys


DCMTK = [
    *(("dcmcjpeg", "+el", "+sv", str(predictor)) for predictor in range(1, 8)),
    ("dcmcjpeg", "+e1"),
    ("dcmcjpls",),
    ("dcmcrle",),
]


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("words", DCMTK, ids=" ".join)
def test_what_dcmtk_writes(tmp_path, words, bits):
    if not shutil.which(words[0]):
        pytest.skip(f"no {words[0]} (apt-get install dcmtk)")
    plain, coded = tmp_path / "plain.dcm", tmp_path / "coded.dcm"
    plain.write_bytes(make(film(bits), bits=bits))
    subprocess.run([*words, plain, coded], check=True, timeout=60)
    assert np.array_equal(decode(coded), decode(plain))


def test_damaged_htj2k_and_jpeg_2000_come_to_an_end():
    stored = film(12)
    for syntax in (HTJ2KLossless, JPEG2000Lossless):
        data = bytearray(CODERS[syntax](stored, 12))
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        found = try_load_image(make(stored, syntax=syntax, PixelData=encapsulate([bytes(data)])), 32)
        assert isinstance(found, np.ndarray) or found == "damaged DICOM pixels"
