"""The rooms of hilum and which of them imports which, read from the code: the picture docs/rooms.png.

In: the three packages. Out: the picture, which carries the imports it shows as text, so that a test can compare them
with the code. Run by hand, as `python docs/draw_rooms.py`, when rooms or the imports between them have changed;
`tests/test_architecture.py` holds the table of the rooms and says when the picture is old.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

PROJECT = Path(__file__).resolve().parent.parent
PICTURE = Path(__file__).with_name("rooms.png")
PACKAGES = ("pathologies", "models", "orchestrator")
# Of the picture. Package: height of its band, how high it is, colour, title, what lies beside its rooms.
BANDS = {
    "orchestrator": (4.45, 3.3, "#dbe9f6", "orchestrator/   MANY targets", "Ray lives here only"),
    "models": (2.35, 1.95, "#e4f1dd", "models/   ONE target, from pixels to a calibrated classifier",
               "config lies below\nall rooms\ntorch, torchvision,\ntimm; no Ray"),
    "pathologies": (0.25, 1.95, "#fbeedb", "pathologies/   WHAT is predicted and what its labels mean",
                    "errors, table_files lie below all rooms\nnumpy, pandas; no torch, no Ray"),
}  # fmt: skip
# Room: column, row, a few words. What a room imports stands in a column further left.
PLACES = {
    "pathologies.findings": (0, 0, "one TOML file each"),
    "pathologies.labels": (1, 0, "raw labels to targets"),
    "pathologies.splits": (2, 0, "parts, duplicates"),
    "pathologies.sources": (3, 0, "readers of label files"),
    "pathologies.phantom": (0, 0.85, "synthetic films"),
    "models.files": (0, 0, "paths, whole files"),
    "models.statistics": (2, 0.85, "figures, calibration"),
    "models.data": (1, 0, "images to batches"),
    "models.network": (2, 0, "networks, losses"),
    "models.training": (3, 0, "the training loop"),
    "models.process": (4, 0, "one isolated process"),
    "models.classifier": (3, 0.85, "blend and calibration"),
    "orchestrator.storage": (0, 1, "folders, object storage"),
    "orchestrator.datasets": (1, 1, "prepare, merge"),
    "orchestrator.planning": (2, 2, "jobs and their files"),
    "orchestrator.training": (3, 2, "launch, Ray"),
    "orchestrator.cluster": (4, 2.6, "jobs, doctor"),
    "orchestrator.tuning": (4, 1.7, "search per finding"),
    "orchestrator.inference": (2, 0, "bundles, predict"),
    "orchestrator.ensembling": (3, 0, "bundles made, adapted"),
    "orchestrator.evaluation": (4, 0.5, "what answers are worth"),
    "orchestrator.cli": (5, 1.2, "the commands"),
}
WIDTH, HEIGHT = 1.6, 0.6
DOORS = ("label file\n+ images", "DATASET", "RUN", "BUNDLE", "predictions")
STEPS = ("prepare", "train", "ensemble", "predict")


def module_name(path: Path, root: Path = PROJECT) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name in it or "") of every import, at the top and inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from ((node.module, alias.name) for alias in node.names)


def file_imports(root: Path = PROJECT) -> dict[str, dict[str, set[str]]]:
    """module -> module of ours that it imports -> the names that it takes from there."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    modules = {module_name(path, root): path for path in paths}
    found: dict[str, dict[str, set[str]]] = {}
    for module, path in modules.items():
        found[module] = {}
        for source, name in imported_names(ast.parse(path.read_text(encoding="utf-8"))):
            if f"{source}.{name}" in modules:
                found[module].setdefault(f"{source}.{name}", set())
            elif source in modules:
                found[module].setdefault(source, set()).add(name)
    return found


def room_of(module: str) -> str:
    """`models.data.cache` and `models.data` -> `models.data`; a file beside the rooms is a room of its own."""
    return ".".join(module.split(".")[:2])


def room_imports(imports: Mapping[str, Mapping[str, set[str]]]) -> dict[str, set[str]]:
    """room -> the rooms that it imports."""
    rooms: dict[str, set[str]] = {}
    for module, imported in imports.items():
        rooms.setdefault(room_of(module), set()).update(room_of(other) for other in imported)
    return {room: others - {room} for room, others in rooms.items()}


def lines_of(rooms: Mapping[str, set[str]]) -> list[str]:
    """`room -> room` for every import between two rooms of one package; PLACES has the rooms."""
    return sorted(
        f"{room} -> {other}"
        for room in PLACES
        for other in rooms.get(room, ())
        if other in PLACES and other.partition(".")[0] == room.partition(".")[0]
    )


def shown_lines(path: Path = PICTURE) -> list[str]:
    """The imports that the picture was drawn from."""
    with Image.open(path) as picture:
        return picture.text["Imports"].split("\n")


def _steps(rooms: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The imports without those that follow from others: who imports `training` and `storage` is above both."""
    edges = {tuple(line.split(" -> ")) for line in lines_of(rooms)}
    down = {edge for edge in edges if _column(edge[0]) > _column(edge[1])}

    def far(room: str, goal: str) -> bool:
        """Whether another import of the room leads to the goal."""
        others = [below for above, below in down if above == room and below != goal]
        return any((below, goal) in down or far(below, goal) for below in others)

    return sorted(edge for edge in edges if edge not in down or not far(*edge))


def _column(room: str) -> float:
    return PLACES[room][0]


def draw(out: Path = PICTURE) -> None:
    """Write the picture; an import against the order of the rooms, from left to right, is red."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import FancyBboxPatch

    rooms = room_imports(file_imports())
    figure, axis = pyplot.subplots(figsize=(13, 9.6))
    axis.set(xlim=(0, 13), ylim=(0, 9.6))
    axis.axis("off")

    def box(x: float, y: float, width: float, height: float, colour: str, edge: str = "#555555") -> None:
        axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02", fc=colour, ec=edge))

    for package, (base, height, colour, title, beside) in BANDS.items():
        box(0.15, base, 12.7, height, colour)
        axis.text(0.35, base + height - 0.25, title, fontsize=13, weight="bold", va="center")
        axis.text(12.7, base + 0.55, beside, fontsize=9, va="center", ha="right", color="#333333")
        for room, (column, row, text) in PLACES.items():
            if room.startswith(f"{package}."):
                x, y = _corner(column, row, base)
                box(x, y, WIDTH, HEIGHT, "white")
                axis.text(x + WIDTH / 2, y + 0.37, room.partition(".")[2], fontsize=10.5, weight="bold", ha="center")
                axis.text(x + WIDTH / 2, y + 0.13, text, fontsize=7.5, ha="center", color="#333333")
    for room, other in _steps(rooms):
        base = BANDS[room.partition(".")[0]][0]
        (x, y), (left, below) = (_corner(*PLACES[one][:2], base) for one in (room, other))
        up, beside = _column(room) <= _column(other), _column(room) == _column(other)
        if beside:
            start, end = ((x + WIDTH / 2, y + HEIGHT * (y < below)), (left + WIDTH / 2, below + HEIGHT * (y > below)))
        else:
            start, end = ((x + WIDTH * up, y + HEIGHT / 2), (left + WIDTH * (not up), below + HEIGHT / 2))
        colour = "#c0392b" if up else "#555555"
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.1})
    for index, door in enumerate(DOORS):
        x = 0.3 + 2.75 * index
        box(x, 8.3, 1.45, 0.6, "white", "black")
        axis.text(x + 0.72, 8.6, door, ha="center", va="center", fontsize=10)
        if index < len(STEPS):
            axis.annotate("", (x + 2.7, 8.6), (x + 1.5, 8.6), arrowprops={"arrowstyle": "->", "lw": 1.6})
            axis.text(x + 2.1, 8.72, STEPS[index], ha="center", fontsize=9.5, style="italic")
    axis.text(0.3, 9.15, "What a command takes and leaves: folders that say when they are complete", fontsize=11)
    against = any(_column(room) <= _column(other) for room, other in _steps(rooms))
    caption = "What imports what; a package imports those below it" + "; red: against the order, to be opened" * against
    axis.text(0.3, 7.95, caption, fontsize=11)
    metadata = {"Software": None, "Imports": "\n".join(lines_of(rooms))}
    figure.savefig(out, dpi=100, bbox_inches="tight", metadata=metadata)


def _corner(column: float, row: float, base: float) -> tuple[float, float]:
    return 0.4 + 2.1 * column, base + 0.15 + 0.8 * row


if __name__ == "__main__":
    draw()
