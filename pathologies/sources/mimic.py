"""MIMIC-CXR-JPG (Johnson et al., PhysioNet, versions 2.0.0 and 2.1.0).

Goes in: `mimic-cxr-2.0.0-chexpert.csv.gz` (or `-negbio`, or the radiologists' `mimic-cxr-2.1.0-test-set-labeled.csv`),
a row per study, with `-metadata` and `-split` beside it, a row per image. Comes out: the label frame. Called through
`registry.read_labels`.

Age and sex are not in MIMIC-CXR-JPG. A view position that is empty (some 15,800 images) or oblique stays unknown.
"""

from pathlib import Path

import pandas as pd

from pathologies.errors import InputError
from pathologies.sources import common
from pathologies.sources.common import ReadRequest, SourceFrame

PREFIX = "mimic-cxr-2.0.0-"
# ViewPosition as it occurs: (view, projection).
VIEW_POSITIONS = {
    "AP": ("frontal", "AP"),
    "PA": ("frontal", "PA"),
    "LATERAL": ("lateral", ""),
    "LL": ("lateral", "LL"),
    "RL": ("lateral", "RL"),
    "XTABLE LATERAL": ("lateral", ""),
    "AP AXIAL": ("frontal", "AP"),
    "AP LLD": ("frontal", "AP"),
    "AP RLD": ("frontal", "AP"),
    "PA LLD": ("frontal", "PA"),
    "PA RLD": ("frontal", "PA"),
    "LAO": ("", ""),
    "RAO": ("", ""),
    "LPO": ("", ""),
    "RPO": ("", ""),
    "SWIMMERS": ("", ""),
}
SPLITS = {"train": "train", "validate": "validate", "test": "test"}
ROOTS = ("", "files/", "mimic-cxr-jpg/2.1.0/", "mimic-cxr-jpg/2.0.0/")


def read_mimic(request: ReadRequest) -> SourceFrame:
    """The label frame of MIMIC-CXR-JPG; raises InputError or FileNotFoundError, naming file, column and line."""
    notes: list[str] = ["MIMIC-CXR-JPG holds neither age nor sex: both are unknown."]
    studies, columns, no_finding = _read_studies(request)
    images = _read_images(request)
    common.refuse_duplicates(images["dicom_id"], _beside(request, "metadata"))
    row = pd.Series(range(len(studies)), index=studies["study_id"]).reindex(images["study_id"]).to_numpy()
    labelled = ~pd.isna(row)
    dropped = common.drop_rows(images["dicom_id"], ~labelled, "its study has no row in the label file")
    if not labelled.any():
        raise InputError(f"No study of {request.labels} has an image in {_beside(request, 'metadata')}.")
    images = images[labelled].reset_index(drop=True)
    without = len(studies) - images["study_id"].nunique()
    if without:
        notes.append(f"{without} studies of the label file have no image.")
    studies = studies.iloc[row[labelled].astype(int)].reset_index(drop=True)
    labels = {slug: common.raw_values(studies[column], request.labels) for slug, column in columns.items()}
    labels = common.without_empty(labels, request.labels, notes)
    meta = _about(images, request, notes)
    if no_finding:
        meta["no_finding"] = common.raw_values(studies[no_finding], request.labels)
    frame = common.build_frame(meta, labels)
    return SourceFrame(frame=frame, findings=tuple(labels), dropped=dropped, notes=tuple(notes))


def _read_studies(request: ReadRequest) -> tuple[pd.DataFrame, dict[str, str], str | None]:
    """The label table with a row per study_id, and its columns."""
    path, header = request.labels, common.header_of(request.labels)
    study = common.find_column(header, ["study_id"], path)
    columns = common.finding_columns(header, request.names, path)
    no_finding = common.find_column(header, ["No Finding"], path, required=False)
    wanted = [study, *columns.values(), *([no_finding] if no_finding else [])]
    table = common.read_table(path, columns=wanted, text=[study]).rename(columns={study: "study_id"})
    common.refuse_values(table["study_id"], table["study_id"].isna().to_numpy(), path, "a number")
    common.refuse_duplicates(table["study_id"], path)
    for column in wanted[1:]:
        common.raw_values(table[column], path)  # complains with the lines of the file, before rows are repeated
    return table, columns, no_finding


def _read_images(request: ReadRequest) -> pd.DataFrame:
    """dicom_id, subject_id, study_id, ViewPosition and, where the table is there, split; a row per image."""
    keys = ("dicom_id", "subject_id", "study_id", "ViewPosition")
    images = common.read_columns(_beside(request, "metadata"), {key: [key] for key in keys}, text=keys)
    split = _beside(request, "split", required=False)
    if split is None:
        return images.assign(split="")
    table = common.read_columns(split, {key: [key] for key in ("dicom_id", "split")}, text=("dicom_id", "split"))
    common.refuse_duplicates(table["dicom_id"], split)
    values = pd.Series(common.mapped(table["split"], SPLITS, split), index=table["dicom_id"])
    return images.assign(split=values.reindex(images["dicom_id"]).fillna("").to_numpy())


def _beside(request: ReadRequest, kind: str, *, required: bool = True) -> Path | None:
    """The table that the option `kind` names, or the one of that kind in the folder of the label file."""
    if given := request.options.get(kind):
        return Path(str(given))
    folder = Path(request.labels).parent
    for name in (f"{PREFIX}{kind}.csv.gz", f"{PREFIX}{kind}.csv"):
        if (folder / name).is_file():
            return folder / name
    if required:
        raise FileNotFoundError(
            f"No '{PREFIX}{kind}.csv.gz' beside '{request.labels}'. Put it there or name it with the option '{kind}'."
        )
    return None


def _about(images: pd.DataFrame, request: ReadRequest, notes: list[str]) -> dict[str, object]:
    subject, study, dicom = (images[name] for name in ("subject_id", "study_id", "dicom_id"))
    paths = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + dicom + ".jpg"
    position = images["ViewPosition"]
    view = common.mapped_or_noted(position, {name: name for name in VIEW_POSITIONS}, notes)
    known = {**VIEW_POSITIONS, "": ("", "")}
    if (empty := int(sum(known[name][0] == "" for name in view))) > 0:
        notes.append(f"Images without a view position that says frontal or lateral: {empty}.")
    meta = {
        "image_id": paths,
        "patient_id": "p" + subject,
        "study_id": "p" + subject + "/s" + study,
        "view": [known[name][0] for name in view],
        "projection": [known[name][1] for name in view],
        "path": paths,
        "official_split": images["split"],
        "source": "mimic",
    }
    if request.images is not None:
        meta["path"] = _located(request.images, paths)
    return meta


def _located(images: Path, paths: pd.Series) -> pd.Series:
    """Paths below the folder as found: with `files/`, or within it."""
    inside = paths.str.removeprefix("files/")
    try:
        return common.locate_tree(images, paths.tolist(), ROOTS) + paths
    except FileNotFoundError:
        return common.locate_tree(images, inside.tolist(), ROOTS) + inside
