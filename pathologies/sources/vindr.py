"""VinDr-CXR (Nguyen et al., Scientific Data 2022; PhysioNet 1.0.0) and the table of its Kaggle competition.

Goes in: one of
- `image_labels_train.csv`, a row per image and radiologist with 28 columns of 0 and 1, or `image_labels_test.csv`, a
  row per image with the consensus of five;
- `annotations_train.csv` / `annotations_test.csv`, a row per box with the class name, or Kaggle's `train.csv`.
Comes out: the label frame, with the readers' votes resolved into image labels. Called through `registry.read_labels`.

Each training image was read by three of seventeen radiologists. By default two of them make a finding present (1), one
leaves it uncertain (-1), none makes it absent (0). Boxes hold the 22 local findings only (Kaggle: 14 of them); a
finding without a box class there has no column. A finding of several classes is present for a reader who saw any of
them. All films are PA. No patients are published, so every image counts as a patient of its own.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pathologies.errors import InputError
from pathologies.sources import common
from pathologies.sources.common import ReadRequest, SourceFrame

NO_FINDING = "No finding"
KAGGLE_CLASSES = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
LOCAL_CLASSES = (
    *KAGGLE_CLASSES,
    "Clavicle fracture",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Rib fracture",
)
GLOBAL_CLASSES = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "Other disease")
MINORITIES = {"uncertain": -1.0, "negative": 0.0}


def read_vindr(request: ReadRequest) -> SourceFrame:
    """The label frame of VinDr-CXR; raises InputError or FileNotFoundError, naming file, column and line."""
    path, header = Path(request.labels), common.header_of(request.labels)
    image = common.find_column(header, ["image_id"], path)
    reader = common.find_column(header, ["rad_id"], path, required=False)
    boxes = common.find_column(header, ["class_name"], path, required=False)
    table = common.read_table(path, text=[name for name in (image, reader, boxes) if name])
    table = table.rename(columns={image: "image_id", reader: "rad_id", boxes: "class_name"})
    names = ["image_id"] + ["rad_id"] * bool(reader)
    for name in names:
        common.refuse_values(table[name], table[name].isna().to_numpy(), path, "a name")
    if boxes:
        classes = KAGGLE_CLASSES if common.find_column(header, ["class_id"], path, required=False) else LOCAL_CLASSES
        seen = _votes_from_boxes(table, names, classes, path)
    else:
        seen = _votes_from_columns(table, names, path)
    return _resolve(seen, request, bool(reader))


def _votes_from_boxes(table: pd.DataFrame, names: list[str], classes: Sequence[str], path: Path) -> pd.DataFrame:
    """A row per image (and reader), a column of 0 and 1 per class."""
    known = {common.plain(name): name for name in (*classes, NO_FINDING)}
    cell = table["class_name"].map(common.plain, na_action="ignore").map(known)
    allowed = ", ".join((*classes, NO_FINDING))
    common.refuse_values(table["class_name"], cell.isna().to_numpy(), path, allowed)
    seen = pd.crosstab([table[name] for name in names], cell).gt(0).astype(np.float32)
    clash = seen.reindex(columns=[NO_FINDING], fill_value=0)[NO_FINDING].eq(1) & seen.drop(
        columns=NO_FINDING, errors="ignore"
    ).any(axis=1)
    if clash.any():
        raise InputError(
            f"{path}: {clash.sum()} reading(s) hold both '{NO_FINDING}' and a finding, such as {clash.idxmax()}."
        )
    return seen.reindex(columns=[*classes, NO_FINDING], fill_value=0.0)


def _votes_from_columns(table: pd.DataFrame, names: list[str], path: Path) -> pd.DataFrame:
    columns = [name for name in table.columns if name not in names]
    known = {common.plain(name) for name in (*LOCAL_CLASSES, *GLOBAL_CLASSES, NO_FINDING)}
    strange = [name for name in columns if common.plain(name) not in known and not str(name).startswith("Unnamed")]
    if strange:
        raise InputError(f"{path}: unknown column(s) {strange}. Known: {', '.join((*LOCAL_CLASSES, *GLOBAL_CLASSES))}.")
    if table.duplicated(names).any():
        first = table.loc[table.duplicated(names), names].iloc[0].tolist()
        raise InputError(f"{path}: the reading {first} is listed more than once. Keep one row of each.")
    seen = {}
    for name in columns:
        if str(name).startswith("Unnamed"):
            continue
        values = common.raw_values(table[name], path)
        common.refuse_values(table[name], ~np.isin(values, (0, 1)), path, "0 or 1")
        seen[name] = values
    return pd.DataFrame(seen).set_index(pd.MultiIndex.from_frame(table[names]))


def _resolve(seen: pd.DataFrame, request: ReadRequest, several: bool) -> SourceFrame:
    """Image labels from the votes: `agreement` readers make a 1, fewer make what `minority` says."""
    agreement, minority = _checked_options(request)
    notes = ["VinDr-CXR publishes no patients: every image counts as a patient of its own."]
    readers = seen.groupby(level=0).size()
    if several and (few := int((readers < agreement).sum())):
        raise InputError(f"{request.labels}: {few} image(s) have fewer readers than agreement={agreement}.")
    labels, absent = {}, []
    for slug, names in request.names.items():
        columns = _columns_of(seen, names)
        if not columns:
            absent.append(slug)
            continue
        votes = seen[columns].any(axis=1).groupby(level=0).sum()
        need = agreement if several else 1
        labels[slug] = np.select([votes >= need, votes > 0], [1.0, minority], 0.0).astype(np.float32)
    if not labels:
        raise InputError(f"{request.labels}: none of its columns is a finding of the catalogue.")
    if absent:
        notes.append(f"Not labelled in this file, so without a column: {', '.join(absent)}.")
    meta = _about(readers.index.to_series().reset_index(drop=True), request, several)
    clear = _columns_of(seen, [NO_FINDING])
    if clear:
        votes = seen[clear[0]].groupby(level=0).sum()
        need = agreement if several else 1
        meta["no_finding"] = np.select([votes >= need, votes > 0], [1.0, minority], 0.0)
    frame = common.build_frame(meta, labels)
    return SourceFrame(frame=frame, findings=tuple(labels), dropped=common.nothing_dropped(), notes=tuple(notes))


def _checked_options(request: ReadRequest) -> tuple[int, float]:
    agreement = int(request.options.get("agreement", 2))
    if not 1 <= agreement <= 3:
        raise InputError(f"Option agreement={agreement}: each image has three readers, so 1, 2 or 3 of them can agree.")
    minority = str(request.options.get("minority", "uncertain"))
    if minority not in MINORITIES:
        raise InputError(f"Option minority={minority!r} is unknown. Allowed: {', '.join(MINORITIES)}.")
    return agreement, MINORITIES[minority]


def _columns_of(seen: pd.DataFrame, names: Sequence[str]) -> list[str]:
    wanted = {common.plain(name) for name in names}
    return [column for column in seen.columns if common.plain(column) in wanted]


def _about(image: pd.Series, request: ReadRequest, several: bool) -> dict[str, object]:
    image = image.astype("str")
    split = "train" if several else "test"
    path = image + ".dicom"
    if request.images is not None:
        found = common.locate_files(request.images, image.tolist(), by_stem=True)
        path = found.where(found != image, image + ".dicom")
    return {
        "image_id": image,
        "patient_id": image,
        "study_id": image,
        "view": "frontal",
        "projection": "PA",
        "path": path,
        "official_split": split,
        "source": "vindr",
    }
