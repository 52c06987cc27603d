"""models/data/decode_guard.py: whatever the bytes are, the answer is a film or a sentence, soon, and without noise."""

import logging
import os
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit

from models.data import images
from models.data.decode_guard import BoundedReads, DecodeError, guarded
from models.data.dicom import read_tags
from models.data.images import decode, try_load_image
from pathologies.errors import InputError
from tests.coded_films import coded_dicom, make
from tests.damage import damaged, small_film, unknown_type, whole_files

FAST, ALL = 300, 10_000
SLOWEST = 5.0  # seconds for a small film


def answers(files, count):
    """How many of `count` broken files gave a film, by name; fails at the first without a film or a sentence."""
    names = sorted(files)
    films = dict.fromkeys(names, 0)
    for seed in range(count):
        name = names[seed % len(names)]
        broken = damaged(files[name], seed)
        started, reason = time.thread_time(), None
        try:
            film = decode(broken)
        except InputError as error:
            reason = str(error)
        except BaseException as error:
            pytest.fail(f"{name}, seed {seed}: {type(error).__name__}: {error}")
        if reason is None:
            assert film.dtype == np.uint8, (name, seed)
            assert film.ndim == 2, (name, seed)
            films[name] += 1
        else:
            assert 0 < len(reason) < 300, (name, seed)
        assert time.thread_time() - started < SLOWEST, (name, seed)
    return films


@pytest.fixture(autouse=True)
def _every_warning_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_no_broken_file_escapes():
    films = answers(whole_files(), FAST)
    assert 0 < sum(films.values()) < FAST


@pytest.mark.slow
def test_none_of_ten_thousand_broken_files_escapes(capfd):
    films = answers(whole_files(), ALL)
    assert all(films.values()), "not every form was also broken so little that it is still read"
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["nih-sample", "hannover"])
def test_no_broken_real_film_escapes(real_data, place):
    paths = sorted((real_data / place / "images").iterdir())[:20]
    assert sum(answers({path.name: path.read_bytes() for path in paths}, 2000).values()) > 0


def test_a_value_that_is_parsed_when_it_is_asked_for():
    """pydicom converts an element at its first use: a type that it does not know was raised past the border."""
    broken = unknown_type(make(small_film().astype(np.uint16), bits=12))
    for vr in (b"ZZ", b"SQ", b"AT", b"\0\0"):
        with pytest.raises(DecodeError):
            decode(broken.replace(b"ZZ", vr))


def test_warnings_are_neither_errors_nor_noise(capfd, caplog):
    film = small_film()
    data = make(film.astype(np.uint16) * 16, bits=12, WindowCenter=2048, WindowWidth=4096)
    at = data.index(b"\x08\x00\x60\x00CS") + 8  # Modality, not a code string any more
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        odd = decode(data[:at] + b"d\x01" + data[at + 2 :])
        assert np.array_equal(odd, decode(data))
        with pytest.raises(DecodeError):
            decode(coded_dicom(film, "1.2.840.10008.1.2.4.70", 8)[:-150])
    assert not seen
    assert not [record for record in caplog.records if record.name.startswith(("pydicom", "PIL"))]
    assert capfd.readouterr().err == ""


def test_only_decoding_is_quiet():
    with guarded("x"):
        warnings.warn("said within", stacklevel=1)
    with pytest.raises(UserWarning, match="said after"):
        warnings.warn("said after", stacklevel=1)
    said = []
    with guarded("x"):

        def other():
            with pytest.raises(UserWarning, match="of another thread"):
                warnings.warn("of another thread", stacklevel=1)
            said.append(True)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert said == [True]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
def test_what_says_nothing_about_the_file_is_passed_on(error, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(images, "_decode_picture", fail)
    monkeypatch.setattr(images, "decode_dicom", fail)
    for name in ("grey.png", "table.dcm"):
        with pytest.raises(error):
            decode(whole_files()[name])
        with pytest.raises(error):
            try_load_image(whole_files()[name], 16)


def test_a_defect_of_ours_in_one_film_is_a_reason_and_is_logged(monkeypatch, caplog):
    def fail(image, size):
        raise TypeError("a slip")

    monkeypatch.setattr(images, "letterbox", fail)
    with caplog.at_level(logging.ERROR):
        assert try_load_image(whole_files()["grey.png"], 16) == "a defect of hilum (TypeError: a slip)"
    assert "Traceback" in caplog.text


def png(*chunks, end=True):
    made = b"\x89PNG\r\n\x1a\n"
    for kind, content in [*chunks, *([(b"IEND", b"")] if end else [])]:
        made += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return made


def test_pictures_that_say_they_are_huge():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    with pytest.raises(DecodeError, match="^too large"):
        decode(png((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000)))))
    jpeg = whole_files()["grey.jpg"]
    at = jpeg.index(b"\xff\xc0") + 5
    with pytest.raises(DecodeError, match="^too large"):
        decode(jpeg[:at] + b"\xff\xff\xff\xff" + jpeg[at + 4 :])


def test_a_dicom_that_says_it_is_huge():
    film = small_film().astype(np.uint16)
    for rows, columns, reason in ((65535, 65535, "too large"), (5000, 5000, "truncated"), (0, 32, "no rows")):
        with pytest.raises(DecodeError, match=reason):
            decode(make(film, bits=12, Rows=rows, Columns=columns))


def test_a_jpeg_of_thousands_of_scans(tmp_path):
    """A few bytes each, and a pass over all pixels: of a film of 60 million pixels, minutes."""
    jpeg = whole_files()["steps.jpg"]
    last = jpeg.rindex(b"\xff\xda")
    bomb = jpeg[:last] + jpeg[last:-2] * 5000 + jpeg[-2:]
    with pytest.raises(DecodeError, match="scans"):
        decode(bomb)
    with pytest.raises(DecodeError, match="scans"):
        decode(make(small_film(), bits=8, syntax=JPEGBaseline8Bit, PixelData=encapsulate([bomb.replace(
            jpeg[: jpeg.index(b"\xff\xda")], whole_files()["grey.jpg"][: whole_files()["grey.jpg"].index(b"\xff\xda")]
        )])))  # fmt: skip


def test_deflated_zeros_without_end(monkeypatch):
    film = small_film().astype(np.uint16)
    whole = coded_dicom(film, DeflatedExplicitVRLittleEndian, 12)
    assert np.array_equal(decode(whole), decode(make(film, bits=12)))
    monkeypatch.setattr("models.data.decode_guard.MAX_BYTES", 10**6)
    start = 132 + 12 + struct.unpack_from("<I", whole, 140)[0]
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(10**7)) + packer.flush()
    with pytest.raises(DecodeError, match="^too large"):
        decode(whole[:start] + bomb)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "film.dcm"
    with path.open("wb") as stream:
        stream.truncate(2**40)  # a terabyte with nothing in it
    with pytest.raises(DecodeError, match="^too large"):
        decode(path)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "film.png")
    with pytest.raises(DecodeError, match="^not a file"):
        decode(tmp_path / "film.png")
    with pytest.raises(DecodeError):
        decode("film\0.png")


def test_a_file_of_tiny_parts(monkeypatch):
    monkeypatch.setattr("models.data.decode_guard.MAX_READS", 5000)
    data = make(small_film().astype(np.uint16), bits=12)
    at = data.index(b"\x28\x00\x02\x00US")
    empty = b"".join(struct.pack("<HH2sH", 0x09, 0x1000 + number, b"LO", 0) for number in range(6000))
    with pytest.raises(DecodeError, match="too many parts"):
        decode(data[:at] + empty + data[at:])
    ihdr = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    with pytest.raises(DecodeError, match="too many parts"):
        decode(png((b"IHDR", ihdr), *[(b"tIME", bytes(7))] * 6000))
    assert all(isinstance(decode(whole), np.ndarray) for whole in whole_files().values())


@pytest.mark.parametrize("defined", [True, False])
def test_sequences_within_sequences_beyond_any_depth(defined):
    data = make(small_film().astype(np.uint16), bits=12)
    at = data.index(b"\x28\x00\x02\x00US")
    inner, depth = b"", 20_000
    if defined:
        parts = []
        for number in range(depth):
            parts.append(struct.pack("<HH2sHIHHI", 0x28, 0x3010, b"SQ", 0, 20 * (depth - number) - 12,
                                     0xFFFE, 0xE000, 20 * (depth - number - 1)))  # fmt: skip
        inner = b"".join(parts)
    else:
        inner = struct.pack("<HH2sHIHHI", 0x28, 0x3010, b"SQ", 0, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1) * depth
    started = time.thread_time()
    with pytest.raises(DecodeError):
        decode(data[:at] + inner + data[at:])
    assert time.thread_time() - started < SLOWEST


def test_values_as_long_as_a_film():
    film = small_film().astype(np.uint16)
    for name, value in (("WindowCenter", b"1\\" * 10**6), ("VOILUTFunction", b"A" * 10**6)):
        data = make(film, bits=12, **{name: 1 if name == "WindowCenter" else "LINEAR"})
        tag = {"WindowCenter": b"\x28\x00\x50\x10", "VOILUTFunction": b"\x28\x00\x56\x10"}[name]
        at = data.index(tag)
        old = 8 + struct.unpack_from("<H", data, at + 6)[0]
        long = tag + b"UN\0\0" + struct.pack("<I", len(value)) + value
        with pytest.raises(DecodeError, match=f"{name} of 2?[01]00000"):
            decode(data[:at] + long + data[at + old :])


def test_numbers_that_are_none():
    film = small_film().astype(np.uint16)
    for name in ("RescaleSlope", "RescaleIntercept"):
        data = make(film, bits=12, **{name: "1.0001"})
        for text in (b"1e999 ", b"-1e999", b"nan   "):
            with pytest.raises(DecodeError, match=f"no number as {name}"):
                decode(data.replace(b"1.0001", text))
    window = make(film, bits=12, WindowCenter=100, WindowWidth="1.0001")
    assert np.array_equal(decode(window.replace(b"1.0001", b"nan   ")), decode(make(film, bits=12)))


def test_tags_of_broken_files_are_read_or_refused(tmp_path):
    from pydicom.uid import ExplicitVRLittleEndian

    path, whole = tmp_path / "film.dcm", {}
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        whole[syntax] = coded_dicom(small_film().astype(np.uint16), syntax, 12, PatientID="17", StudyInstanceUID="1.2")
        path.write_bytes(whole[syntax])
        assert read_tags(path, ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")) == ["17", "", "1.2"]
    for seed in range(150):
        path.write_bytes(damaged(whole[ExplicitVRLittleEndian], seed))
        try:
            assert len(read_tags(path, ("PatientID", "Rows"))) == 2
        except DecodeError:
            continue


def test_reads_are_counted():
    stream = BoundedReads(b"abc")
    assert [stream.read(1), stream.read(2), stream.reads] == [b"a", b"bc", 2]


def test_the_threads_of_a_pool_decode_beside_one_another():
    from concurrent.futures import ThreadPoolExecutor

    files = whole_files()
    expected = {name: decode(data) for name, data in files.items()}
    with ThreadPoolExecutor(4) as pool:
        for name, film in zip(list(files) * 5, pool.map(decode, list(files.values()) * 5), strict=True):
            assert np.array_equal(film, expected[name])
