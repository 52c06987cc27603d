"""Figures and tables as plain text: nothing is cut off, whatever the width of the terminal.

In: numbers, intervals, rows of cells. Out: text, or a CSV file. Called by whatever tells a reader something;
imports nothing heavy.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.files.layout import publishing

if TYPE_CHECKING:
    import pandas as pd

    from models.statistics.bootstrap import Interval


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """A figure as text; "-" where it does not exist. `sign="+"`: also of a positive one."""
    return "-" if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def cell(value: float | None, sign: str = "") -> str:
    """As `number`, and empty where it does not exist."""
    text = number(value, sign=sign)
    return "" if text == "-" else text


def beside(text: str, yardstick: float) -> str:
    """A figure with its yardstick in brackets."""
    return text if text == "-" else f"{text} ({number(yardstick)})"


def span(figure: "Interval", digits: int = 3) -> str:
    """A figure with its interval: 0.853 (0.811-0.890)."""
    ends = "" if math.isnan(figure.low) else f" ({number(figure.low, digits)}-{number(figure.high, digits)})"
    return number(figure.value, digits) + ("" if math.isnan(figure.value) else ends)


def signed(value: float | None, low: float | None, high: float | None) -> str:
    """A difference with its interval: +0.012 (-0.003 to +0.027)."""
    text, lowest, highest = (number(one, sign="+") for one in (value, low, high))
    return text if "-" in (text, lowest) else f"{text} ({lowest} to {highest})"


def aligned(titles: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Columns two blanks apart, the first to the left, the others to the right."""
    table = [[str(cell) for cell in row] for row in [titles, *rows]]
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def short_names(paths: Sequence[str]) -> list[str]:
    """The part of each path in which it differs from the others: patient00001 for .../patient00001/study1/view1.jpg."""
    parts = [path.replace("\\", "/").split("/") for path in paths]
    if len(set(paths)) < 2:
        return [one[-1] for one in parts]
    while all(len(one) > 1 and one[0] == parts[0][0] for one in parts):
        parts = [one[1:] for one in parts]
    while all(len(one) > 1 and one[-1] == parts[0][-1] for one in parts):
        parts = [one[:-1] for one in parts]
    return ["/".join(one) for one in parts]


def counted(number: int, noun: str) -> str:
    """'1 image', '1,200 images'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def write_csv(frame: "pd.DataFrame", path: Path, **options: Any) -> None:
    """A table as a file, whole or absent. `options`: of `DataFrame.to_csv`."""
    with publishing(path) as temporary:
        frame.to_csv(temporary, index=False, **options)
