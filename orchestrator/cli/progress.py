"""The live table of a run: every target's state, epoch, loss, select AUC, images/s and remaining time.

In: the launcher's events. Out: a table that is drawn anew on a terminal; elsewhere one line per event. Called by
`hilum train`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.formatting import cell

COLUMNS = ("target", "state", "epoch", "train loss", "select AUC", "images/s", "remaining", "note")


@dataclass
class Line:
    """What is known of one job."""

    job: str
    epochs: int
    state: str = "waiting"
    epoch: int = 0
    row: dict[str, Any] | None = None
    note: str = ""
    began: float = 0.0

    def remaining(self) -> str:
        if self.state != "training" or not self.row:
            return ""
        seconds = (self.epochs - self.epoch) * float(self.row["seconds"])
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


class Board:
    """Follows events; use as a context manager and hand `board.on_event` to the launcher."""

    def __init__(self, console: Console, say: Callable[[str], None]) -> None:
        self.lines: dict[str, Line] = {}
        self.say = say
        self.live = (
            Live(console=console, get_renderable=self.table, refresh_per_second=2) if console.is_terminal else None
        )

    def __enter__(self) -> "Board":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def on_event(self, event: dict[str, Any]) -> None:
        line = self.lines.get(event["job"])
        if event["event"] == "planned":
            line = self.lines[event["job"]] = Line(job=event["job"], epochs=event["epochs"], note=event.get("note", ""))
            if event["finished"]:
                _finish(line, event["outcome"])
                line.note = "was finished already"
        elif event["event"] == "started":
            line.state, line.began = "training", time.monotonic()
            if (event["attempt"] or 1) > 1:
                line.note = f"attempt {event['attempt']}"
        elif event["event"] == "epoch":
            line.state, line.row, line.epoch = "training", event["row"], event["row"]["epoch"]
        elif event["event"] == "again":
            line.state, line.note = "waiting", event["why"]
        elif event["event"] == "finished":
            _finish(line, event["outcome"])
        if not self.live:
            self.say(describe(line, event["event"]))

    def table(self) -> Table:
        table = Table(*COLUMNS, box=None, pad_edge=False)
        for line in self.lines.values():
            table.add_row(*map(Text, cells(line)))  # an error's sentence may hold brackets, which are no markup here
        return table


def cells(line: Line) -> list[str]:
    row = line.row or {}
    return [
        line.job.removesuffix("/0"),
        line.state,
        f"{line.epoch}/{line.epochs}" if line.epoch else "",
        cell(row.get("train_loss")),
        cell(row.get("select_auc")),
        f"{row['images_per_second']:.0f}" if row else "",
        line.remaining(),
        line.note,
    ]


def describe(line: Line, event: str) -> str:
    """One event as one line of text."""
    name = line.job.removesuffix("/0")
    if event == "epoch":
        _, _, epoch, loss, auc, speed, remaining, _ = cells(line)
        return f"{name}: epoch {epoch}, loss {loss}, select AUC {auc}, {speed} images/s, {remaining or '0:00'} to go"
    note = f" ({line.note})" if line.note else ""
    return f"{name}: {line.state}{note}"


def _finish(line: Line, outcome: dict[str, Any]) -> None:
    line.state = outcome["status"]
    if outcome["status"] != "ok":
        line.note = (outcome.get("error") or "")[:200]
        return
    line.note = f"best epoch {outcome['best_epoch']}"
    if outcome.get("selection_rule") not in (None, "auc"):
        line.note += f", by {outcome['selection_rule']}"
