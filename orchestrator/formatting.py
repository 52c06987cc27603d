"""Tables as plain text: nothing is cut off, whatever the width of the terminal."""

from collections.abc import Sequence


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
