"""A data set with its labels: what targets are written from and what answers are judged by.

In: the folder of a DATASET, and a folder with findings of one's own. Out: a `Material`: the label frame, the parts, the
catalogue, and the truth of a finding under the reference contract. Called by whatever trains, fits or judges; the
reference truth is computed here and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.datasets.dataset import Dataset, load_dataset
from pathologies.findings.catalog import load_catalog
from pathologies.findings.pathology import Pathology
from pathologies.labels.contract import LabelContract
from pathologies.labels.resolution import resolve


@dataclass(frozen=True, kw_only=True)
class Material:
    """An open data set, read once. Row i of the frame and entry i of the parts are the same film."""

    dataset: Dataset
    catalog: Mapping[str, Pathology]
    frame: pd.DataFrame
    parts: np.ndarray
    folds: Mapping[int, np.ndarray] = field(default_factory=dict)  # {number of folds: the fold of each film}
    # What was resolved already: a column is taught to every network of a member, and with each fold's other parts.
    resolved: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, compare=False)

    @property
    def patients(self) -> pd.Series:
        """The patient by image_id."""
        return self.frame.set_index("image_id")["patient_id"]

    @property
    def reference_contract(self) -> LabelContract:
        """What alone scores, selects, calibrates and tests."""
        return LabelContract.from_dict(self.dataset.manifest["reference_contract"])

    def truth(self, slug: str, contract: LabelContract | None = None, frame: pd.DataFrame | None = None) -> pd.Series:
        """Float by image_id, NaN where unknown; under the reference contract, or another one, of other labels."""
        frame, contract = self.frame if frame is None else frame, contract or self.reference_contract
        resolved = resolve(frame, slug, contract, self.catalog, labelled=self.dataset.manifest["sources"])
        values = pd.Series(resolved.values.astype(float), index=pd.Index(frame["image_id"], name="image_id"))
        return values.where(resolved.weights > 0)


def read_material(folder: Path, findings: Path | None = None) -> Material:
    """Open the data set in `folder`. Errors: as those of `load_dataset`."""
    return material_of(load_dataset(folder), findings)


def material_of(dataset: Dataset, findings: Path | None = None) -> Material:
    return Material(
        dataset=dataset, catalog=load_catalog(findings), frame=dataset.read_labels_frame(), parts=dataset.parts()
    )


def usable_views(frame: pd.DataFrame, views: str) -> np.ndarray:
    """Which films a network of these views takes. A film of unknown view is taken by `all` only."""
    return np.ones(len(frame), bool) if views == "all" else (frame["view"] == views).to_numpy()
