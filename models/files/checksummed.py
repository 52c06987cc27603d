"""Files whose content is held against its SHA-256: tensors that carry their own, images whose manifest has it.

In: tensors and facts, a network; a data set's folder and manifest. Out: a safetensors file's bytes, the same for the
same content, and the checked way to read them back; nothing or an error about the images. Called by models.training and
models.process, for checkpoints, weights and the data set: a disk, a copy or a network that changes a bit is noticed
before it is trained on.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from models.files.layout import DatasetPaths
from pathologies.errors import InputError

WEIGHTS = "hilum"  # the metadata key of a weight file
BLOCK = 2**24  # bytes of a file that are hashed at once


class Damaged(InputError):
    """A file that is not what was written: cut off, changed, or another one."""


def checksummed_bytes(tensors: Mapping[str, Tensor], key: str, facts: Mapping[str, Any] | None = None) -> bytes:
    """The file's bytes. One metadata key, since safetensors writes several in random order: `key`, as sorted JSON."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(dict(facts or {}), sort_keys=True)
    stored = json.dumps(json.loads(text) | {"sha256": _digest(plain, text)}, sort_keys=True)
    return save(plain, metadata={key: stored})


def read_checksummed(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, facts) of such a file. Errors: Damaged; FileNotFoundError and the like as they are."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing.")
    try:
        with safe_open(path, framework="pt") as stored:
            facts = json.loads(stored.metadata()[key])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        found = facts.pop("sha256")
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    if found != _digest(tensors, json.dumps(facts, sort_keys=True)):
        raise Damaged(f"{path} is damaged: its content is not what its hash says.")
    return tensors, facts


def weights_bytes(network: nn.Module) -> bytes:
    """The network's weights as a file: the same weights give the same bytes."""
    return checksummed_bytes(network.state_dict(), WEIGHTS)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Errors: Damaged."""
    return read_checksummed(path, WEIGHTS)[0]


def require_weights(path: Path) -> None:
    """Errors: Damaged; FileNotFoundError."""
    read_checksummed(path, WEIGHTS)


def verify_images(dataset: DatasetPaths, manifest: Mapping[str, Any], sign_of_life: Callable[[], None]) -> None:
    """Hash `images.u8`, once per machine and file: a large one takes a while, so the result is stamped, and processes
    that start together wait for the first. Errors: InputError where the file is not what the manifest says.
    """
    expected = manifest["images_sha256"]
    stamp = _verified_stamp(dataset.images, expected)
    if stamp.exists() and stamp.stat().st_size:
        return
    stamp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with stamp.open("a", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if stamp.stat().st_size:  # another process has just done it
            return
        found = _file_hash(dataset.images, sign_of_life)
        if found != expected:
            raise InputError(
                f"{dataset.images} was changed after it was prepared (SHA-256 {found[:12]}, the manifest says "
                f"{expected[:12]}). Copy it again, or prepare the data set again in a new folder."
            )
        stream.write(f"{found}\n")


def _verified_stamp(path: Path, expected: str) -> Path:
    """A name that changes with the file: place, size, time of the last change, inode."""
    state = path.stat()
    facts = (path.resolve(), state.st_size, state.st_mtime_ns, state.st_ino, state.st_dev, expected)
    name = hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"hilum-{os.getuid()}" / "verified" / name


def _file_hash(path: Path, sign_of_life: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            sign_of_life()
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Of the whole file, as sha256sum has it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
