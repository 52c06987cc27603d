"""The picture of the rooms in the README: `python docs/draw_rooms.py` writes docs/rooms.png."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import FancyBboxPatch

ROOMS = (
    (0.2, 4.1, 11.6, 1.55, "#dbe9f6", "orchestrator/   MANY targets",
     "plan · launch · search · ensemble · predict · evaluate · the command line        Ray lives here only"),
    (0.2, 2.2, 11.6, 1.55, "#e4f1dd", "models/   ONE target, from pixels to a calibrated classifier",
     "images · augment · network · train · metrics · calibration · classifier        torch, torchvision, timm; no Ray"),
    (0.2, 0.3, 11.6, 1.55, "#fbeedb", "pathologies/   WHAT is predicted and what its labels mean",
     "<slug>.toml · sources · labels · splits · leaks · phantom        numpy, pandas; no torch, no Ray"),
)  # fmt: skip
DOORS = ("label file\n+ images", "DATASET", "RUN", "BUNDLE", "predictions")
STEPS = ("prepare", "train", "ensemble", "predict")


def draw(out: Path) -> None:
    figure, axis = pyplot.subplots(figsize=(12, 7.4))
    for x, y, width, height, colour, title, text in ROOMS:
        axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02", fc=colour, ec="#555555"))
        axis.text(x + 0.25, y + height - 0.45, title, fontsize=14, weight="bold", va="center")
        axis.text(x + 0.25, y + 0.5, text, fontsize=10.5, va="center")
    for low, high in ((1.85, 2.2), (3.75, 4.1)):
        axis.annotate("", (6, low + 0.02), (6, high - 0.02), arrowprops={"arrowstyle": "->", "color": "#555555"})
    axis.text(6.15, 1.93, "imports point down", fontsize=9, color="#555555")
    for index, door in enumerate(DOORS):
        x = 0.35 + 2.4 * index
        axis.add_patch(FancyBboxPatch((x, 6.2), 1.45, 0.7, boxstyle="round,pad=0.02", fc="white", ec="black"))
        axis.text(x + 0.72, 6.55, door, ha="center", va="center", fontsize=10.5)
        if index < len(STEPS):
            axis.annotate("", (x + 2.36, 6.55), (x + 1.5, 6.55), arrowprops={"arrowstyle": "->", "lw": 1.6})
            axis.text(x + 1.93, 6.7, STEPS[index], ha="center", fontsize=9.5, style="italic")
    axis.text(0.35, 7.1, "The doors: folders that say when they are complete", fontsize=11, color="#333333")
    axis.set(xlim=(0, 12), ylim=(0.1, 7.4))
    axis.axis("off")
    figure.savefig(out, dpi=100, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(__file__).with_name("rooms.png"))
