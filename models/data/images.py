"""From an image to the pixels that a network sees: 8-bit grey, bright where the film is bright, letterboxed.

In: a path or the bytes of a PNG, JPEG or DICOM file; an array; a pydicom data set. Out: uint8 arrays. Called by
`orchestrator.datasets.prepare` and `predict`, so that training and use see the same pixels; the intensity contract says
in words what is done and is stored in every data set and bundle. An image that cannot be used is a DecodeError whose
text is the reason, fit for a table.
"""

import logging
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from models.data.decode_guard import (
    MAX_PIXELS,
    BoundedReads,
    DecodeError,
    guarded,
    quieten,
    require_bytes,
    require_pixels,
    require_scans,
)
from models.data.dicom import decode_dataset, decode_dicom, is_dicom
from models.data.intensity import NEWEST, shown_range
from pathologies.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)

_SIGNATURES = {"PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff"}
_ORIENTATION_TAG = 0x0112
# EXIF 2.32, tag 0x0112: what turns the stored picture into the one that is meant.
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: Path | str | bytes, size: int, version: int = NEWEST) -> np.ndarray:
    """Decode and letterbox: uint8, size x size. DecodeError with the reason when the image cannot be used."""
    return letterbox(decode(source, version), size)


def try_load_image(source: Path | str | bytes, size: int, version: int = NEWEST) -> np.ndarray | str:
    """As `load_image`, or why there is none: for many files in a row, of which none may end the others' work.

    Want of memory is passed on.
    """
    try:
        return load_image(source, size, version)
    except InputError as error:
        return str(error)
    except MemoryError:
        raise
    except Exception as error:
        log.exception("%s: a defect of hilum, not of the file; please report it", source)
        return f"a defect of hilum ({type(error).__name__}: {str(error)[:200]})"


def decode(source: Path | str | bytes, version: int = NEWEST) -> np.ndarray:
    """The film as uint8, height x width, by a version of the intensity contract. DecodeError when it cannot be used.

    The kind of file is told by its first bytes; a name ending in .dcm or .dicom also opens DICOM without a preamble.
    """
    with guarded("damaged"):
        named_dicom = not isinstance(source, bytes) and Path(source).suffix.lower() in (".dcm", ".dicom")
        image = _decode_bytes(source if isinstance(source, bytes) else _read(Path(source)), named_dicom, version)
        return _not_blank(image)


def _decode_bytes(data: bytes, named_dicom: bool, version: int) -> np.ndarray:
    if not data:
        raise DecodeError("empty")
    require_bytes(len(data))
    picture = next((name for name, signature in _SIGNATURES.items() if data.startswith(signature)), None)
    if is_dicom(data) or (named_dicom and not picture):
        return decode_dicom(data, version)
    if picture:
        return _decode_picture(data, picture, version)
    if any(signature.startswith(data) for signature in _SIGNATURES.values()):
        raise DecodeError("truncated")
    raise DecodeError("not an image (PNG, JPEG or DICOM)")


def film_of_array(values: np.ndarray, size: int, version: int = NEWEST) -> np.ndarray:
    """A film that is in memory, letterboxed: uint8, size x size. Errors: DecodeError, for another array than these.

    values: height x width, bright where the film is bright. uint8 is what is shown, 0 black to 255 white; other
    integers have no grey scale of their own and are treated as a 16-bit PNG is; floats are shares of white from 0 to 1.
    """
    if values.ndim != 2 or not values.size:
        raise DecodeError(f"an array of shape {values.shape}; a film is height x width")
    if values.dtype == np.uint8:
        shown = values
    elif values.dtype.kind in "iu":
        shown = _stretch(values, version)
    elif values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise DecodeError(
                f"floats from {low:g} to {high:g}; floats are shares of white from 0 to 1. Divide them by their full "
                "scale, or give integers"
            )
        shown = np.rint(values * 255).astype(np.uint8)
    else:
        raise DecodeError(f"an array of {values.dtype}; uint8, other integers, or floats from 0 to 1 are read")
    return letterbox(_not_blank(shown), size)


def film_of_dicom(dataset: "Dataset", size: int, version: int = NEWEST) -> np.ndarray:
    """A film of a pydicom data set, letterboxed: uint8, size x size, the same as of its file. Errors: DecodeError."""
    return letterbox(_not_blank(decode_dataset(dataset, version)), size)


def _not_blank(image: np.ndarray) -> np.ndarray:
    if image.min() == image.max():
        raise DecodeError("blank image")
    return image


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """`image` (uint8, height x width) scaled to fit size x size, its aspect kept, centred on black."""
    if image.dtype != np.uint8 or image.ndim != 2:
        raise ValueError(f"Cannot letterbox {image.dtype} of shape {image.shape}: uint8, height x width, is expected.")
    height, width = image.shape
    if (height, width) == (size, size):
        return image
    scale = size / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    top, left = (size - height) // 2, (size - width) // 2
    box = np.zeros((size, size), np.uint8)
    box[top : top + height, left : left + width] = np.asarray(resized)
    return box


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DecodeError("a folder, not a file")
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device, which may give bytes for ever
            raise DecodeError("not a file")
        require_bytes(status.st_size)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DecodeError("missing") from error
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from error


def _decode_picture(data: bytes, picture: str, version: int) -> np.ndarray:
    quieten("PIL")
    with guarded("damaged" if _has_end(data, picture) else "truncated"):
        if picture == "JPEG":
            require_scans(data)
        try:
            with Image.open(BoundedReads(data), formats=[picture]) as image:
                require_pixels(image.width * image.height)
                image.load()
                return _to_grey(_upright(image), version)
        except Image.DecompressionBombError:  # Pillow's own limit, far above ours
            require_pixels(MAX_PIXELS + 1)
            raise


def _has_end(data: bytes, picture: str) -> bool:
    """Whether the format's own end marker is there: a PNG's last chunk, a JPEG's EOI."""
    return b"IEND" in data[-64:] if picture == "PNG" else b"\xff\xd9" in data[-64:]


def _upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation says; as stored where the EXIF block is absent or broken."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        orientation = 1
    method = _ORIENTATIONS.get(orientation)
    return image if method is None else image.transpose(method)


def _to_grey(image: Image.Image, version: int) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _stretch(np.asarray(image), version)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _stretch(values: np.ndarray, version: int) -> np.ndarray:
    """16-bit values to 0..255. What the full scale is, 10, 12 or 16 bits, such files do not say."""
    low, high = shown_range(values, version)
    scaled = values.astype(np.float32)
    scaled -= low
    scaled *= 255.0 / max(high - low, 1.0)
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)
