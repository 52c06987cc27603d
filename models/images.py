"""From an image file to the pixels that a network sees: 8-bit grey, bright where the film is bright, letterboxed.

In: a path or the bytes of a PNG, JPEG or DICOM file. Out: uint8 arrays. Called by `orchestrator.prepare`, `predict` and
`serve`, so that training and use see the same pixels; `INTENSITY_CONTRACT` says in words what is done and is stored in
every data set and bundle. An image that cannot be used is an InputError whose text is the reason, fit for a table.
"""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from models.dicom import decode_dicom, is_dicom
from pathologies.errors import InputError

INTENSITY_CONTRACT = {
    "version": 1,
    "eight_bit": "as stored; colour and palette to luma (ITU-R 601); alpha ignored; EXIF orientation applied",
    "sixteen_bit": "linear, from the file's own minimum..maximum to 0..255",
    "dicom": "modality LUT, then VOI LUT or first window (else minimum..maximum without padding), then inverted for "
    "MONOCHROME1 or PresentationLUTShape INVERSE, then 0..255",
    "blank": "an image of one value is rejected",
    "letterbox": "aspect kept, centred, black border",
    "resampling": "Lanczos with antialiasing (Pillow)",
}
# A 14 x 17 inch film digitised at 100 micrometres has 15 million pixels; far above, a file is a mistake or an attack.
MAX_PIXELS = 64_000_000
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


def load_image(source: Path | str | bytes, size: int) -> np.ndarray:
    """Decode and letterbox: uint8, size x size. InputError with the reason when the image cannot be used."""
    return letterbox(decode(source), size)


def decode(source: Path | str | bytes) -> np.ndarray:
    """The film as uint8, height x width, by `INTENSITY_CONTRACT`. InputError with the reason when it cannot be used.

    The kind of file is told by its first bytes; a name ending in .dcm or .dicom also opens DICOM without a preamble.
    """
    named_dicom = not isinstance(source, bytes) and Path(source).suffix.lower() in (".dcm", ".dicom")
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        raise InputError("empty")
    picture = next((name for name, signature in _SIGNATURES.items() if data.startswith(signature)), None)
    if is_dicom(data) or (named_dicom and not picture):
        image = decode_dicom(data, max_pixels=MAX_PIXELS)
    elif picture:
        image = _decode_picture(data, picture)
    elif any(signature.startswith(data) for signature in _SIGNATURES.values()):
        raise InputError("truncated")
    else:
        raise InputError("not an image (PNG, JPEG or DICOM)")
    if image.min() == image.max():
        raise InputError("blank image")
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
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError("missing") from error
    except IsADirectoryError as error:
        raise InputError("a folder, not a file") from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error


def _decode_picture(data: bytes, picture: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=[picture]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return _to_grey(_upright(image))
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"too large (more than {MAX_PIXELS // 1_000_000} million pixels)") from error
    # Bytes from outside can fail a decoder in any way (OSError, SyntaxError, struct.error, zlib.error, KeyError, ...);
    # whatever it is, it is this file's fault and not the program's.
    except Exception as error:
        raise InputError("damaged" if _has_end(data, picture) else "truncated") from error


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


def _to_grey(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _stretch(np.asarray(image))
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _stretch(values: np.ndarray) -> np.ndarray:
    """16-bit values, minimum..maximum to 0..255. What the full scale is, 10, 12 or 16 bits, such files do not say."""
    low, high = float(values.min()), float(values.max())
    scaled = (values.astype(np.float32) - low) * (255.0 / max(high - low, 1.0))
    return np.rint(scaled).astype(np.uint8)
