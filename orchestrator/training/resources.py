"""How many trainings share a machine: what each asks of Ray, from the estimate of its memory.

In: jobs or configs, the size of the data set, what the nodes offer. Out: a share of a GPU, bytes of memory. Called by
the launcher and the doctor. No torch, and Ray only as it is handed in.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from models.config import TrainConfig
from models.data.cache import DEVICE_SHARE
from models.files.layout import DatasetPaths, read_json
from models.training.cpu_features import card_precision
from orchestrator.planning.memory import Estimate, cache_bytes, estimate
from pathologies.errors import InputError

AUTO = "auto"
CARD_SHARE = 0.95  # of a GPU's memory; the rest is the driver's
ANSWER_SECONDS = 60


def parse_share(text: str | None) -> float | str | None:
    """The word of `--gpus-per-target`: a number from 0, `auto`, or none."""
    if text is None or text == AUTO:
        return text
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < float("inf"):
        raise InputError(f"--gpus-per-target {text!r} is not a number from 0 or {AUTO!r}. For example: 0.25")
    return share


def with_ranks(settings: Mapping[str, Any], share: float | str | None) -> dict[str, Any]:
    """The settings of targets that ask for several GPUs each: a rank for every one. Errors: a share such as 1.5."""
    if not isinstance(share, float | int) or share <= 1:
        return dict(settings)
    if share != int(share) or settings.get("ranks", share) != share:
        ranks = f" with ranks={settings['ranks']}" if "ranks" in settings else ""
        raise InputError(
            f"--gpus-per-target {share:g}{ranks}: above 1 it is a whole number, and each GPU has one rank. Leave ranks "
            "out, and give for example 2, or 0.5 to let two targets share a GPU."
        )
    return {**settings, "ranks": int(share)}


def gpu_share(memory: Estimate, cache: int, card: int) -> float:
    """The share of a GPU of `card` bytes for each training, so that as many as fit run on it together.

    `cache`: bytes of images.u8, which a training keeps on the card where they are few. Errors: not even one fits.
    """
    kept = cache if cache <= DEVICE_SHARE * card else 0
    fit = int(CARD_SHARE * card // max(memory.gpu + kept, 1))
    if not fit:
        raise InputError(
            f"A target needs about {memory.gpu / 2**30:.1f} GiB of GPU memory ({memory.basis}), the smallest card has "
            f"{card / 2**30:.1f}. Lower --set batch_size=... or image_size=..., or give --gpus-per-target 1 to try."
        )
    return 1 / fit


def definite_share(
    ray: ModuleType, wished: float | str | None, device: str, dataset: Any, configs: Iterable[TrainConfig]
) -> float:
    """`wished` as a number: none is a whole GPU where there are GPUs; `auto` fits the largest of the configs."""
    configs = list(configs)
    ranks = max((one.ranks for one in configs), default=1)
    if ranks > 1 and device == "cuda":
        if wished not in (None, ranks):
            raise InputError(f"ranks={ranks} needs a GPU for each: --gpus-per-target {ranks}, not {wished}.")
        return float(ranks)
    if isinstance(wished, float | int):
        return float(wished)
    if device != "cuda" or wished is None or not configs or dataset is None:
        return float(device == "cuda")
    sizes = read_json(DatasetPaths(dataset).manifest)
    largest = max((estimate(one, sizes["size"], sizes["images"]) for one in configs), key=lambda one: one.gpu)
    card = smallest_card(ray)
    return gpu_share(largest, cache_bytes(sizes["images"], sizes["size"]), card) if card else 1.0


def smallest_card(ray: ModuleType) -> int:
    """Bytes of the smallest GPU of all nodes; 0 where no node tells."""
    return min((card["total"] for card in _of_all_cards(ray, cards)), default=0)


def cluster_precision(ray: ModuleType) -> str:
    """What precision=auto is on GPUs: what the oldest of all nodes computes in, so that a target may go to any.

    `auto` where no node tells, or none has a GPU: each training then finds out on the GPU that it gets.
    """
    found = _of_all_cards(ray, capabilities)
    return card_precision(min(found)) if found else "auto"


def _of_all_cards(ray: ModuleType, look: Callable[[], list]) -> list:
    """What `look` tells of the GPUs of every node that has any."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0)]
    if not nodes:
        return []
    from ray.util import scheduling_strategies

    place = scheduling_strategies.NodeAffinitySchedulingStrategy
    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = [remote.options(scheduling_strategy=place(node["NodeID"], soft=False)).remote() for node in nodes]
    return [card for found in ray.get(asked, timeout=ANSWER_SECONDS) for card in found]


def cards() -> list[dict[str, Any]]:
    """This node's GPUs as nvidia-smi tells of them: name, total and used bytes."""
    rows = [[word.strip() for word in line.split(",")] for line in _ask_nvidia("name,memory.total,memory.used")]
    return [{"name": name, "total": int(total) * 2**20, "used": int(used) * 2**20} for name, total, used in rows]


def capabilities() -> list[tuple[int, int]]:
    """The compute capability of each GPU of this node, as nvidia-smi tells it; empty where it is too old to."""
    words = [line.split(".") for line in _ask_nvidia("compute_cap")]
    return [(int(major), int(minor)) for major, minor in words]


def _ask_nvidia(fields: str) -> list[str]:
    """nvidia-smi's line for each GPU; none where there is no nvidia-smi, or it does not know a field."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in answer.splitlines() if line.strip()]


def memory_request(nodes: Iterable[dict[str, Any]], config: TrainConfig, gpus: float, host: int) -> int:
    """Bytes to reserve on a node, so that no more trainings start than have room.

    Never more than the largest node that could run it offers: an estimate may be too high, and alone there is no harm
    in trying. 0 where no such node tells of its memory.
    """
    offers = [
        node["Resources"].get("memory", 0)
        for node in nodes
        if node["Alive"]
        and node["Resources"].get("CPU", 0) >= config.threads
        and node["Resources"].get("GPU", 0) >= gpus
    ]
    return int(min(host, max(offers, default=0)))
