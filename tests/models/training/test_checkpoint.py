"""models/training/checkpoint.py: the state of a training, written whole and given back to the bit."""

import dataclasses

import pytest
import torch
from torch import nn

from models.training.checkpoint import Progress, load_checkpoint, save_checkpoint


def make(seed):
    """A small network in the trainer's memory order, and its optimiser in two groups."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 1))
    network.to(memory_format=torch.channels_last)
    weights = [one for one in network.parameters() if one.ndim > 1]
    others = [one for one in network.parameters() if one.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return network, torch.optim.AdamW(groups, lr=1e-2, fused=True)


def step(network, optimiser, seed):
    generator = torch.Generator().manual_seed(seed)
    loss = network(torch.rand(8, 2, 5, 5, generator=generator)).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


PROGRESS = Progress(epoch=2, step=7, best_epoch=1, best_score=0.1 + 0.2, history_rows=2,
                    scores=[0.1, -1.0], truths=[1.0, 0.0], loss_sum=1 / 3, seconds=2.5,
                    snapshots=[[2, 0.5]], batch_size=16, skipped=3, scaler={"scale": 8192.0}, branch=2,
                    branched_from={"job": "shared/0", "epoch": 1, "sha256": "0" * 64})  # fmt: skip


def test_going_on_is_as_if_nothing_had_happened(tmp_path):
    network, optimiser = make(0)
    for number in range(3):
        step(network, optimiser, number)
    save_checkpoint(tmp_path / "last.ckpt", network, optimiser, PROGRESS)
    other, its_optimiser = make(1)
    assert load_checkpoint(tmp_path / "last.ckpt", other, its_optimiser) == PROGRESS
    for number in range(3, 6):
        step(network, optimiser, number)
        step(other, its_optimiser, number)
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_new_training_has_a_checkpoint_too(tmp_path):
    network, optimiser = make(0)
    save_checkpoint(tmp_path / "last.ckpt", network, optimiser, Progress())
    assert load_checkpoint(tmp_path / "last.ckpt", *make(1)) == Progress()


def test_same_state_same_bytes(tmp_path):
    network, optimiser = make(0)
    step(network, optimiser, 0)
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, network, optimiser, PROGRESS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("broken", ["absent", "empty", "cut", "another file", "without progress"])
def test_a_broken_one_is_none_and_changes_nothing(tmp_path, broken):
    network, optimiser = make(0)
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, network, optimiser, PROGRESS)
    whole = path.read_bytes()
    contents = {"empty": b"", "cut": whole[: len(whole) // 2], "another file": b"\x40" * 999}
    if broken == "absent":
        path.unlink()
    elif broken == "without progress":
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    else:
        path.write_bytes(contents[broken])
    other, its_optimiser = make(1)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    assert load_checkpoint(path, other, its_optimiser) is None
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert not its_optimiser.state_dict()["state"]


def test_every_field_of_the_progress_is_stored(tmp_path):
    """A field that is added and forgotten would come back as its default."""
    values = {one.name: getattr(PROGRESS, one.name) for one in dataclasses.fields(Progress)}
    assert not [name for name, value in values.items() if value == getattr(Progress(), name)]


def test_the_optimisers_own_settings_stay_those_of_the_new_one(tmp_path):
    network, optimiser = make(0)
    step(network, optimiser, 0)
    save_checkpoint(tmp_path / "last.ckpt", network, optimiser, PROGRESS)
    other, its_optimiser = make(1)
    its_optimiser.param_groups[0]["lr"] = 5e-4
    load_checkpoint(tmp_path / "last.ckpt", other, its_optimiser)
    assert [group["lr"] for group in its_optimiser.param_groups] == [5e-4, 1e-2]
    assert [group["weight_decay"] for group in its_optimiser.param_groups] == [0.1, 0.0]
