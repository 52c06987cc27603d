"""What stands in the environment of a training process before its interpreter starts.

In: how many threads it computes with, its share of a GPU. Out: environment variables. Called by the launcher, the
search and the doctor; the benchmarks give the same to what they compare with.
"""

from collections.abc import Mapping

# A training step asks for the same large blocks again and again, and glibc's malloc hands them back to the system as
# soon as the top of its heap is free: each step then begins with thousands of pages to be cleared. Here what was freed
# stays with the process, which lives for this one training, up to two limits: larger blocks still come and go (with
# all of them kept, one training of ResNet-18 at 320 px, batch 32, took 3.4 GiB where its bare loop takes 2.4), and of
# the top of the heap so much stays. Pages cleared in a step of that network, and the system's seconds for it: at 128 px
# 33,000 and .09 without this, 500 and .005 with it; at 320 px 485,000 and 1.3, 228,000 and .75. Huge pages were tried:
# at 320 px the system took 2.2 s to find them. Other libcs ignore all this.
KEEP_MEMORY: Mapping[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": str(36 * 2**20),  # the largest blocks of ResNet-18 at 128 px, batch 32, have 32 MiB
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
}


def process_environment(threads: int, gpus: float) -> dict[str, str]:
    """Of a process that computes with `threads` threads; without a share of a GPU it sees none."""
    environment = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return environment | KEEP_MEMORY | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})
