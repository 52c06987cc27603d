"""What the tests of the label readers share: writing small files, and what every label frame promises."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd

from pathologies.labels.frame import META_COLUMNS


def write(path: Path, *lines: str) -> Path:
    """A text file of these lines, gzipped if the name says so."""
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def check_frame(read, rows: int) -> pd.DataFrame:
    """What the label frame promises, whatever the source."""
    frame = read.frame
    assert list(frame.columns) == [*META_COLUMNS, *read.findings]
    assert len(frame) == rows
    assert frame["image_id"].is_unique
    assert all(frame[slug].dtype == np.float32 and frame[slug].notna().any() for slug in read.findings)
    assert set(frame["view"]) <= {"frontal", "lateral", ""}
    assert set(frame["projection"]) <= {"AP", "PA", "LL", "RL", ""}
    assert not frame[["image_id", "patient_id", "study_id", "path"]].isna().to_numpy().any()
    assert list(read.dropped.columns) == ["image", "reason"]
    return frame
