"""A small run and its bundle, trained once per test session: two findings, one or two networks each."""

from pathlib import Path

import numpy as np
from PIL import Image

from models.files.layout import BundlePaths
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.ensembling.bundle_writing import renew_self_test
from orchestrator.inference.bundle_description import write_description
from orchestrator.planning.plan import TrainRequest
from orchestrator.training.launch import train_run
from tests.small_data import make_dataset

SETTINGS = {"backbone": "test_resnet", "epochs": 3, "batch_size": 16, "learning_rate": 5e-3, "precision": "fp32",
            "device": "cpu", "threads": 1}  # fmt: skip
FINDINGS = ("pneumonia", "edema")  # the disc, and a label by chance
FILMS = 360


def silent(event: dict) -> None:
    """An event handler for who does not want events."""


def train_inline(dataset: Path, out: Path, on_event=silent, **request) -> list[dict]:
    """`hilum train --inline` with the small settings, changed by `settings`."""
    settings = SETTINGS | request.pop("settings", {})
    return train_run(TrainRequest(dataset=dataset, out=out, settings=settings, inline=True, **request), on_event)


def make_house(root: Path) -> Path:
    """root/dataset, root/run (pneumonia with two members, edema with one) and root/bundle."""
    dataset = make_dataset(root / "dataset", FINDINGS, films=FILMS)
    train_inline(dataset, root / "run")
    train_inline(dataset, root / "run", targets=("pneumonia",), members=2)
    build_bundle(EnsembleRequest(run=root / "run", out=root / "bundle"))
    return root


def rewrite_bundle(folder: Path, description: dict, test: bool = True) -> None:
    """The bundle as one that was made so: sealed and, with `test`, with the answers of its self-test renewed."""
    paths = BundlePaths(folder)
    if test:
        renew_self_test(description, paths)
    write_description(description, paths)


def write_films(folder: Path, films: np.ndarray, suffix: str = ".png") -> list[Path]:
    """Every film as a file, named by its number; PNG keeps each pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"film{index:03d}{suffix}" for index in range(len(films))]
    for path, film in zip(paths, films, strict=True):
        Image.fromarray(film).save(path)
    return paths
