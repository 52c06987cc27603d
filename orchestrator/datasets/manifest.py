"""What a data set's manifest says: what was asked for, what the rows hold, what the pixels measure.

In: the request, the usable rows with their parts, the joined images. Out: plain data without times or places, so that
the same input gives the same bytes. Called by `orchestrator.datasets.prepare`, which writes it last.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from models.data.cache import measure_pixels
from models.data.intensity import INTENSITY_CONTRACTS, NEWEST
from models.files.layout import DatasetPaths, read_json, to_plain
from orchestrator.datasets.dataset import FORMAT, hash_file
from pathologies.labels.contract import reference_contract
from pathologies.labels.frame import LABEL_CODES
from pathologies.splits.assignment import PARTS, drift_warnings, split_hash

if TYPE_CHECKING:
    from orchestrator.datasets.prepare import PrepareRequest

# Positive rates of smaller parts differ by whole percentage points even when they are split as evenly as can be.
SMALLEST_COMPARED = 500


def describe_request(request: "PrepareRequest") -> dict[str, Any]:
    """The part of the manifest that the request decides: what a second prepare is compared with."""
    if not request.labels.is_file():
        raise FileNotFoundError(f"No label file at '{request.labels}'. Give the path of a .csv or .csv.gz file.")
    if not request.images.is_dir():
        raise FileNotFoundError(f"No image folder at '{request.images}'. Give the folder that holds the images.")
    return to_plain(
        {
            "format": FORMAT,
            "source": request.source,
            "label_file_sha256": hash_file(request.labels),
            "size": request.size,
            "letterbox": True,
            "intensity": INTENSITY_CONTRACTS[request.intensity or NEWEST],
            "fractions": request.fractions,
            "seed": request.seed,
            "fold": request.fold,
            "official": request.official,
            "shared_split": read_json(request.shared_split).get("hash") if request.shared_split else None,
            "filters": {
                "patients": request.patients,
                "frontal": request.frontal,
                "first_studies": request.first_studies,
                "projections": request.projections,
            },
            "options": {name: _fingerprint(value) for name, value in request.options.items() if value is not None},
        }
    )


def _fingerprint(value: object) -> object:
    """An option's value; where it names a file, or a folder of lists, the hash of the content instead of the place."""
    path = Path(str(value))
    if path.is_file():
        return f"sha256:{hash_file(path)}"
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix in (".txt", ".csv") and one.is_file())
        lines = "".join(f"{one.name}\t{hash_file(one)}\n" for one in files)
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    return value


def differences(manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A line for every key of `wanted` of which the manifest says something else."""
    return [
        f"{name}: it has {_short(manifest.get(name))}, asked for {_short(value)}"
        for name, value in wanted.items()
        if manifest.get(name) != value
    ]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def describe_rows(frame: pd.DataFrame, parts: np.ndarray, findings: Sequence[str]) -> dict[str, Any]:
    """What the labels and the split hold, for the manifest."""
    findings = list(findings)
    described = {}
    for part in PARTS:
        rows = frame[parts == part]
        positives = {slug: int((rows[slug] == 1).sum()) for slug in findings}
        patients = int(rows["patient_id"].nunique())
        described[part] = {"images": len(rows), "patients": patients, "positives": positives}
    return {
        "sources": {name: findings for name in sorted(frame["source"].unique())},
        "findings": findings,
        "label_codes": LABEL_CODES,
        "images": len(frame),
        "parts": described,
        "split_hash": split_hash(frame, parts),
        "reference_contract": reference_contract(findings).to_dict(),
    }


def describe_pixels(paths: DatasetPaths, count: int, size: int, parts: np.ndarray) -> dict[str, float]:
    """Pixel mean and standard deviation of part `train`, or of all images where it is empty."""
    rows = np.flatnonzero(parts == "train")
    images = np.memmap(paths.images, np.uint8, mode="r", shape=(count, size, size))
    mean, std = measure_pixels(images, rows if len(rows) else np.arange(count))
    return {"pixel_mean": mean, "pixel_std": std}


def remarks(frame: pd.DataFrame, parts: np.ndarray, manifest: dict[str, Any]) -> list[str]:
    """What is allowed, and worth a look before training."""
    absent = [slug for slug in manifest["findings"] if not (frame[slug] == 1).any()]
    found = [f"no chosen image is positive for {', '.join(absent)}"] if absent else []
    if not 0.1 <= manifest["pixel_std"] <= 0.5:
        found.append(
            f"the pixels' standard deviation is {manifest['pixel_std']:.3f}; X-rays have 0.1 to 0.5: look at the images"
        )
    sizes = [part["images"] for part in manifest["parts"].values() if part["images"]]
    if min(sizes) >= SMALLEST_COMPARED:
        found += drift_warnings(frame, parts, manifest["findings"])
    return found
