"""Features of a frozen encoder for all films of a data set: one pass, kept beside the films under the encoder's digest.

In: a DATASET and which encoder. Out: `features/<digest>/` in it: the features, the encoder's weights and, last,
`features.json`. Called by `hilum embed`. After a kill the same call goes on from the blocks that are whole; the same
encoder a second time is a no-op. Computed in fp32, as a bundle computes them.
"""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.data.features import FORMAT, block_bounds, join_blocks, open_features, read_block, write_block
from models.data.loading import normalise
from models.files.layout import FeaturePaths, read_json, remove_temporaries, write_bytes, write_json
from models.network.encoder import EncoderWish, Opened, open_encoder
from models.training.device import available_device
from orchestrator.datasets.dataset import Dataset, hash_file, load_dataset
from pathologies.errors import InputError

OnEvent = Callable[[dict[str, Any]], None]
BATCH = 32  # films; always so many, so that a block is the same wherever the pass was taken up again


@dataclass(frozen=True, kw_only=True)
class EmbedRequest:
    dataset: Path
    wish: EncoderWish
    device: str = "auto"
    threads: int | None = None  # none: as many as torch takes


def embed(request: EmbedRequest, on_event: OnEvent) -> dict[str, Any]:
    """The description of the features. Errors: InputError; FileNotFoundError.

    Events: {"event": "encoder", "message"}, {"event": "progress", "done", "total"} in films.
    """
    dataset, device = load_dataset(request.dataset), available_device(request.device)
    if request.threads:
        torch.set_num_threads(request.threads)
    opened = open_encoder(request.wish, dataset.manifest)
    paths = dataset.paths.features(opened.facts.digest)
    on_event({"event": "encoder", "message": opened.start})
    if paths.description.is_file() and not paths.blocks.exists():
        found = read_json(paths.description)
        _require_these(paths, found, dataset)
        return found | {"computed": False, "digest": opened.facts.digest}
    with _alone(paths):
        if not paths.description.is_file():
            _compute(paths, dataset, opened, device, on_event, request.wish.encoder)
        found = read_json(paths.description)
    shutil.rmtree(paths.blocks, ignore_errors=True)
    return found | {"computed": True, "digest": opened.facts.digest}


def _compute(paths: FeaturePaths, dataset: Dataset, opened: Opened, device: str, on_event: OnEvent, name: str) -> None:
    remove_temporaries(paths.root)
    remove_temporaries(paths.blocks)
    dataset.check_images()
    write_bytes(paths.encoder, opened.content)
    images, started = dataset.images(), time.monotonic()
    network, width, fresh = opened.network.to(device), opened.facts.features, 0
    for number, (start, stop) in enumerate(block_bounds(len(images))):
        if read_block(paths, number, (stop - start, width)) is None:
            write_block(paths, number, _features(network, images[start:stop], opened, device))
            fresh += stop - start
        on_event({"event": "progress", "done": stop, "total": len(images)})
    seconds = time.monotonic() - started
    digest = join_blocks(paths, len(images), width)
    description = {
        "format": FORMAT,
        "name": name,
        "encoder": opened.facts.to_dict(),
        "start": opened.start,
        "films": len(images),
        "images_sha256": dataset.manifest["images_sha256"],
        "features_sha256": digest,
        "seconds_per_film": round(seconds / fresh, 6) if fresh else None,
        "device": device,
    }
    open_features(paths, description)
    write_json(paths.description, description)


def _features(network: Any, films: np.ndarray, opened: Opened, device: str) -> np.ndarray:
    """N x H x W uint8 -> N x F float32. Errors: InputError where a feature is no number."""
    facts, found = opened.facts, []
    with torch.inference_mode():
        for start in range(0, len(films), BATCH):
            pixels = torch.from_numpy(np.array(films[start : start + BATCH])).to(device)
            found.append(
                network(normalise(pixels, facts.pixel_mean, facts.pixel_std, facts.size)).float().cpu().numpy()
            )
    block = np.concatenate(found)
    if not np.isfinite(block).all():
        raise InputError("A feature of this encoder is no number for some film. Is the weight file whole?")
    return block


def _require_these(paths: FeaturePaths, found: dict[str, Any], dataset: Dataset) -> None:
    whole = found.get("images_sha256") == dataset.manifest["images_sha256"] and paths.features.is_file()
    if not whole or hash_file(paths.features) != found["features_sha256"]:
        raise InputError(f"{paths.root} is not the features of these films. Remove it and give the command again.")


@contextlib.contextmanager
def _alone(paths: FeaturePaths) -> Iterator[None]:
    """One pass per encoder; the system lets go of the lock when a process dies, however it dies."""
    paths.blocks.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("a", encoding="ascii") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"Another embed is writing {paths.root}. Wait for it.") from None
        yield
