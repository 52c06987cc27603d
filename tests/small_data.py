"""A small prepared data set, written directly: noise films in which a bright disc at a random place is the finding."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from models.data.intensity import INTENSITY_CONTRACT
from models.data.targets import PARTS, Targets
from models.files.layout import DatasetPaths, write_json
from pathologies.labels.contract import reference_contract
from pathologies.splits.assignment import split_hash

SIZE = 32


def disc_films(truth: np.ndarray, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """N x size x size uint8; films with truth 1 hold a disc 60 grey levels brighter than the noise."""
    draws = np.random.default_rng(seed)
    films = draws.normal(110, 25, (len(truth), size, size))
    y, x = np.mgrid[0:size, 0:size]
    for index in np.flatnonzero(truth == 1):
        row, column = draws.uniform(0.25 * size, 0.75 * size, 2)
        films[index] += 60 * ((y - row) ** 2 + (x - column) ** 2 < (0.16 * size) ** 2)
    return np.clip(films, 0, 255).astype(np.uint8)


def label_frame(truth: dict[str, np.ndarray], films_per_patient: int = 2) -> pd.DataFrame:
    """A label frame with clean labels, `films_per_patient` films for each patient."""
    n = len(next(iter(truth.values())))
    patient = [f"patient{index // films_per_patient:05d}" for index in range(n)]
    ids = [f"train/{one}/study1/view{index % films_per_patient + 1}_frontal.jpg" for index, one in enumerate(patient)]
    frame = pd.DataFrame(
        {
            "image_id": ids,
            "patient_id": patient,
            "study_id": [f"{one}/study1" for one in patient],
            "view": "frontal",
            "projection": "AP",
            "age": np.float32(50),
            "sex": "F",
            "path": ids,
            "official_split": "",
            "source": "chexpert",
            "no_finding": np.full(n, np.nan, np.float32),
        }
    )
    for slug, value in truth.items():
        frame[slug] = value.astype(np.float32)
    return frame


def parts_of(frame: pd.DataFrame) -> np.ndarray:
    """Patients in turn: five of nine to `train`, one to `select`, one to `calibrate`, two to `test`."""
    number = frame["patient_id"].str[-5:].astype(int).to_numpy() % 9
    return np.array(["train"] * 5 + ["select", "calibrate", "test", "test"])[number]


def disc_dataset(root: Path, slugs: tuple[str, ...], never: tuple[str, ...] = ()) -> Path:
    """180 films; the disc is pneumonia, the other findings are by chance, and those of `never` nobody has."""
    draws = np.random.default_rng(0)
    truth = {slug: (draws.random(180) < 0.4).astype(float) for slug in slugs}
    return write_dataset(root, truth | dict.fromkeys(never, np.zeros(180)), disc_films(truth["pneumonia"]))


def write_dataset(root: Path, truth: dict[str, np.ndarray], films: np.ndarray) -> Path:
    """A complete DATASET folder; the manifest has what readers of a data set rely on."""
    paths = DatasetPaths(root)
    root.mkdir(parents=True)
    frame = label_frame(truth)
    parts = parts_of(frame)
    frame.to_parquet(paths.labels, index=False)
    films.tofile(paths.images)
    pd.DataFrame({"image_id": frame["image_id"], "patient_id": frame["patient_id"], "part": parts}).to_csv(
        paths.split, index=False
    )
    pd.DataFrame({"image": [], "reason": []}).to_csv(paths.rejected, index=False)
    slugs = list(truth)
    manifest = {
        "format": "hilum-dataset/1",
        "source": "chexpert",
        "sources": {"chexpert": slugs},
        "findings": slugs,
        "images": len(films),
        "size": films.shape[1],
        "letterbox": True,
        "intensity": INTENSITY_CONTRACT,
        "pixel_mean": float(films.mean() / 255),
        "pixel_std": float(films.std() / 255),
        "fractions": [5 / 9, 1 / 9, 1 / 9, 2 / 9],
        "seed": 0,
        "fold": None,
        "split_hash": split_hash(frame, parts),
        "labels_sha256": hashlib.sha256(paths.labels.read_bytes()).hexdigest(),
        "images_sha256": hashlib.sha256(paths.images.read_bytes()).hexdigest(),
        "label_file_sha256": "",
        "reference_contract": reference_contract(slugs).to_dict(),
        "filters": {},
        "rejected": {},
        "parts": {},
    }
    write_json(paths.manifest, manifest)
    return root


def make_dataset(root: Path, slugs: tuple[str, ...] = ("pneumonia",), films: int = 180, seed: int = 0) -> Path:
    """Films whose disc stands for the first finding; the others are drawn by chance."""
    draws = np.random.default_rng(seed)
    truth = {slug: (draws.random(films) < 0.4).astype(float) for slug in slugs}
    return write_dataset(root, truth, disc_films(truth[slugs[0]], seed=seed))


def make_targets(truth: np.ndarray) -> Targets:
    """Targets of films in order, in the parts of `parts_of`."""
    frame = label_frame({"pneumonia": truth})
    parts = parts_of(frame)
    value = np.where(np.isin(parts, ("train", "select")), truth, np.nan).astype(np.float32)
    return Targets(
        row=np.arange(len(truth)),
        part=np.array([PARTS.index(part) for part in parts], np.uint8),
        value=value,
        weight=(~np.isnan(value)).astype(np.float32),
        draw=np.ones(len(truth), np.float32),
        image_id=frame["image_id"].to_numpy(str).astype(bytes),
    )
