"""What stands in the environment of a training process before its interpreter starts.

In: how it is configured, its share of a GPU, the size of the films. Out: environment variables. Called by the launcher,
the search and the doctor; the benchmarks give the same to what they compare with.
"""

from collections.abc import Mapping

from models.config import TrainConfig
from orchestrator.planning.memory import film_bytes

# A training step asks for the same large blocks again and again, and glibc's malloc hands them back to the system as
# soon as the top of its heap is free: each step then begins with thousands of pages to be cleared. Here what was freed
# stays with the process, which lives for this one training, up to two limits: larger blocks still come and go, and of
# the top of the heap so much stays. Pages cleared in a step of ResNet-18 at 128 px, batch 32, and the system's seconds
# for it: 33,000 and .09 without this, 500 and .005 with it. Other libcs ignore it.
KEEP_MEMORY: Mapping[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": str(36 * 2**20),  # the largest blocks of ResNet-18 at 128 px, batch 32, have 32 MiB
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    "MALLOC_TOP_PAD_": str(16 * 2**20),
}
# Of larger steps nothing is kept: what lies idle in the heap would come on top of what the step holds at its peak.
LARGEST_KEPT = 512 * 2**20


def process_environment(config: TrainConfig, gpus: float, image_size: int) -> dict[str, str]:
    """Of a training on a data set of `image_size` pixels a side; without a share of a GPU it sees none."""
    threads = str(config.threads)
    environment = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if config.batch_size * film_bytes(config, image_size) <= LARGEST_KEPT:
        environment |= KEEP_MEMORY
    return environment if gpus else environment | {"CUDA_VISIBLE_DEVICES": ""}
