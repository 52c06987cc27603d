"""Sealed files: tensors in a safetensors file that carries the hash of its own content.

In: tensors and facts. Out: the file's bytes, the same for the same content, and the checked way to read them back.
Called for checkpoints and weights: a disk, a copy or a network that changes a bit is noticed before it is trained on.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pathologies.errors import InputError


class Damaged(InputError):
    """A file that is not what was written: cut off, changed, or another one."""


def seal(tensors: Mapping[str, Tensor], key: str, facts: Mapping[str, Any] | None = None) -> bytes:
    """The file's bytes. One metadata key, since safetensors writes several in random order: `key`, as sorted JSON."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(dict(facts or {}), sort_keys=True)
    sealed = json.dumps(json.loads(text) | {"sha256": _digest(plain, text)}, sort_keys=True)
    return save(plain, metadata={key: sealed})


def unseal(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, facts) of a sealed file. Errors: Damaged; FileNotFoundError and the like as they are."""
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


def whole(path: Path, key: str) -> bool:
    """Whether the file is there and is what was written."""
    try:
        unseal(path, key)
    except (Damaged, OSError):
        return False
    return True


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
