"""What a data set's manifest says: what was asked for, what the rows hold, what the pixels measure.

In: what was asked for, the usable rows with their parts, the joined images. Out: plain data without times or places, so
that the same input gives the same bytes; written last. Called by `orchestrator.datasets.prepare` and `merge`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from models.data.cache import measure_pixels
from models.files.layout import DatasetPaths, to_plain, write_json
from orchestrator.datasets.dataset import SEAL, hash_file, manifest_hash
from pathologies.labels.contract import reference_contract
from pathologies.labels.frame import LABEL_CODES
from pathologies.splits.assignment import PARTS, drift_warnings, split_hash

# Positive rates of smaller parts differ by whole percentage points even when they are split as evenly as can be.
SMALLEST_COMPARED = 500


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


def describe_files(
    paths: DatasetPaths, images_sha256: str, size: int, parts: np.ndarray, rejected: pd.DataFrame
) -> dict[str, Any]:
    """Hashes of what is written, how many were rejected and why, and the pixels' mean and standard deviation.

    The pixels are those of part `train`, or all where it is empty.
    """
    rows = np.flatnonzero(parts == "train")
    mean, std = measure_pixels(map_images(paths, len(parts), size), rows if len(rows) else np.arange(len(parts)))
    hashes = {"images_sha256": images_sha256, "labels_sha256": hash_file(paths.labels)}
    return hashes | {"rejected": dict(Counter(rejected["reason"])), "pixel_mean": mean, "pixel_std": std}


def map_images(paths: DatasetPaths, count: int, size: int) -> np.memmap:
    """The joined images, before there is a manifest that says how many there are."""
    return np.memmap(paths.images, np.uint8, mode="r", shape=(count, size, size))


def write_manifest(paths: DatasetPaths, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write `manifest.json`, which completes the data set, with its own hash; returns what it says."""
    plain = to_plain(manifest)
    plain |= {SEAL: manifest_hash(plain)}
    write_json(paths.manifest, plain)
    return plain


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
