"""The images of a data set compared with their hash, once per machine and file.

In: a data set's folder and its manifest. Out: nothing, or an error that says what does not fit. Called by
models.process.job. The reading of a large file takes a while, so it is stamped; processes that start together wait for
the first one.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from models.files.layout import DatasetPaths
from pathologies.errors import InputError

BLOCK = 2**24


def verify_images(dataset: DatasetPaths, manifest: Mapping[str, Any], sign_of_life: Callable[[], None]) -> None:
    """Errors: InputError where `images.u8` is not what the manifest says. A stamped file is not read again."""
    expected = manifest["images_sha256"]
    stamp = _stamp(dataset.images, expected)
    if stamp.exists() and stamp.stat().st_size:
        return
    stamp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with stamp.open("a", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if stamp.stat().st_size:  # another process has just done it
            return
        found = _hash(dataset.images, sign_of_life)
        if found != expected:
            raise InputError(
                f"{dataset.images} was changed after it was prepared (SHA-256 {found[:12]}, the manifest says "
                f"{expected[:12]}). Copy it again, or prepare the data set again in a new folder."
            )
        stream.write(f"{found}\n")


def _stamp(path: Path, expected: str) -> Path:
    """A name that changes with the file: place, size, time of the last change, inode."""
    state = path.stat()
    facts = (path.resolve(), state.st_size, state.st_mtime_ns, state.st_ino, state.st_dev, expected)
    name = hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"hilum-{os.getuid()}" / "verified" / name


def _hash(path: Path, sign_of_life: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            sign_of_life()
    return digest.hexdigest()
