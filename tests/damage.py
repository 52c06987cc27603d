"""Files broken at random, from a seed: bytes anywhere and in the header, cuts, insertions, and a DICOM's elements."""

import io
import random
import struct
from functools import cache

import numpy as np
from PIL import Image

from tests.coded_films import CODERS, PLAIN, coded_dicom, make

LONG = {b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN", b"OD", b"OL", b"UC", b"UR"}
VRS = [b"US", b"SS", b"UL", b"FD", b"DS", b"IS", b"CS", b"UI", b"AT", b"PN", b"TM", b"ZZ", b"\0\0", *LONG]
NUMBERS = [0, 1, 2, 7, 8, 15, 16, 31, 255, 256, 32767, 32768, 65534, 65535, 2**31 - 1, 2**31, 2**32 - 1]


def small_film(height=24, width=32):
    y, x = np.mgrid[0:height, 0:width]
    grey = 5 + 245 * (0.7 * x / (width - 1) + 0.3 * y / (height - 1))
    return np.clip(grey + np.random.default_rng(0).normal(0, 4, grey.shape), 0, 255).astype(np.uint8)


@cache
def whole_files() -> dict[str, bytes]:
    """A small film in every form: {name: bytes}."""
    film = small_film()
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "grey.png": (film, {}),
        "deep.png": (film.astype(np.uint16) * 16, {}),
        "colour.png": (np.dstack([film] * 3), {"exif": exif}),
        "grey.jpg": (film, {}),
        "steps.jpg": (np.dstack([film] * 3), {"progressive": True, "exif": exif}),
    }
    files = {}
    for name, (pixels, options) in pictures.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG" if name.endswith("png") else "JPEG", **options)
        files[name] = buffer.getvalue()
    deep = film.astype(np.uint16) * 16
    window = {"WindowCenter": [2048, 100], "WindowWidth": [4096, 50], "RescaleSlope": 1, "RescaleIntercept": 0}
    for syntax in (*PLAIN, *CODERS):
        files[f"{syntax.keyword}.dcm"] = coded_dicom(deep, syntax, 12, **window)
    files["table.dcm"] = make(deep.astype(np.int16) - 2048, VOILUTSequence=_table(), PixelPaddingValue=-2000)
    return files


def _table():
    from pydicom.dataset import Dataset

    item = Dataset()
    item.LUTDescriptor = [256, 0, 16]
    item.LUTData = np.arange(256, dtype="<u2").tobytes()
    item["LUTData"].VR = "OW"
    return [item]


def unknown_type(data: bytes) -> bytes:
    """A DICOM of which pydicom notices only when it is asked for BitsAllocated that this has no type that it knows."""
    at = data.index(b"\x28\x00\x00\x01US") + 4
    return data[:at] + b"ZZ" + data[at + 2 :]


def damaged(data: bytes, seed: int) -> bytes:
    """One way of breaking `data`, drawn from `seed`."""
    draw = random.Random(seed)
    if data[128:132] == b"DICM" and draw.random() < 0.6:
        return _damaged_elements(data, draw)
    return _damaged_bytes(data, draw, 256)


def _damaged_bytes(data: bytes, draw: random.Random, head: int) -> bytes:
    broken = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        end = len(broken) if draw.random() < 0.5 else min(len(broken), head)
        at = draw.randrange(max(1, end))
        way = draw.randrange(6)
        if way == 0:
            broken[at : at + 1] = bytes([draw.randrange(256)])
        elif way == 1 and at < len(broken):
            broken[at] ^= 1 << draw.randrange(8)
        elif way == 2:
            del broken[at : at + draw.choice([1, 2, 8, 200])]
        elif way == 3:
            broken[at:at] = draw.randbytes(draw.choice([1, 2, 8, 200]))
        elif way == 4:
            number = struct.pack(draw.choice(["<I", ">I"]), draw.choice(NUMBERS))
            broken[at : at + 4] = number
        else:
            del broken[at if draw.random() < 0.2 else len(broken) - at % 64 :]
    return bytes(broken)


def elements(data: bytes) -> list[tuple[int, int, int]]:
    """(start, where its value starts, end) of the elements of an explicit little endian file, as far as they go."""
    found, at = [], 132
    while at + 8 <= len(data):
        vr = data[at + 4 : at + 6]
        if vr in LONG:
            value, length = at + 12, struct.unpack_from("<I", data, at + 8)[0] if at + 12 <= len(data) else 0
        else:
            value, length = at + 8, struct.unpack_from("<H", data, at + 6)[0]
        end = len(data) if length == 0xFFFFFFFF else min(len(data), value + length)
        found.append((at, value, end))
        at = end
    return found


def _damaged_elements(data: bytes, draw: random.Random) -> bytes:
    """Tags, value representations, lengths and values; elements left out, doubled, moved and put into themselves."""
    broken = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 3])):
        start, value, end = draw.choice(elements(bytes(broken)) or [(0, 0, 0)])
        way = draw.randrange(9)
        if way == 0:
            broken[start : start + 4] = struct.pack(
                "<HH", draw.choice([0x28, 0x7FE0, 2, 0x6000]), draw.randrange(0x120)
            )
        elif way == 1:
            broken[start + 4 : start + 6] = draw.choice(VRS)
        elif way == 2:
            long = value - start == 12
            size = struct.pack("<I" if long else "<H", draw.choice(NUMBERS) & (0xFFFFFFFF if long else 0xFFFF))
            broken[value - len(size) : value] = size
        elif way == 3:
            broken[value:end] = draw.randbytes(min(end - value, 64)).ljust(end - value, b"\0")
        elif way == 4:
            number = struct.pack("<H", draw.choice(NUMBERS) & 0xFFFF)
            broken[value : value + 2] = number
        elif way == 5:
            del broken[start:end]
        elif way == 6:
            broken[start:start] = broken[start:end] * draw.choice([1, 2, 50])
        elif way == 7:
            text = draw.choice([b"-1", b"1e999", b"nan", b"\\" * 200, b"\xff\xfe\xfd", b"9" * 60, b"", b"MONOCHROME3"])
            broken[value:end] = text.ljust(end - value, b" ")[: end - value]
        else:
            element = bytes(broken[start:end])[:300]
            for _ in range(draw.choice([1, 3, 400])):  # sequences within sequences
                item = struct.pack("<HHI", 0xFFFE, 0xE000, len(element) & 0xFFFFFFFF) + element
                element = struct.pack("<HH2sHI", 0x28, 0x3010, b"SQ", 0, len(item)) + item
            broken[start:start] = element
    return bytes(broken)
