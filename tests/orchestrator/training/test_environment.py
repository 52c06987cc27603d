"""orchestrator/training/environment.py: threads, no GPU unless asked for, and memory that stays with the process."""

import dataclasses
import os
import platform
import subprocess
import sys

import pytest

from models.config import TrainConfig
from orchestrator.training.environment import KEEP_MEMORY, process_environment

SMALL = TrainConfig(threads=3, batch_size=32)

FAULTS = """
import resource
for _ in range(200):
    block = bytearray(32 * 2**20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(environment: dict[str, str]) -> int:
    """Page faults of a process that asks 200 times for 32 MiB and lets go of them."""
    kept = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=kept | environment, capture_output=True, check=True)
    return int(done.stdout)


def test_threads_and_gpus():
    one = process_environment(SMALL, 0, 128)
    assert (one["OMP_NUM_THREADS"], one["MKL_NUM_THREADS"], one["PYTHONHASHSEED"]) == ("3", "3", "0")
    assert one["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in process_environment(SMALL, 0.5, 128)


def test_a_step_of_large_films_is_left_to_malloc():
    """What it would keep of such a step lies idle while the step needs its largest blocks."""
    assert process_environment(SMALL, 0, 128).keys() >= KEEP_MEMORY.keys()
    assert not process_environment(SMALL, 0, 320).keys() & KEEP_MEMORY.keys()
    of_its_own_size = dataclasses.replace(SMALL, image_size=320)
    assert process_environment(of_its_own_size, 0, 128) == process_environment(SMALL, 0, 320)
    small_batch = dataclasses.replace(SMALL, batch_size=4)
    assert process_environment(small_batch, 0, 320) == process_environment(SMALL, 0, 128)
    deep = dataclasses.replace(SMALL, backbone="resnet152")
    assert process_environment(deep, 0, 128) == process_environment(SMALL, 0, 320)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc knows these variables")
def test_freed_memory_is_used_again_without_page_faults():
    assert faults({}) > 5 * faults(process_environment(SMALL, 0, 128))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc knows these variables")
def test_very_large_blocks_go_back_to_the_system():
    """Kept, they would fall to pieces: a training would take a third more memory than the network needs."""
    code = """
block, above = bytearray(b"1") * (256 * 2**20), bytearray(b"1") * (8 * 2**20)
del block
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:")) // 1024)
"""
    environment = os.environ | process_environment(SMALL, 0, 128)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert int(done.stdout) < 128
