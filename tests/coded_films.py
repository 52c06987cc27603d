"""Films as files, small and in every form that hilum reads: made here, for tests of the decoders."""

import io

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)


def make(stored, *, bits=12, syntax=ExplicitVRLittleEndian, **elements):
    """A DX data set around `stored` (uint16 or int16), written to bytes and read by the caller."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Modality = "DX"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = stored.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _jpeg_lossless(predictor):
    def encode(stored, bits):
        return imagecodecs.jpeg8_encode(stored, bitspersample=bits, lossless=True, predictor=predictor)

    return encode


def _rle(stored, bits):
    """PS3.5, annex G."""
    planes = [stored.astype("<u2").view(np.uint8).reshape(*stored.shape, 2)[..., byte] for byte in (1, 0)]
    segments = [imagecodecs.packbits_encode(plane.tobytes()) for plane in planes[-stored.dtype.itemsize :]]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    starts = np.cumsum([64, *map(len, segments)])[:-1]
    header = np.zeros(16, "<u4")
    header[: len(segments) + 1] = [len(segments), *starts]
    return header.tobytes() + b"".join(segments)


def _jpeg_2000(stored, bits):
    return imagecodecs.jpeg2k_encode(stored, bitspersample=bits, codecformat="J2K", level=0, reversible=True)


def _htj2k(stored, bits):
    return imagecodecs.htj2k_encode(stored, reversible=True)


CODERS = {
    JPEGLossless: _jpeg_lossless(6),
    JPEGLosslessSV1: _jpeg_lossless(1),
    JPEGLSLossless: lambda stored, bits: imagecodecs.jpegls_encode(stored),
    JPEG2000Lossless: _jpeg_2000,
    HTJ2KLossless: _htj2k,
    HTJ2KLosslessRPCL: _htj2k,
    RLELossless: _rle,
}
PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def coded_dicom(stored, syntax, bits, **elements):
    """A DICOM file of `stored` (uint8 or uint16) whose pixels are as `syntax` says, without loss."""
    syntax = UID(syntax)
    if syntax in PLAIN:
        swapped = stored.byteswap() if syntax == ExplicitVRBigEndian else stored
        return make(stored, bits=bits, syntax=syntax, PixelData=swapped.tobytes(), **elements)
    pixels = encapsulate([CODERS[syntax](stored, bits)])
    return make(stored, bits=bits, syntax=syntax, PixelData=pixels, **elements)
