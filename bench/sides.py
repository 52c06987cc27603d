"""What the training benchmarks compare: hilum's own steps, the bare network (the limit) and the classic loop.

In: a Setup as JSON, in a process of its own (`python -m bench.sides JSON`), which says `ready` when it is warm and
measures for every line that it is sent: `N` is seconds. Out: a line of JSON for each: images, seconds. Called by
`bench.train_throughput` and `bench.gpu`; needs neither Ray nor pandas, and Pillow and torchvision for the classic loop
only.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

Steps = Callable[[int], None]
FOREVER = 1e9  # minutes between checkpoints: none falls into a measurement
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25
LEAST_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Setup:
    side: str  # hilum, limit, classic
    backbone: str
    size: int
    batch: int
    threads: int
    precision: str  # fp32, bf16
    device: str = "cpu"
    data: str = ""  # hilum: a folder of `write_films`; classic: a folder of image files
    workers: int = 0  # classic
    channels_last: bool = True  # classic
    deterministic: bool = False  # hilum
    warm: int = 2  # steps before the first measurement


def write_films(folder: Path, films: np.ndarray) -> Path:
    """A folder that opens as a data set's cache does: the pixels and what says how many."""
    from models.files.layout import DatasetPaths, write_json

    folder.mkdir(parents=True)
    paths = DatasetPaths(folder)
    films.tofile(paths.images)
    write_json(paths.manifest, {"images": len(films), "size": films.shape[1]})
    return folder


def hilum_steps(setup: Setup, folder: Path) -> Steps:
    """The trainer's own epochs over the memory map: batches, augmentation, optimiser, gathering of the figures."""
    from models.config import TrainConfig
    from models.data.cache import open_images
    from models.data.loading import Pixels
    from models.data.targets import Targets
    from models.files.layout import TargetPaths
    from models.training.checkpoint import Progress
    from models.training.loop import Task, train_epoch
    from models.training.optimisation import assemble

    images = open_images(setup.data)
    config = TrainConfig(backbone=setup.backbone, batch_size=setup.batch, threads=setup.threads, epochs=10**6,
                         precision=setup.precision, device=setup.device, deterministic=setup.deterministic,
                         checkpoint_minutes=FOREVER)  # fmt: skip
    pixels = Pixels(images=images, mean=PIXEL_MEAN, std=PIXEL_STD, size=setup.size, device=setup.device)
    attempt = TargetPaths(folder).new_attempt()
    epochs = iter(range(config.epochs))

    def steps(count: int) -> None:
        films = np.arange(count * setup.batch)
        value = (films % 2).astype(np.float32)
        ones = np.ones(len(films), np.float32)
        names = np.full(len(films), b"film")
        targets = Targets(
            row=films % len(images), part=np.zeros(len(films), np.uint8), value=value, weight=ones, draw=ones,
            image_id=names,
        )  # fmt: skip
        task = Task(config=config, targets=targets, pixels=pixels, paths=attempt, still_wanted=lambda: None)
        train_epoch(task, machine, Progress(epoch=next(epochs)), films)

    machine = assemble(config, np.array([0.0, 1.0]))
    return steps


def bare_step(setup: Setup) -> Callable[[Any, Any], None]:
    """What no loop can do without: forward, backward, update of the same network in the same number format."""
    import timm
    import torch

    torch.manual_seed(0)
    layout = torch.channels_last if setup.channels_last else torch.contiguous_format
    network = timm.create_model(setup.backbone, num_classes=1, in_chans=1).to(setup.device, memory_format=layout)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    kind = torch.device(setup.device).type

    def step(batch: Any, truth: Any) -> None:
        batch = batch.to(setup.device, memory_format=layout)
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=setup.precision == "bf16"):
            logit = network(batch)[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit.float(), truth.to(setup.device))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def limit_steps(setup: Setup, _: Path) -> Steps:
    """The bare step on one batch that lies in the device's memory."""
    import torch

    step = bare_step(setup)
    batch = torch.randn(setup.batch, 1, setup.size, setup.size, device=setup.device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    truth = (torch.arange(setup.batch, device=setup.device) % 2).float()

    def steps(count: int) -> None:
        for _ in range(count):
            step(batch, truth)
        if setup.device.startswith("cuda"):
            torch.cuda.synchronize()

    return steps


def classic_steps(setup: Setup, _: Path) -> Steps:
    """One file decoded and augmented for every item, with Pillow and torchvision, by the workers of a DataLoader."""
    import torch
    from PIL import Image
    from torchvision import transforms

    files = sorted(Path(setup.data).iterdir())
    change = transforms.Compose([
        transforms.Resize((setup.size, setup.size)),
        transforms.RandomAffine(7, translate=(0.06, 0.06), scale=(0.9, 1.1)),
        transforms.ColorJitter(brightness=0.15, contrast=0.2),
        transforms.ToTensor(),
        transforms.Normalize([PIXEL_MEAN], [PIXEL_STD]),
    ])  # fmt: skip

    class Films(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> tuple[torch.Tensor, float]:
            with Image.open(files[index % len(files)]) as image:
                return change(image.convert("L")), float(index % 2)

    loader = torch.utils.data.DataLoader(Films(), setup.batch, shuffle=True, num_workers=setup.workers)
    batches = iter(loader)
    step = bare_step(setup)

    def steps(count: int) -> None:
        for _ in range(count):
            batch, truth = next(batches)
            step(batch, truth.float())

    return steps


SIDES: Mapping[str, Callable[[Setup, Path], Steps]] = {
    "hilum": hilum_steps,
    "limit": limit_steps,
    "classic": classic_steps,
}


def measure(steps: Steps, batch: int, seconds: float, a_step: float) -> tuple[dict[str, float], float]:
    """About `seconds` of steps in one go; the images and seconds, and what a step took."""
    count = max(LEAST_STEPS, round(seconds / a_step))
    began = time.perf_counter()
    steps(count)
    took = time.perf_counter() - began
    return {"images": count * batch, "seconds": took}, took / count


def serve(setup: Setup) -> None:
    """The measuring process: warm up, then answer lines."""
    from models.training.device import set_threads

    set_threads(setup.threads)
    with tempfile.TemporaryDirectory(prefix="hilum-side-") as folder:
        steps = SIDES[setup.side](setup, Path(folder))
        steps(setup.warm)
        _, a_step = measure(steps, setup.batch, 0, 1.0)
        print("ready", flush=True)
        for line in sys.stdin:
            result, a_step = measure(steps, setup.batch, float(line), a_step)
            if setup.device.startswith("cuda"):
                result["gpu_bytes"] = peak_gpu_bytes()
            print(json.dumps(result), flush=True)


def peak_gpu_bytes() -> int:
    import torch

    return torch.cuda.max_memory_allocated()


@contextlib.contextmanager
def started(setup: Setup) -> Iterator[subprocess.Popen]:
    """The process of a side; `ready` has to be awaited with `answer`."""
    threads = str(setup.threads)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    words = [sys.executable, "-m", "bench.sides", json.dumps(asdict(setup))]
    child = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=10)
        child.kill()
        child.wait()


def answer(child: subprocess.Popen) -> str:
    line = child.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"A side of the benchmark ended with exit code {child.wait()}; its error stands above.")
    return line


def ask(child: subprocess.Popen, seconds: float) -> None:
    child.stdin.write(f"{seconds}\n")
    child.stdin.flush()


def rate(setup: Setup, seconds: float) -> float:
    """Images a second of one side alone, in a fresh process."""
    with started(setup) as child:
        answer(child)
        ask(child, seconds)
        result = json.loads(answer(child))
    return result["images"] / result["seconds"]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    serve(Setup(**json.loads(sys.argv[1])))
