"""orchestrator/planning/memory.py: estimates against measured trainings, and what must grow with what."""

import dataclasses
import subprocess
import sys

import pytest

from models.config import TrainConfig
from orchestrator.planning.memory import BACKBONES, BYTES_PER_FILM, MIB, cache_bytes, estimate
from tests.conftest import PROJECT

CPU = TrainConfig(device="cpu", precision="fp32")

# VmHWM of `models.process.job.run_job` in a process of its own, torch 2.15 on x86-64, one thread, fp32
MEASURED = [
    ("test_resnet", 32, 16, 834),
    ("resnet18", 224, 8, 1423),
    ("resnet18", 224, 32, 1919),
    ("densenet121", 224, 8, 2026),
]


@pytest.mark.parametrize(("backbone", "size", "batch", "mib"), MEASURED)
def test_the_estimate_is_near_and_not_below_what_was_measured(backbone, size, batch, mib):
    config = dataclasses.replace(CPU, backbone=backbone, batch_size=batch)
    assert mib <= estimate(config, size, 144).host / MIB <= 1.25 * mib


def test_growth():
    small = estimate(CPU, 224, 1000)
    assert estimate(dataclasses.replace(CPU, batch_size=64), 224, 1000).host > small.host
    assert estimate(CPU, 448, 1000).host > small.host
    assert estimate(dataclasses.replace(CPU, image_size=448), 224, 1000).host == estimate(CPU, 448, 1000).host
    assert estimate(CPU, 224, 10**6).finished > small.finished
    assert small.finished < small.disk


def test_the_state_kept_for_others_needs_room_on_the_disk():
    plain, kept = (estimate(TrainConfig(branch_epoch=epoch), 64, 100) for epoch in (0, 2))
    weights = plain.finished - BYTES_PER_FILM * 100
    assert (kept.disk - plain.disk, kept.finished - plain.finished) == (12 * weights, 4 * weights)


def test_the_card_holds_the_activations_not_the_host():
    cpu = estimate(dataclasses.replace(CPU, batch_size=256), 224, 0)
    cuda = estimate(dataclasses.replace(CPU, batch_size=256, device="cuda"), 224, 0)
    assert cpu.gpu == 0
    assert cuda.gpu > cuda.host
    half = estimate(dataclasses.replace(CPU, batch_size=256, device="cuda:0", precision="bf16"), 224, 0)
    assert half.gpu < cuda.gpu


def test_a_backbone_outside_the_table_is_a_guess_on_the_safe_side():
    unknown = estimate(dataclasses.replace(CPU, backbone="resnetv2_50x1_bit"), 224, 0)
    assert "guess" in unknown.basis
    assert unknown.host >= max(estimate(dataclasses.replace(CPU, backbone=name), 224, 0).host for name in BACKBONES)


def test_a_tag_of_the_weights_changes_nothing():
    assert estimate(dataclasses.replace(CPU, backbone="resnet18.a1_in1k"), 224, 0) == estimate(CPU, 224, 0)


def test_the_cache_is_a_byte_a_pixel():
    assert cache_bytes(224_316, 320) == 224_316 * 320 * 320


def test_the_driver_needs_no_torch_and_no_ray():
    code = "import sys, orchestrator.planning.memory, orchestrator.cluster.doctor; "
    code += "sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=120).returncode == 0
