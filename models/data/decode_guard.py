"""What stands between bytes from outside and the decoders: every failure is a sentence, none is slow or noisy.

In: the bytes of a file that anyone may have made. Out: limits on what a decoder is given, and `guarded`, within which
whatever a decoder raises becomes a DecodeError. Used by `models.data.images`, `models.data.dicom` and
`models.data.dicom_codecs`.
"""

import io
import logging
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from pathologies.errors import InputError

# A 14 x 17 inch film digitised at 100 micrometres has 15 million pixels; far above, a file is a mistake or an attack.
MAX_PIXELS = 64_000_000
MAX_BYTES = 4 * MAX_PIXELS  # of a file, and of what is inflated from one: the largest film in 16 bits, twice
# A film is read in some hundreds of small pieces, an archive's DICOM with nested tables in some ten thousands; a file
# of nothing but tiny elements or chunks would keep a parser busy for minutes.
MAX_READS = 1_000_000
MAX_SCANS = 100  # of a progressive JPEG, which has about ten; each costs a pass over all pixels
_thread = threading.local()


class DecodeError(InputError):
    """A file that cannot be decoded. The message is the reason, fit for a table."""


class ReadsRest(Exception):
    """A parser asked for all that is left: it is about to inflate it, without a limit."""


class _Bounded:
    """A stream that gives up on a parser which goes through it in ever smaller pieces."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise DecodeError("too many parts (of which a film needs few)")
        if size is None or size < 0:
            raise ReadsRest
        return super().read(size)

    def read_rest(self) -> bytes:
        return super().read(MAX_BYTES)


class BoundedReads(_Bounded, io.BytesIO):
    """Bytes in memory."""


class BoundedFile(_Bounded, io.BufferedReader):
    """A file of which only the beginning is wanted."""


def require_pixels(count: int) -> None:
    """DecodeError where a picture would have more pixels than any film."""
    if count > MAX_PIXELS:
        raise DecodeError(f"too large (more than {MAX_PIXELS // 1_000_000} million pixels)")


def require_bytes(count: int) -> None:
    if count > MAX_BYTES:
        raise DecodeError(f"too large (more than {MAX_BYTES // 1_000_000} million bytes)")


def require_scans(jpeg: bytes) -> None:
    """DecodeError for a JPEG of very many scans. Coded data never holds the marker (ITU-T T.81, B.1.1.5)."""
    if jpeg.count(b"\xff\xda") > MAX_SCANS:
        raise DecodeError(f"too many parts (a JPEG of more than {MAX_SCANS} scans)")


def inflate(deflated: bytes) -> bytes:
    """RFC 1951, within MAX_BYTES."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    data = stream.decompress(deflated, MAX_BYTES)
    if stream.unconsumed_tail:
        require_bytes(MAX_BYTES + 1)
    return data


@contextmanager
def guarded(reason: str) -> Iterator[None]:
    """Within it every exception is a DecodeError: `reason`, unless it says its own. Warnings of decoders are dropped.

    Bytes from outside can fail a parser in any way (struct.error, RecursionError, NotImplementedError, ...), and
    pydicom parses a value when it is first asked for; whatever it is, it is this file's fault and not the program's.
    Want of memory says nothing about the file, and is passed on, as are Ctrl-C and its like.
    """
    outer = getattr(_thread, "guarded", False)
    _drop_warnings()
    _thread.guarded = True
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(reason) from error
    finally:
        _thread.guarded = outer


class _WithinGuard:
    """In the place of a warning filter's pattern: matches what this thread says within `guarded`.

    `warnings.catch_warnings` changes the filters of all threads, and puts back what another has changed meanwhile.
    """

    def match(self, text: str) -> bool:
        return getattr(_thread, "guarded", False)


_FILTER = ("ignore", _WithinGuard(), Warning, None, 0)


def _drop_warnings() -> None:
    """Put the filter first, unless it is."""
    if not warnings.filters or warnings.filters[0] is not _FILTER:
        warnings.filters.insert(0, _FILTER)


def quieten(name: str) -> None:
    """A library's log at what ends a program, unless somebody has asked for more than its warnings."""
    logger = logging.getLogger(name)
    if logger.level in (logging.NOTSET, logging.WARNING):
        logger.setLevel(logging.CRITICAL)
