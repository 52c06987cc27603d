"""models/training/device.py: device, number format and threads, from config and processor alone."""

import inspect
import os

import pytest
import torch

from models.config import TrainConfig
from models.training import device
from models.training.cpu_features import cpu_precision


def test_auto_becomes_definite(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    resolved = device.resolve(TrainConfig())
    assert (resolved.device, resolved.precision) == ("cpu", cpu_precision())


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((8, 9), "bf16"), ((12, 0), "bf16")],
)
def test_a_gpu_computes_in_what_it_has_tensor_cores_for(monkeypatch, capability, precision):
    """V100 is 7.0, T4 7.5; torch calls bf16 supported there, too, since it can emulate it."""
    asked = []

    def get_device_capability(device=None):
        asked.append(device)
        return capability

    assert inspect.signature(torch.cuda.get_device_capability).parameters["device"].default is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", get_device_capability)
    resolved = device.resolve(TrainConfig(device="cuda:1"))
    assert (resolved.device, resolved.precision) == ("cuda:1", precision)
    assert device.resolve(TrainConfig()).device == "cuda"
    assert asked == ["cuda:1", "cuda"]
    assert device.resolve(TrainConfig(precision="fp32")).precision == "fp32"


def test_what_was_asked_for_stands(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = TrainConfig(device="cpu", precision="fp32", epochs=3)
    assert device.resolve(config) == config
    assert device.available_device("cuda:1") == "cuda:1"


def test_a_gpu_that_is_not_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device=cuda, but torch .* finds no GPU here\. Use device=cpu or auto"):
        device.resolve(TrainConfig(device="cuda"))


def test_a_device_that_nobody_knows_is_a_sentence():
    with pytest.raises(ValueError, match="Unknown device 'gpu'. Known: auto, cpu, cuda"):
        device.available_device("gpu")
    with pytest.raises(ValueError, match="device='gpu' is not one of"):
        TrainConfig(device="gpu")


def test_autocast_computes_in_what_the_config_says():
    product = torch.ones(2, 2), torch.ones(2, 2)
    for precision, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        with device.autocast(TrainConfig(device="cpu", precision=precision)):
            assert torch.mm(*product).dtype == kind


def test_threads_are_set():
    before = torch.get_num_threads()
    try:
        device.set_threads(2)
        assert torch.get_num_threads() == 2
        device.set_threads(1)  # a second call may find the pool in use
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_repeatable_operations_have_the_workspace_that_they_need(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back to what it was
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        device.set_repeatable(False)
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        device.set_repeatable(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"  # the user's own size stands
        device.set_repeatable(True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        device.set_repeatable(False)
    assert not torch.are_deterministic_algorithms_enabled()
