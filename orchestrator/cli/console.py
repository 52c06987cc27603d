"""Where the commands print: tables to standard output, progress and notes to standard error.

In: lines, tables, events. Out: text; on a terminal a bar, and a table of a run that is drawn anew. Called by every file
of commands.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from orchestrator.formatting import aligned
from orchestrator.progress import COLUMNS, RunProgress, cells

output = Console(soft_wrap=True, highlight=False)
errors = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line for the person at the terminal."""
    errors.print(text, markup=False, soft_wrap=True)


def show_table(columns: Sequence[object], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """A plain table on standard output."""
    if title:
        output.print(title, markup=False, style="bold")
    output.print(aligned(columns, rows), markup=False)


def progress_bar(what: str) -> AbstractContextManager[Progress]:
    """A bar on a terminal; elsewhere nothing, so that logs stay readable."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True)


class Board:
    """The live table of a run: every target's state, epoch, loss, select AUC, images/s and remaining time.

    Use as a context manager and hand `board.on_event` to the launcher. Without a terminal, one line per event.
    """

    def __init__(self, console: Console, say: Callable[[str], None]) -> None:
        self.progress = RunProgress()
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
        line = self.progress.take(event)
        if not self.live:
            self.say(line)

    def table(self) -> Table:
        table = Table(*COLUMNS, box=None, pad_edge=False)
        for line in self.progress.lines.values():
            table.add_row(*map(Text, cells(line)))  # an error's sentence may hold brackets, which are no markup here
        return table
