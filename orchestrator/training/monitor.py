"""What the files of a job tell while its process trains.

In: a Job. Out: events, each once. Called by the launcher at every turn of its waiting, for hours and beside trainings
that need every core, so of a history only what is new is read.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.files.layout import parse_json_lines
from orchestrator.planning.plan import Job


class Watch:
    """What is new since the watch began: the job's start, and each epoch."""

    def __init__(self, job: Job) -> None:
        earlier = job.paths.newest_attempt()
        self.job = job
        self.begun = self.attempt = earlier.number if earlier else 0
        self.epoch = 0
        self.file, self.told = -1, 0  # the inode of the history, and how many of its bytes are known

    def news(self) -> Iterator[dict[str, Any]]:
        attempt = self.job.paths.newest_attempt()
        if attempt is None or attempt.number == self.begun:  # the one of an earlier command: this job still waits
            return
        if attempt.number > self.attempt:
            self.attempt = attempt.number
            yield {"event": "started", "job": self.job.name, "attempt": attempt.number}
        for row in parse_json_lines(self._further(attempt.history)):
            if row["epoch"] > self.epoch:
                self.epoch = row["epoch"]
                yield {"event": "epoch", "job": self.job.name, "row": row, "epochs": self.job.config.epochs}

    def _further(self, history: Path) -> str:
        """The whole lines that were added. A training that goes on replaces the file by a shorter one."""
        try:
            with open(history, "rb") as stream:
                found = os.fstat(stream.fileno())
                if found.st_ino != self.file or found.st_size < self.told:
                    self.file, self.told = found.st_ino, 0
                stream.seek(self.told)
                added, end, _ = stream.read().rpartition(b"\n")
        except FileNotFoundError:
            return ""
        self.told += len(added + end)
        return added.decode("utf-8", errors="replace")
