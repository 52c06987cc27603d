"""orchestrator/environment.py: threads, no GPU unless asked for, and memory that stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

from orchestrator.environment import KEEP_MEMORY, process_environment

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
    one = process_environment(3, 0)
    assert (one["OMP_NUM_THREADS"], one["MKL_NUM_THREADS"], one["PYTHONHASHSEED"]) == ("3", "3", "0")
    assert one["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in process_environment(3, 0.5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc knows these variables")
def test_freed_memory_is_used_again_without_page_faults():
    assert faults({}) > 5 * faults(process_environment(1, 0))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc knows these variables")
def test_very_large_blocks_go_back_to_the_system():
    """Kept, they would fall to pieces: a training would take a third more memory than the network needs."""
    code = """
block, above = bytearray(b"1") * (256 * 2**20), bytearray(b"1") * (8 * 2**20)
del block
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:")) // 1024)
"""
    environment = os.environ | process_environment(1, 0)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert int(done.stdout) < 128
