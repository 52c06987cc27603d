"""Compressed pixels of a DICOM file, to stored values.

In: a parsed data set whose transfer syntax is a compressed one. Out: an array of Rows x Columns, as the decoder gives
it. Called by `models.data.dicom`. What the bytes themselves say they are decides, for files are found whose transfer
syntax names another kind of JPEG; and what they say of their size must be what the data set says, before a decoder sees
them.

Pillow reads 8-bit JPEG and JPEG 2000, imagecodecs (BSD) the rest: JPEG Lossless and 12-bit JPEG by libjpeg-turbo,
JPEG-LS by CharLS, HTJ2K by OpenJPEG, RLE. Other decoders of JPEG Lossless do not stand damaged files: of some thousand
with a few changed bytes, python-gdcm and two others of imagecodecs (liblj92, jpegsof3) end the whole process, and
pylibjpeg-libjpeg (GPL-3, besides) does not come to an end; nor does OpenJPH with HTJ2K.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from models.data.decode_guard import DecodeError, require_scans

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DAMAGED = "damaged DICOM pixels"
RLE = "1.2.840.10008.1.2.5"
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
READ = (
    RLE,
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81)),  # JPEG, JPEG Lossless, JPEG-LS
    *JPEG_2000,
    *(f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)),  # HTJ2K
)
SPARE = 1024  # bytes beyond an RLE segment's due, for padding
# ITU-T T.81, table B.1: frame headers, without those of arithmetic coding and of differential frames
_FRAMES = {0xC0: "jpeg", 0xC1: "jpeg", 0xC2: "jpeg", 0xC3: "lossless", 0xF7: "jpeg_ls"}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


@dataclass(frozen=True, kw_only=True)
class CodedImage:
    """What the compressed bytes say of themselves."""

    kind: str  # jpeg, lossless, jpeg_ls, jpeg_2000
    height: int
    width: int
    components: int
    bits: int


def decode_compressed(dataset: "Dataset") -> np.ndarray:
    """Rows x Columns. DecodeError with the reason when it cannot be read, or nothing here can read it."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in READ:
        raise DecodeError(
            f"DICOM compression {syntax.name!r} is not supported; store the film uncompressed (gdcmconv --raw)"
        )
    data = _frame(dataset)
    if syntax == RLE:
        return _decode_rle(data, dataset)
    coded = read_header(data)
    if (coded.height, coded.width) != (dataset.Rows, dataset.Columns) or coded.components != 1:
        raise DecodeError(DAMAGED)
    if not 1 <= coded.bits <= 16:
        raise DecodeError(f"{coded.bits} bits per DICOM pixel; up to 16 are read")
    if coded.kind != "jpeg_2000":
        if b"\xff\xd9" not in data[-64:]:  # the end marker: libjpeg makes up what is missing
            raise DecodeError("truncated")
        require_scans(data)
    if coded.kind == "jpeg_2000" and syntax in JPEG_2000:
        from pydicom.pixels import pixel_array

        return pixel_array(dataset, correct_unused_bits=False, decoding_plugin="pillow")
    image = _decode_jpeg(data) if coded.kind == "jpeg" and coded.bits == 8 else _codec(coded.kind, syntax.name)(data)
    if image.shape != (coded.height, coded.width):
        raise DecodeError(DAMAGED)
    return image


def read_header(data: bytes) -> CodedImage:
    """Size and depth from the frame header of a JPEG or JPEG-LS (T.81, B.2.2) or the SIZ of a JPEG 2000 (T.800, A.5.1).

    DecodeError where there is none.
    """
    if data.startswith(b"\xff\xd8"):
        return _read_frame_header(data)
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # within the boxes of a JP2 file, which some write
    if at < 0 or len(data) < at + 43:
        raise DecodeError(DAMAGED)
    x1, y1, x0, y0 = struct.unpack_from(">4I", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    depth = 1 + (data[at + 42] & 0x7F)  # the top bit is the sign
    return CodedImage(kind="jpeg_2000", height=y1 - y0, width=x1 - x0, components=components, bits=depth)


def _read_frame_header(data: bytes) -> CodedImage:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _FRAMES and at + 10 <= len(data):
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return CodedImage(kind=_FRAMES[marker], height=height, width=width, components=components, bits=bits)
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise DecodeError(DAMAGED)


def _frame(dataset: "Dataset") -> bytes:
    """The bytes of the one frame, whatever number of fragments they lie in."""
    from pydicom.encaps import get_frame

    order = "<" if dataset.original_encoding[1] is not False else ">"
    return get_frame(dataset.PixelData, 0, number_of_frames=1, endianness=order)


def _decode_jpeg(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(image)


def _codec(kind: str, name: str) -> Callable[[bytes], np.ndarray]:
    codecs = _imagecodecs(name)
    return {"jpeg_ls": codecs.jpegls_decode, "jpeg_2000": codecs.jpeg2k_decode}.get(kind, codecs.jpeg8_decode)


def _imagecodecs(name: str) -> Any:
    """Imported where it is needed: films in PNG, JPEG and uncompressed DICOM do without."""
    try:
        import imagecodecs
    except ImportError as error:
        raise DecodeError(
            f"DICOM compression {name!r} needs the package imagecodecs, which is not installed: pip install imagecodecs"
        ) from error
    return imagecodecs


def _decode_rle(data: bytes, dataset: "Dataset") -> np.ndarray:
    """PS3.5, annex G: a segment of packed bytes for each byte of the pixel, the highest first."""
    pixels, width = dataset.Rows * dataset.Columns, dataset.BitsAllocated // 8
    count, *offsets = struct.unpack_from("<16I", data)
    if count != width:
        raise DecodeError(DAMAGED)
    unpack = _imagecodecs("RLE Lossless").packbits_decode
    planes = []
    for start, end in zip(offsets[:count], [*offsets[1:count], len(data)], strict=True):
        plane = np.frombuffer(unpack(data[start:end], out=bytearray(pixels + SPARE)), np.uint8)
        if len(plane) < pixels:
            raise DecodeError("truncated")
        planes.append(plane[:pixels])
    stored = planes[0] if width == 1 else planes[0].astype(np.uint16) << 8 | planes[1]
    return stored.reshape(dataset.Rows, dataset.Columns)
