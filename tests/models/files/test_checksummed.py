"""models/files/checksummed.py: a changed bit anywhere in a file that carries its hash is noticed."""

import numpy as np
import pytest
import torch

from models.files.checksummed import Damaged, checksummed_bytes, read_checksummed

TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(checksummed_bytes(TENSORS, "key", {"epoch": 3, "score": 0.1 + 0.2}))
    return path


def test_what_was_written_comes_back(file):
    tensors, facts = read_checksummed(file, "key")
    assert facts == {"epoch": 3, "score": 0.1 + 0.2}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


def test_every_changed_bit_is_noticed(file):
    data = file.read_bytes()
    draws = np.random.default_rng(0)
    for at in range(0, len(data), 3):
        changed = bytearray(data)
        changed[at] ^= 1 << int(draws.integers(8))
        file.write_bytes(changed)
        assert damaged(file) or same(file), at


def damaged(file):
    try:
        read_checksummed(file, "key")
    except Damaged:
        return True
    return False


def same(file):
    """Blanks that pad the header may become other blanks: the content is what it was."""
    tensors, facts = read_checksummed(file, "key")
    return facts["epoch"] == 3 and all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_cut_file_is_damaged(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(Damaged, match="is damaged"):
        read_checksummed(file, "key")


def test_another_safetensors_file_is_damaged(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "plain")
    assert damaged(tmp_path / "plain")
    with pytest.raises(FileNotFoundError):
        read_checksummed(tmp_path / "absent", "key")
