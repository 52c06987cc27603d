"""NIH ChestX-ray14 (Wang et al., CVPR 2017): `Data_Entry_2017.csv` and `Data_Entry_2017_v2020.csv`.

Goes in: a row per image with its findings as one cell, 'Effusion|Mass'. Comes out: the label frame, in which a finding
that is not listed is 0, as the authors mean it. Called through `registry.read_labels`.

All films are frontal. The official lists (`train_val_list.txt`, `test_list.txt`) are an option.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pathologies.errors import InputError, nearest
from pathologies.sources import common
from pathologies.sources.common import ReadRequest, SourceFrame

NO_FINDING = "No Finding"
TOKENS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
# The first release calls the column 'Patient Gender', v2020 'Patient Sex'; the sizes and spacings are not needed.
COLUMNS = {
    "image": ["Image Index"],
    "labels": ["Finding Labels"],
    "follow_up": ["Follow-up #"],
    "patient": ["Patient ID"],
    "age": ["Patient Age"],
    "sex": ["Patient Gender", "Patient Sex"],
    "projection": ["View Position"],
}
OFFICIAL_LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}


def read_nih(request: ReadRequest) -> SourceFrame:
    """The label frame of a ChestX-ray14 table; raises InputError or FileNotFoundError, naming file, column and line."""
    path, notes = Path(request.labels), []
    table = common.read_columns(path, COLUMNS, text=["image", "labels"])
    for name in ("image", "labels", "patient", "follow_up"):
        common.refuse_values(table[name].rename(COLUMNS[name][0]), table[name].isna().to_numpy(), path, "a value")
    common.refuse_duplicates(table["image"], path)
    patient = _patient_ids(table, path)
    no_finding, labels = _findings(table["labels"], request, notes)
    meta = {
        "image_id": table["image"],
        "patient_id": patient,
        "study_id": patient + "_" + table["follow_up"].astype("str").str.zfill(3),
        "view": "frontal",
        "projection": common.mapped(table["projection"].rename("View Position"), {"AP": "AP", "PA": "PA"}, path),
        "age": common.years(table["age"], notes),
        "sex": common.mapped(table["sex"].rename("Patient Gender"), {"M": "M", "F": "F"}, path),
        "path": table["image"],
        "official_split": _official_split(table["image"], request, notes),
        "source": "nih",
        "no_finding": no_finding,
    }
    if request.images is not None:
        meta["path"] = common.locate_files(request.images, table["image"].tolist())
    return SourceFrame(
        frame=common.build_frame(meta, labels),
        findings=tuple(labels),
        dropped=common.nothing_dropped(),
        notes=tuple(notes),
    )


def _patient_ids(table: pd.DataFrame, path: Path) -> pd.Series:
    """Eight digits, as in the file names, which must say the same."""
    patient = table["patient"].astype("str").str.replace(r"\.0$", "", regex=True).str.zfill(8)
    named = table["image"].str.extract(r"^(\d{8})_\d+\.\w+$")[0]
    bad = (named != patient).fillna(True).to_numpy(bool)
    common.refuse_values(table["image"], bad, path, "<Patient ID, eight digits>_<number>.png with the row's patient")
    return patient


def _findings(cells: pd.Series, request: ReadRequest, notes: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """No Finding and a column per slug, from whole tokens."""
    slug_of = _slug_of_token(request)
    known = {common.plain(token) for token in (*TOKENS, NO_FINDING)}
    distinct = {cell: {common.plain(token) for token in cell.split("|")} for cell in cells.unique()}
    unknown = {cell: tokens - known for cell, tokens in distinct.items() if tokens - known}
    if unknown:
        token = sorted(next(iter(unknown.values())))[0]
        hint = nearest(token, known, "Did the file mean")
        allowed = f"tokens separated by '|' out of {', '.join((*TOKENS, NO_FINDING))}.{hint}"
        common.refuse_values(cells.rename("Finding Labels"), cells.isin(unknown).to_numpy(), request.labels, allowed)
    clear = common.plain(NO_FINDING)
    mixed = [cell for cell, tokens in distinct.items() if clear in tokens and len(tokens) > 1]
    common.refuse_values(
        cells.rename("Finding Labels"), cells.isin(mixed).to_numpy(), request.labels, f"'{NO_FINDING}' alone"
    )
    codes, cell_values = pd.factorize(cells)
    labels = {}
    for slug, tokens in slug_of.items():
        labels[slug] = np.array([bool(tokens & distinct[cell]) for cell in cell_values], np.float32)[codes]
        if not labels[slug].any():
            notes.append(f"No image of the file has '{slug}': every row of it is 0.")
    return np.array([clear in distinct[cell] for cell in cell_values], np.float32)[codes], labels


def _slug_of_token(request: ReadRequest) -> dict[str, set[str]]:
    known = {common.plain(token) for token in TOKENS}
    slugs = {slug: {common.plain(name) for name in names} for slug, names in request.names.items()}
    for slug, names in slugs.items():
        if not names & known:
            raise InputError(
                f"The finding '{slug}' is called {sorted(request.names[slug])} in NIH ChestX-ray14, which has no such "
                f"label. Its labels: {', '.join(TOKENS)}."
            )
    if not slugs:
        raise InputError(f"{request.labels}: no finding of the catalogue has a name in NIH ChestX-ray14.")
    return slugs


def _official_split(image: pd.Series, request: ReadRequest, notes: list[str]) -> pd.Series | str:
    """'train_val' or 'test' from the two lists in the folder that the option `official_lists` names."""
    folder = request.options.get("official_lists")
    if folder is None:
        return ""
    split = pd.Series("", index=image.index, dtype="str")
    for name, file in OFFICIAL_LISTS.items():
        path = Path(str(folder)) / file
        if not path.is_file():
            raise FileNotFoundError(f"No official list at '{path}'. Expected {' and '.join(OFFICIAL_LISTS.values())}.")
        split[image.isin(path.read_text(encoding="utf-8").split())] = name
    if (split == "").all():
        raise InputError(f"No image of {request.labels} stands in the official lists of '{folder}'.")
    if (split == "").any():
        notes.append(f"{(split == '').sum()} images stand in neither official list.")
    return split
