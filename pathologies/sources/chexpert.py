"""CheXpert (Irvin et al., AAAI 2019): `train.csv`, `valid.csv` and the test labels, full release and -small.

Goes in: a table with a `Path` per image (or, as in the published test labels, a `Study` per examination) and fourteen
label columns of 1, 0, -1 and empty. Comes out: the label frame. Called through `registry.read_labels`.

Any path prefix is accepted: what counts begins at `train/`, `valid/` or `test/`. An age of 0 stands for a hidden or
unknown age (the patients are adults) and is read as unknown.
"""

from pathlib import Path

import pandas as pd

from pathologies.errors import InputError
from pathologies.sources import common
from pathologies.sources.common import ReadRequest, SourceFrame

SEXES = {"Male": "M", "Female": "F", "Unknown": "", "M": "M", "F": "F"}
VIEWS = {"Frontal": "frontal", "Lateral": "lateral"}
PROJECTIONS = {"AP": "AP", "PA": "PA", "LL": "LL", "RL": "RL"}
PATH_PATTERN = r"^(?P<prefix>(?:.*/)?)(?P<image>(?P<split>train|valid|test)/(?P<patient>patient\d+)/(?P<study>study\d+)"
ROOTS = ("CheXpert-v1.0/", "CheXpert-v1.0-small/")


def read_chexpert(request: ReadRequest) -> SourceFrame:
    """The label frame of a CheXpert table; raises InputError or FileNotFoundError, naming file, column and line."""
    path, header = Path(request.labels), common.header_of(request.labels)
    path_column = common.find_column(header, ["Path", "Study"], path)
    columns = common.finding_columns(header, request.names, path)
    no_finding = common.find_column(header, ["No Finding"], path, required=False)
    about = _about_columns(header, path)
    wanted = [path_column, *columns.values(), *about.values(), *([no_finding] if no_finding else [])]
    table = common.read_table(path, columns=wanted, text=[path_column])
    table, place = _one_row_per_image(table, path_column, request)
    notes = _unused_note(header, wanted)
    meta = {
        "image_id": place["image"],
        "patient_id": place["patient"],
        "study_id": place["patient"] + "/" + place["study"],
        "path": _image_root(request, place) + place["image"],
        "official_split": place["split"],
        "source": "chexpert",
        **_about(table, about, place, path, notes),
    }
    common.refuse_duplicates(place["image"], path)
    if no_finding:
        meta["no_finding"] = common.raw_values(table[no_finding], path)
    labels = {slug: common.raw_values(table[column], path) for slug, column in columns.items()}
    labels = common.without_empty(labels, path, notes)
    return SourceFrame(
        frame=common.build_frame(meta, labels),
        findings=tuple(labels),
        dropped=common.nothing_dropped(),
        notes=tuple(notes),
    )


def _about_columns(header: list[str], path: Path) -> dict[str, str]:
    """Sex, age, view and projection: all of them, or, as in the test labels, none."""
    names = {"sex": "Sex", "age": "Age", "view": "Frontal/Lateral", "projection": "AP/PA"}
    found = {key: common.find_column(header, [name], path, required=False) for key, name in names.items()}
    if not any(found.values()):
        return {}
    for key, name in names.items():
        if found[key] is None:
            common.find_column(header, [name], path)
    return found


def _one_row_per_image(table: pd.DataFrame, column: str, request: ReadRequest) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table and the parts of its paths; rows of whole studies are spread over the images found for them."""
    values = table[column]
    place = values.str.extract(PATH_PATTERN + r"/[^/]+\.\w+)$")
    bad = place["image"].isna().to_numpy()
    if not bad.any():
        return table, place
    study = values.str.extract(PATH_PATTERN + r")/?$")
    if study["image"].isna().any():
        bad = (place["image"].isna() & study["image"].isna()).to_numpy()
        allowed = "[.../]train|valid|test/patient00001/study1/view1_frontal.jpg, or such a path of a study"
        common.refuse_values(values, bad, request.labels, allowed)
    if request.images is None:
        raise InputError(
            f"{request.labels}: the rows are whole studies ({values.iloc[0]!r}), so the images of each must be looked "
            "up. Give the folder of the images as well."
        )
    return _spread_studies(table, study, request)


def _spread_studies(
    table: pd.DataFrame, study: pd.DataFrame, request: ReadRequest
) -> tuple[pd.DataFrame, pd.DataFrame]:
    images = common.require_folder(request.images)
    rows, found = [], []
    roots = [*study["prefix"].drop_duplicates(), *ROOTS, ""]
    for row, folder in enumerate(study["image"]):
        place = next((images / f"{root}{folder}" for root in roots if (images / f"{root}{folder}").is_dir()), None)
        files = sorted(file.name for file in place.glob("view*")) if place else []
        rows += [row] * len(files)
        found += [f"{folder}/{name}" for name in files]
    absent = sorted(set(range(len(study))) - set(rows))
    if absent:
        first = ", ".join(study["image"].iloc[absent[:5]])
        raise FileNotFoundError(f"{len(absent)} studies of {request.labels} have no image below '{images}': {first}.")
    spread = study.iloc[rows].reset_index(drop=True)
    return table.iloc[rows].reset_index(drop=True), spread.assign(image=pd.Series(found, dtype="str"))


def _about(
    table: pd.DataFrame, about: dict[str, str], place: pd.DataFrame, path: Path, notes: list[str]
) -> dict[str, object]:
    if about:
        return {
            "sex": common.mapped(table[about["sex"]], SEXES, path),
            "age": common.years(table[about["age"]], notes, unknown_zero=True),
            "view": common.mapped(table[about["view"]], VIEWS, path),
            "projection": common.mapped(table[about["projection"]], PROJECTIONS, path),
        }
    notes.append("The file has no columns for sex, age and projection; the view is taken from the file names.")
    view = place["image"].str.extract(r"_(frontal|lateral)\.\w+$")[0]
    return {"view": view.fillna("")}


def _image_root(request: ReadRequest, place: pd.DataFrame) -> str:
    if request.images is None or not len(place):
        return ""
    prefixes = place["prefix"].drop_duplicates().head(3)
    return common.locate_tree(request.images, place["image"].tolist(), [*prefixes, "", *ROOTS])


def _unused_note(header: list[str], wanted: list[str]) -> list[str]:
    unused = [column for column in header if column not in set(wanted)]
    return [f"Columns that are not used: {', '.join(unused)}."] if unused else []
