"""A plain table that a small TOML file describes, for data of one's own.

Goes in: a CSV file with a row per image, and a mapping such as

    source = "our-hospital"          # the name that the rows carry
    [columns]                        # path and patient are needed, the others may be left out
    path = "file"
    patient = "patient_number"
    study = "accession"
    view = "view"                    # also: image, projection, age, sex, split, no_finding
    [constants]                      # in place of a column
    projection = "PA"
    [values.view]                    # cell -> what it means; cells that already say it need no line
    F = "frontal"
    [values.labels]                  # cell -> 1, 0, -1 (uncertain), "blank" (not mentioned) or "unknown"
    yes = 1
    [findings]                       # slug = column
    pneumonia = "Pneu"

Comes out: the label frame. Called through `registry.read_labels`.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pathologies.errors import InputError, nearest
from pathologies.labels.frame import UNCERTAIN, UNKNOWN
from pathologies.sources import common
from pathologies.sources.common import ReadRequest, SourceFrame

NEEDED, OPTIONAL = ("path", "patient"), ("image", "study", "view", "projection", "age", "sex", "split", "no_finding")
CONSTANTS = ("view", "projection", "sex", "split")
MEANINGS = {
    "view": ("frontal", "lateral"),
    "projection": ("AP", "PA", "LL", "RL"),
    "sex": ("M", "F"),
    "split": ("train", "train_val", "valid", "validate", "test"),
}
TABLES = {"source": str, "columns": dict, "constants": dict, "values": dict, "findings": dict}
LABEL_MEANINGS = {1: 1.0, 0: 0.0, -1: UNCERTAIN, "blank": np.nan, "unknown": UNKNOWN}


def read_mapped_table(request: ReadRequest) -> SourceFrame:
    """The label frame of a table, by its mapping; raises InputError naming mapping or table, and what is allowed."""
    if "mapping" not in request.options:
        raise InputError("The source 'table' needs the option 'mapping': a TOML file that says which column is what.")
    mapping_file = Path(str(request.options["mapping"]))
    mapping = _read_mapping(mapping_file, request)
    header, path, columns = common.header_of(request.labels), request.labels, mapping["columns"]
    for name in [*columns.values(), *mapping["findings"].values()]:
        if name not in header:
            common.find_column(header, [name], path)
            raise InputError(f"{path}: no column '{name}' in exactly this spelling. It has: {', '.join(header)}.")
    labels_of = mapping["findings"]
    text = [name for key, name in columns.items() if key != "age"]
    table = common.read_table(path, columns=[*columns.values(), *labels_of.values()], text=[*text, *labels_of.values()])
    notes: list[str] = []
    meta = _about(table, mapping, path, notes)
    labels = {slug: _labels(table[column], mapping, path) for slug, column in labels_of.items()}
    for slug, values in labels.items():
        if (np.isnan(values) | (values == UNKNOWN)).all():
            raise InputError(
                f"{path}: column '{labels_of[slug]}' says nothing about '{slug}' in any row. Leave it out."
            )
    if "no_finding" in columns:
        meta["no_finding"] = _labels(table[columns["no_finding"]], mapping, path)
    if request.images is not None and len(table):
        meta["path"] = common.locate_tree(request.images, list(meta["path"]), [""]) + meta["path"]
    common.refuse_duplicates(meta["image_id"], path)
    frame = common.build_frame(meta, labels)
    return SourceFrame(frame=frame, findings=tuple(labels), dropped=common.nothing_dropped(), notes=tuple(notes))


def _read_mapping(file: Path, request: ReadRequest) -> dict:
    if not file.is_file():
        raise FileNotFoundError(f"No mapping at '{file}'.")
    try:
        mapping = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a TOML file: {error}") from error
    _allow_keys(file, "the mapping", mapping, TABLES)
    for key, kind in TABLES.items():
        if not isinstance(mapping.setdefault(key, {} if kind is dict else "table"), kind):
            raise InputError(f"{file}: '{key}' is {mapping[key]!r}. Expected a {'table' if kind is dict else 'text'}.")
    _allow_keys(file, "[columns]", mapping["columns"], (*NEEDED, *OPTIONAL))
    _allow_keys(file, "[constants]", mapping["constants"], CONSTANTS)
    _allow_keys(file, "[values]", mapping["values"], (*MEANINGS, "labels"))
    _allow_keys(file, "[findings]", mapping["findings"], request.names)
    for key in NEEDED:
        if key not in mapping["columns"]:
            raise InputError(f"{file}: [columns] has no '{key}'. Needed: {', '.join(NEEDED)}.")
    if not mapping["findings"]:
        raise InputError(f'{file}: [findings] is empty. Give at least one slug = "column".')
    _check_meanings(file, mapping)
    return mapping


def _allow_keys(file: Path, where: str, given: Mapping, allowed: Mapping | tuple) -> None:
    for key in given:
        if key not in allowed:
            hint = nearest(str(key), allowed)
            raise InputError(f"{file}: unknown key '{key}' in {where}.{hint} Allowed: {', '.join(allowed)}.")


def _check_meanings(file: Path, mapping: dict) -> None:
    """What a cell is said to mean must be something that the label frame can hold."""
    for key, meanings in MEANINGS.items():
        said = {**mapping["values"].get(key, {}), "constant": mapping["constants"].get(key, "")}
        for cell, meaning in said.items():
            if meaning not in (*meanings, ""):
                raise InputError(f"{file}: {key} {cell!r} = {meaning!r}. Allowed: {', '.join(meanings)} or ''.")
    for cell, meaning in mapping["values"].get("labels", {}).items():
        if isinstance(meaning, bool) or meaning not in LABEL_MEANINGS:
            raise InputError(f'{file}: [values.labels] {cell!r} = {meaning!r}. Allowed: 1, 0, -1, "blank", "unknown".')


def _labels(column: pd.Series, mapping: dict, path: Path) -> np.ndarray:
    """Raw labels: by [values.labels], else as 1, 0, -1 and empty."""
    cells = column.str.strip()
    said = {str(cell): LABEL_MEANINGS[meaning] for cell, meaning in mapping["values"].get("labels", {}).items()}
    listed = cells.isin(list(said)).to_numpy()
    rest = common.raw_values(column.where(~listed & (cells != "").fillna(True), None), path)
    return np.where(listed, cells.map(said).to_numpy(np.float32, na_value=np.nan), rest).astype(np.float32)


def _about(table: pd.DataFrame, mapping: dict, path: Path, notes: list[str]) -> dict[str, object]:
    columns, constants = mapping["columns"], mapping["constants"]
    for key in ("path", "patient", "image", "study"):
        if key in columns:
            common.refuse_values(table[columns[key]], table[columns[key]].isna().to_numpy(), path, "a name")
    image_path = table[columns["path"]]
    patient = table[columns["patient"]]
    image = table[columns["image"]] if "image" in columns else image_path
    if "study" in columns:
        study = patient + "/" + table[columns["study"]]
    else:
        study = patient + "/" + image
        notes.append("The mapping names no study: every image counts as a study of its own.")
    meta = {"image_id": image, "patient_id": patient, "study_id": study, "path": image_path}
    meta["source"] = mapping["source"]
    for key, meanings in MEANINGS.items():
        name = "official_split" if key == "split" else key
        if key in columns:
            said = {**{meaning: meaning for meaning in meanings}, **mapping["values"].get(key, {})}
            meta[name] = common.mapped(table[columns[key]], said, path)
        else:
            meta[name] = constants.get(key, "")
    if "age" in columns:
        meta["age"] = common.years(table[columns["age"]], notes)
    return meta
