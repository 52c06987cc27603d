"""Where the commands print: tables to standard output, progress and notes to standard error."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.formatting import aligned

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
