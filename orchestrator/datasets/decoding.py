"""Decode every film of a label frame once, on all cores, into shards that survive a kill.

In: rows (image_id, path), the folder of the images and the side in pixels. Out: shard files in order, and for every row
why it cannot be used, or "". Called by `orchestrator.datasets.prepare`.

Threads, not processes: Pillow lets go of the interpreter's lock while it decodes and resizes. On 2 cores, 785 PNG of
320 x 320, 100 PNG of 1024 x 1024 and 60 JPEG of 2320 x 2828 took 1263, 166 and 75 images a second with two threads, and
1083, 157 and 73 with two processes; and no worker is left over when the program is killed.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.data.cache import Shard, read_shard_reasons, write_shard
from models.data.images import try_load_image
from models.data.intensity import INTENSITY_CONTRACTS, NEWEST
from pathologies.errors import InputError

OnEvent = Callable[[dict[str, Any]], None]
SHARD_BYTES = 2**26
PROGRESS_EVERY = 32


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    image_ids: Sequence[str]
    files: Sequence[Path]  # one per image_id
    size: int
    folder: Path  # of the shards
    workers: int | None = None  # none: one per CPU
    shard_images: int = 512  # fewer where they would be more than SHARD_BYTES
    max_rejected: float = 0.10
    intensity: int = NEWEST  # version of the intensity contract


@dataclass(frozen=True, kw_only=True)
class Decoded:
    shards: list[Path]  # in the order of the rows
    reasons: list[str]  # one per row; "" for a usable image


def decode_all(request: DecodeRequest, on_event: OnEvent) -> Decoded:
    """Decode what no earlier call has done. InputError as soon as more than `max_rejected` of all rows are rejected."""
    blocks = _blocks(request)
    reasons = {path: read_shard_reasons(path) for path, _ in blocks}
    pending = [(path, rows) for path, rows in blocks if reasons[path] is None]
    tally = _Tally(request, on_event)
    try:
        for path, rows in blocks:
            if reasons[path] is not None:
                tally.add(rows, reasons[path])
        if tally.done:
            on_event({"event": "resumed", "message": f"{tally.done} of {tally.total} images were decoded before"})
        for path, results in _decode_blocks(request, pending, tally):
            reasons[path] = tuple(_reason(result) for result in results)
            images = [result for result in results if not isinstance(result, str)]
            stacked = np.stack(images) if images else np.zeros((0, request.size, request.size), np.uint8)
            write_shard(path, Shard(images=stacked, reasons=reasons[path]))
    except TooManyRejected:
        # The files may be put right before the next try, which must look at them again.
        for path, _ in blocks:
            if any(reasons[path] or ()):
                path.unlink(missing_ok=True)
        raise
    return Decoded(shards=[path for path, _ in blocks], reasons=[one for path, _ in blocks for one in reasons[path]])


class TooManyRejected(InputError):
    """More rows than allowed have no usable image."""


class _Tally:
    """Counts rows done and rejected, says so, and stops what cannot end well."""

    def __init__(self, request: DecodeRequest, on_event: OnEvent) -> None:
        self.request, self.on_event = request, on_event
        self.total, self.done = len(request.image_ids), 0
        self.rejected: dict[int, str] = {}

    def add(self, rows: Sequence[int], reasons: Sequence[str]) -> None:
        self.done += len(rows)
        self.rejected |= {row: reason for row, reason in zip(rows, reasons, strict=True) if reason}
        self.on_event({"event": "progress", "done": self.done, "total": self.total, "rejected": len(self.rejected)})
        self._require_few_rejected()

    def _require_few_rejected(self) -> None:
        if len(self.rejected) <= self.request.max_rejected * self.total:
            return
        first = "\n".join(f"  {self.request.files[row]}: {self.rejected[row]}" for row in sorted(self.rejected)[:5])
        so_far = "" if self.done == self.total else f" ({self.done} looked at so far)"
        raise TooManyRejected(
            f"{len(self.rejected)} of {self.total} images cannot be used{so_far}; at most "
            f"{self.request.max_rejected:.0%} may be rejected. The first:\n{first}\n"
            "Check the folder of the images, or allow more with max_rejected."
        )


def _blocks(request: DecodeRequest) -> list[tuple[Path, range]]:
    """Shard files and their rows. The name holds a hash of what the content depends on, so that no other is reused."""
    step = max(1, min(request.shard_images, SHARD_BYTES // request.size**2))
    blocks = []
    for start in range(0, len(request.image_ids), step):
        rows = range(start, min(start + step, len(request.image_ids)))
        files = [str(request.files[row].absolute()) for row in rows]
        content = [
            request.size,
            INTENSITY_CONTRACTS[request.intensity],
            [request.image_ids[row] for row in rows],
            files,
        ]
        key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
        blocks.append((request.folder / f"{start // step:06d}-{key}.npz", rows))
    return blocks


def _decode_blocks(
    request: DecodeRequest, blocks: list[tuple[Path, range]], tally: _Tally
) -> Iterator[tuple[Path, list[np.ndarray | str]]]:
    """Each block with an image or a reason per row. The next block is decoded while the caller writes this one."""

    def submit(rows: range) -> list[Future]:
        return [pool.submit(try_load_image, request.files[row], request.size, request.intensity) for row in rows]

    pool = ThreadPoolExecutor(request.workers or os.cpu_count() or 1, thread_name_prefix="decode")
    try:
        ahead = submit(blocks[0][1]) if blocks else []
        for index, (path, rows) in enumerate(blocks):
            futures, ahead = ahead, submit(blocks[index + 1][1]) if index + 1 < len(blocks) else []
            results: list[np.ndarray | str] = []
            for start in range(0, len(rows), PROGRESS_EVERY):
                news = [future.result() for future in futures[start : start + PROGRESS_EVERY]]
                tally.add(rows[start : start + PROGRESS_EVERY], [_reason(one) for one in news])
                results += news
            yield path, results
    finally:
        pool.shutdown(cancel_futures=True)


def _reason(result: np.ndarray | str) -> str:
    return result if isinstance(result, str) else ""
