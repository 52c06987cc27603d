"""models/files/checksummed.py: a changed bit anywhere in a sealed file is noticed."""

import numpy as np
import pytest
import torch

from models.files.checksummed import Damaged, seal, unseal, whole

TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(seal(TENSORS, "key", {"epoch": 3, "score": 0.1 + 0.2}))
    return path


def test_what_was_sealed_comes_back(file):
    tensors, facts = unseal(file, "key")
    assert facts == {"epoch": 3, "score": 0.1 + 0.2}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert whole(file, "key")


def test_every_changed_bit_is_noticed(file):
    data = file.read_bytes()
    draws = np.random.default_rng(0)
    for at in range(0, len(data), 3):
        changed = bytearray(data)
        changed[at] ^= 1 << int(draws.integers(8))
        file.write_bytes(changed)
        assert not whole(file, "key") or same(file), at


def same(file):
    """Blanks that pad the header may become other blanks: the content is what it was."""
    tensors, facts = unseal(file, "key")
    return facts["epoch"] == 3 and all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_cut_file_is_damaged(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(Damaged, match="is damaged"):
        unseal(file, "key")


def test_another_safetensors_file_is_damaged(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "plain")
    assert not whole(tmp_path / "plain", "key")
    with pytest.raises(FileNotFoundError):
        unseal(tmp_path / "absent", "key")
