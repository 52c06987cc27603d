"""Task: what a training works on, and how it writes. Made by models.process.job, handed through models.training."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from models.config import TrainConfig
from models.data.loading import Pixels
from models.data.targets import Targets
from models.files.layout import AttemptPaths, write_bytes
from models.files.retry import Retry
from models.training.stop_request import StopRequest


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training: what it learns from, how, and where its files go."""

    config: TrainConfig
    targets: Targets
    pixels: Pixels
    paths: AttemptPaths
    still_wanted: Callable[[], None]  # raises when this process should end: its parent is gone, or it was superseded
    stop: StopRequest = field(default_factory=StopRequest)  # set when the process was asked to end: checkpoint first
    retry: Retry = field(default_factory=Retry)  # with a disk that does not take a file
    branch: Path | None = None  # the state of a shared network that this training goes on from; it need not exist

    def endable(self) -> "Task":
        """The same for work that any batch may end with Interrupted, once the process was asked to end."""

        def on_batch(before: Callable[[], None] | None = self.pixels.on_batch) -> None:
            if before:
                before()
            self.stop.check()

        return replace(self, pixels=replace(self.pixels, on_batch=on_batch))

    def write(self, path: Path, data: bytes) -> None:
        self.retry.write(lambda: write_bytes(path, data), path, len(data))
