"""From the bytes of a DICOM radiograph to what a viewer shows: modality LUT, VOI LUT or window, inversion, 0..255.

In: bytes. Out: uint8, height x width. Called by `models.data.images.decode`; `read_tags` by
`orchestrator.inference.identity`. The order and the formulas are those of the DICOM standard PS3.3, sections C.11.1
(modality LUT), C.11.2 (VOI LUT and window), C.7.6.3.1.2 (photometric interpretation) and C.11.6 (presentation LUT
shape). A file that cannot be used is a DecodeError that says the reason.
"""

import io
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.decode_guard import (
    BoundedFile,
    BoundedReads,
    DecodeError,
    ReadsRest,
    guarded,
    inflate,
    quieten,
    require_pixels,
)
from models.data.dicom_codecs import DAMAGED, decode_compressed
from models.data.intensity import shown_range

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

logger = logging.getLogger(__name__)
NEEDED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation")
# Bytes of a value beside the pixels: longer ones are no film's, and pydicom makes an object of every number in them.
LONGEST_VALUE, LONGEST_SEQUENCE = 2**16, 2**22
_SEQUENCES = ("ModalityLUTSequence", "VOILUTSequence")
_VALUES = (*NEEDED, "NumberOfFrames", "SamplesPerPixel", "PixelRepresentation", "HighBit", "PixelPaddingValue",
           "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth",
           "VOILUTFunction", "PresentationLUTShape")  # fmt: skip


def is_dicom(data: bytes) -> bool:
    """Whether the bytes carry DICOM's mark after the preamble (PS3.10, section 7.1)."""
    return data[128:132] == b"DICM"


def read_tags(path: Path, names: Sequence[str]) -> list[str]:
    """The texts of these elements, "" for what is absent; the pixels are not read. DecodeError for what is no DICOM."""
    with guarded("damaged DICOM"), BoundedFile(path.open("rb", buffering=0)) as stream:
        header = _parse(stream, stop_before_pixels=True, specific_tags=list(names))
        _require_short(header, names)
        return [str(header.get(name) or "").strip() for name in names]


def decode_dicom(data: bytes, version: int) -> np.ndarray:
    """One grey frame as uint8, height x width, by a version of the intensity contract.

    DecodeError with the reason when it cannot be used.
    """
    with guarded("damaged DICOM"):
        dataset = _read(data)
        _check(dataset)
        stored = _read_stored(dataset, version)
        values = _apply_modality(stored, dataset)
        film = _outside_padding(stored, dataset)
        shown = np.rint(_apply_voi(values, dataset, film, version) * 255).astype(np.uint8)
        # Either sign says the same thing: a DX image in MONOCHROME1 carries INVERSE as well (PS3.3 C.8.11.3.1.2), and
        # is inverted once, after the VOI LUT. 255 - x is minimum + maximum - x of the scaled range.
        inverse = dataset.get("PresentationLUTShape") == "INVERSE"
        return 255 - shown if inverse or dataset.PhotometricInterpretation == "MONOCHROME1" else shown


def decode_dataset(dataset: "Dataset", version: int) -> np.ndarray:
    """As `decode_dicom`, of a pydicom data set that is in memory: as its file would be decoded. It stays as it is."""
    import pydicom

    buffer = io.BytesIO()
    try:
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=False)
    except Exception as error:  # of elements that cannot be encoded, of whatever class
        raise DecodeError(f"a DICOM data set that pydicom cannot write ({str(error)[:200]})") from error
    return decode_dicom(buffer.getvalue(), version)


def _read(data: bytes) -> "Dataset":
    import pydicom

    dataset = _parse(BoundedReads(data))
    if "TransferSyntaxUID" not in dataset.file_meta:  # a bare data set, of which pydicom guessed the encoding
        implicit, _ = dataset.original_encoding
        uid = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = uid
    if "PixelData" not in dataset:
        # pydicom gives nothing at all when the file ends within compressed pixels.
        cut = "Rows" in dataset or (is_dicom(data) and not len(dataset))
        raise DecodeError("truncated" if cut else "not an image (DICOM without pixels)")
    return dataset


def _parse(stream: BoundedReads | BoundedFile, **options: Any) -> "Dataset":
    import pydicom

    quieten("pydicom")  # its log repeats its warnings, and its level is set when it is imported
    try:
        return pydicom.dcmread(stream, force=True, **options)
    except ReadsRest:  # the deflated transfer syntax: explicit little endian, as pydicom finds out itself
        return pydicom.dcmread(BoundedReads(inflate(stream.read_rest())), force=True, **options)


def _check(dataset: "Dataset") -> None:
    _require_short(dataset)
    missing = [name for name in NEEDED if dataset.get(name) in (None, "")]
    if missing:
        raise DecodeError(f"damaged DICOM (no {', '.join(missing)})")
    if dataset.BitsAllocated not in (8, 16) or not 1 <= dataset.BitsStored <= dataset.BitsAllocated:
        raise DecodeError(f"{dataset.BitsStored} of {dataset.BitsAllocated} bits per DICOM pixel; 8 or 16 are read")
    if not (dataset.Rows >= 1 and dataset.Columns >= 1):
        raise DecodeError("damaged DICOM (no rows or columns)")
    require_pixels(dataset.Rows * dataset.Columns)
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise DecodeError(f"{dataset.NumberOfFrames} frames in one DICOM file; a radiograph has one")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise DecodeError(f"colour DICOM ({dataset.PhotometricInterpretation}); a radiograph is MONOCHROME1 or 2")
    if dataset.get("SamplesPerPixel", 1) != 1:
        raise DecodeError(f"{dataset.SamplesPerPixel} values per DICOM pixel; a radiograph has one")


def _require_short(dataset: "Dataset", values: Sequence[str] = _VALUES) -> None:
    """DecodeError for a value so long that to parse it would take minutes; looked at before any is asked for."""
    for names, longest in ((values, LONGEST_VALUE), (_SEQUENCES, LONGEST_SEQUENCE)):
        for name in names:
            raw = dataset.get_item(name) if name in dataset else None
            if isinstance(getattr(raw, "value", None), bytes) and len(raw.value) > longest:
                raise DecodeError(f"damaged DICOM ({name} of {len(raw.value)} bytes)")


def _read_stored(dataset: "Dataset", version: int) -> np.ndarray:
    """Stored pixel values as int32 within BitsStored (PS3.5, section 8.1.1)."""
    compressed = _is_compressed(dataset)
    if not compressed and len(dataset.PixelData) * 8 < dataset.Rows * dataset.Columns * dataset.BitsAllocated:
        raise DecodeError("truncated")
    with guarded(DAMAGED):
        decoded = decode_compressed(dataset) if compressed else _decode_pixels(dataset)
        if decoded.shape != (dataset.Rows, dataset.Columns):
            raise DecodeError(DAMAGED)
    stored, bits = decoded.astype(np.int32), int(dataset.BitsStored)
    top = bits - 1 if compressed else int(dataset.get("HighBit", bits - 1))
    if dataset.get("PixelRepresentation") == 1:
        return stored << (31 - top) >> (32 - bits)  # the sign is bit `top`, whatever lies above it
    if version > 1:
        stored &= ~_overlay_bits(dataset, range(top + 1 - bits, top + 1))
    if stored.max() >= 2**bits:
        stored >>= max(0, top + 1 - bits)  # older files keep their bits at the top of the word
    if stored.max() >= 2**bits:
        # Not masked: where BitsStored is wrong, as it often is, a mask would wrap the brightest pixels round to black.
        logger.warning("DICOM pixels up to %d exceed BitsStored=%d: clipped", stored.max(), bits)
        stored = np.minimum(stored, 2**bits - 1)
    return stored


def _overlay_bits(dataset: "Dataset", pixel_bits: range) -> int:
    """Mask of the bits in which overlays lie beside the pixels (PS3.3 C.9.2 of 2004, retired since)."""
    mask = 0
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0102) in dataset and (group, 0x3000) not in dataset:
            position = int(dataset[group, 0x0102].value)
            if 0 <= position < 16 and position not in pixel_bits:
                mask |= 1 << position
    return mask


def _decode_pixels(dataset: "Dataset") -> np.ndarray:
    from pydicom.pixels import pixel_array

    return pixel_array(dataset, correct_unused_bits=False)


def _is_compressed(dataset: "Dataset") -> bool:
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax:
        raise DecodeError(f"damaged DICOM (unknown transfer syntax {str(syntax)[:64]!r})")
    return syntax.is_compressed


def _apply_modality(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    if dataset.get("ModalityLUTSequence"):
        return _look_up(stored, dataset.ModalityLUTSequence[0], dataset)[0]
    slope, intercept = _finite(dataset, "RescaleSlope", 1), _finite(dataset, "RescaleIntercept", 0)
    return stored if (slope, intercept) == (1, 0) else stored.astype(np.float32) * slope + intercept


def _finite(dataset: "Dataset", name: str, absent: float) -> float:
    value = float(dataset.get(name) or absent)
    if not math.isfinite(value):
        raise DecodeError(f"damaged DICOM (no number as {name})")
    return value


def _apply_voi(values: np.ndarray, dataset: "Dataset", film: np.ndarray, version: int) -> np.ndarray:
    """Values of interest as float 0..1: the VOI LUT, else the first window, else the range shown of `film`."""
    if dataset.get("VOILUTSequence"):
        looked_up, table = _look_up(values, dataset.VOILUTSequence[0], dataset)
        # The table's own range, not 2^bits: tables are found that declare 16 bits and hold 12.
        return _scale(looked_up, float(table.min()), float(table.max()))
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is not None and width is not None:
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        if width > 0 and (width >= 1 or function != "LINEAR"):
            return _apply_window(values, center, width, function)
        logger.warning("DICOM window width %s is not valid: the range of the pixels is shown", width)
    return _scale(values, *shown_range(values[film], version))


def _apply_window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT), with an output range of 0..1."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values.astype(np.float32) - center) / width, -80, 80)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return _scale(values, center - width / 2, center + width / 2)


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low..high to 0..1, clipped; a step at `low` where the two are one."""
    if high <= low:
        return (values > low).astype(np.float32)
    return np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)


def _outside_padding(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Mask of the pixels that are no padding (PS3.3 C.7.5.1.1.2); all of them where nothing else would be left."""
    padding = dataset.get("PixelPaddingValue")
    if not isinstance(padding, int):
        return np.ones(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    limit = limit if isinstance(limit, int) else padding
    film = (stored < min(padding, limit)) | (stored > max(padding, limit))
    return film if film.any() else ~film


def _look_up(values: np.ndarray, item: "Dataset", dataset: "Dataset") -> tuple[np.ndarray, np.ndarray]:
    """`values` through a LUT (PS3.3 C.11.1.1.1): below its first mapped value the first entry, above its end the last.

    pydicom's own functions are not used: `apply_voi` indexes an 8-bit table with 8 bits, whatever its length.
    """
    try:
        entries, first, bits = (int(value) for value in item.LUTDescriptor)
        table = item.LUTData
    except (AttributeError, TypeError, ValueError) as error:
        raise DecodeError("damaged DICOM (LUT without descriptor or data)") from error
    entries = entries or 2**16
    if first >= 2**15 and dataset.get("PixelRepresentation") == 1:
        first -= 2**16  # a signed value that was read as unsigned
    if isinstance(table, bytes):
        order = "<" if dataset.original_encoding[1] is not False else ">"
        table = np.frombuffer(table, "u1" if bits <= 8 and len(table) < 2 * entries else f"{order}u2")
    table = np.atleast_1d(np.asarray(table, dtype=np.int32))[:entries]
    if not table.size:
        raise DecodeError("damaged DICOM (empty LUT)")
    indices = np.clip(np.rint(values).astype(np.int32) - first, 0, table.size - 1)
    return table[indices], table


def _first(value: object) -> float | None:
    """The first of a multi-valued DICOM number; None where it is absent, empty or not finite."""
    if value is None or value == "":
        return None
    values = [value] if np.isscalar(value) else list(value)
    number = float(values[0]) if values else math.nan
    return number if math.isfinite(number) else None
