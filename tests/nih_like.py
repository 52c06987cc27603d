"""A small ChestX-ray14 in its own layout, made from a seed: `Data_Entry_2017.csv` and 8-bit PNG films.

Used by the tests of prepare and of what opens a data set.
"""

from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
FINDINGS = ("No Finding", "Pneumonia", "Effusion", "Pneumonia|Edema", "Cardiomegaly")


def write_nih_like(folder: Path, patients: int = 24, films: int = 2, side: int = 40) -> Path:
    """Write the films into `folder`/images; returns the label file."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    lines = [HEADER]
    for patient in range(1, patients + 1):
        for follow_up in range(films):
            name = f"{patient:08d}_{follow_up:03d}.png"
            film = rng.integers(0, 256, (side, side - 8), dtype=np.uint8)
            Image.fromarray(film).save(folder / "images" / name)
            finding = FINDINGS[int(rng.integers(len(FINDINGS)))]
            lines.append(
                f"{name},{finding},{follow_up},{patient},58,M,{'PA' if follow_up else 'AP'},2500,2048,0.1,0.1,"
            )
    labels = folder / "Data_Entry_2017.csv"
    labels.write_text("\n".join(lines) + "\n", encoding="ascii")
    return labels
