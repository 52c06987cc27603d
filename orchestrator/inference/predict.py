"""The ensemble prediction script: X-ray files in, a table of calibrated probabilities out.

In: a BUNDLE and files, folders, globs or a CSV with a path column. Out: `predictions.csv` (or .parquet) with `path`, a
probability per finding, then `<slug>_positive`, then what was asked for beside (`<slug>_answer` of the conformal zone,
`films` of a study); what cannot be read goes to `predictions.rejected.csv`, and `predictions.provenance.json` says of
which bundle the table is. Called by `hilum predict` and as `python -m orchestrator.predict`. Each image is decoded once
for all networks.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from models.data.images import try_load_image
from models.files.layout import publishing, write_json
from orchestrator.datasets.dataset import hash_file
from orchestrator.inference.aggregation import aggregate_scores
from orchestrator.inference.bundle import Bundle, OnProgress, load_bundle
from orchestrator.inference.decisions import (
    conformal_answers,
    parse_assignments,
    prediction_frame,
    threshold_notes,
    thresholds_of,
)
from orchestrator.inference.films import collect_paths, listed_paths
from orchestrator.inference.identity import GROUP_COLUMNS, LEVELS, Asked, Identities, identify, refusal
from pathologies.errors import InputError
from pathologies.table_files import read_csv_file


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    bundle: Path | Bundle  # a folder, or a bundle that is loaded already
    inputs: tuple[str, ...]
    out: Path
    device: str = "auto"
    workers: int | None = None  # decoding threads; none: one per CPU
    operating_point: str | None = None  # a rule that the bundle stores; none: each finding's own
    thresholds: tuple[str, ...] = ()  # finding=value, in the place of the rule's
    level: str = "image"  # study, patient: one row for all films of one
    asked: Asked = Asked()  # the patterns by which a path tells whose a film is
    conformal: bool = False  # also the answer of three kinds


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    predictions: pd.DataFrame  # path, a column per slug, then `<slug>_positive`
    rejected: pd.DataFrame  # path, reason
    without_threshold: list[str]  # findings whose `_positive` is empty: no threshold was useful
    notes: list[str] = field(default_factory=list)


def predict(request: PredictRequest, on_progress: OnProgress | None = None) -> PredictResult:
    """Predict and write the tables. Errors: InputError / FileNotFoundError for inputs that lead to no file."""
    paths = collect_paths(request.inputs)
    if request.out.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out {request.out}: the table is written as .csv or .parquet.")
    if request.level not in LEVELS:
        raise InputError(f"Unknown level {request.level!r}. Known: {', '.join(LEVELS)}.")
    bundle = request.bundle
    if not isinstance(bundle, Bundle):
        bundle = load_bundle(bundle, request.device)
    findings = bundle.description["findings"]
    by_hand = parse_assignments(request.thresholds, bundle.slugs, "--threshold")
    thresholds = thresholds_of(findings, request.operating_point, by_hand)
    if request.conformal:
        conformal_answers(findings, bundle.slugs, np.zeros((0, len(bundle.slugs))))  # refuses before the work
    whose = None if request.level == "image" else _identities(request, paths)  # refuses before the work
    named = [(str(path), path) for path in paths]
    kept, probability, rejected = bundle.answer(named, request.workers, on_progress)
    rows, films, notes = kept, None, []
    if whose is not None:
        rows, probability, films, notes = _aggregate(request.level, whose, kept, probability)
    notes = [*notes, *threshold_notes(findings, bundle.slugs, request.operating_point, list(by_hand))]
    table = prediction_frame(bundle.slugs, rows, probability, thresholds)
    if request.conformal:
        table = pd.concat([table, conformal_answers(findings, bundle.slugs, probability)], axis=1)
    if films is not None:
        table["films"] = films
    provenance_path(request.out).unlink(missing_ok=True)  # of an earlier table
    _write(request.out, table, rejected)
    provenance = bundle.identity | {"table": request.out.name, "table_sha256": hash_file(request.out)}
    write_json(provenance_path(request.out), provenance)
    without = [slug for slug in bundle.slugs if thresholds[slug] is None]
    notes = [*notes, bundle.identity_note]
    return PredictResult(predictions=table, rejected=rejected, without_threshold=without, notes=notes)


def provenance_path(table: Path) -> Path:
    """The file beside a table that says which bundle it is of."""
    return table.with_name(f"{table.stem}.provenance.json")


def _identities(request: PredictRequest, paths: list[Path]) -> dict[str, tuple[str, str]]:
    """{path: (its study or patient, what says so)}. InputError where a readable film has none."""
    found = identify(paths, request.level, asked=request.asked, listed=_listed_groups(request))
    if any(name is None and _is_film(path) for path, name in zip(paths, found.names, strict=True)):
        raise refusal(found, paths, request.level)
    named = zip(paths, found.names, found.ways, strict=True)
    return {str(path): (name, way) for path, name, way in named if name is not None}


def _is_film(path: Path) -> bool:
    """Whether it can be decoded; what cannot needs no patient."""
    return not isinstance(try_load_image(path, 16), str)


def _aggregate(
    level: str, whose: dict[str, tuple[str, str]], kept: list[str], probability: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """One row per study or patient, in the order of their first films: (names, probabilities, films, notes)."""
    groups, ways = (list(one) for one in zip(*[whose[path] for path in kept], strict=True)) if kept else ([], [])
    order = list(dict.fromkeys(groups))
    merged = aggregate_scores(pd.DataFrame(probability), groups).reindex(order).to_numpy(float)
    films = pd.Series(groups, dtype="str").value_counts().reindex(order).to_numpy()
    notes = [f"The probability of a {level} is the mean of its films' log odds; thresholds are those of films."]
    notes.append(Identities(names=groups, ways=ways).note(level))
    return order, merged.reshape(len(order), probability.shape[1]), films, notes


def _listed_groups(request: PredictRequest) -> dict[str, tuple[str, str]]:
    """{path: (study or patient, column)} of the CSV inputs that have such a column.

    A study whose name several patients of the list have is named with its patient.
    """
    found: dict[str, tuple[str, str]] = {}
    for text in request.inputs:
        if Path(text).suffix.lower() == ".csv" and Path(text).is_file():
            frame = read_csv_file(text, dtype="str", keep_default_na=False)
            columns = {
                level: next((name for name in names if name in frame.columns), None)
                for level, names in GROUP_COLUMNS.items()
            }
            column = columns[request.level]
            if column is None:
                continue
            names = frame[column]
            if request.level == "study" and columns["patient"] is not None:
                patients = frame[columns["patient"]]
                if (patients.groupby(names).nunique() > 1).any():
                    names = (patients + "/" + names).where(names != "", "")
            pairs = zip(map(str, listed_paths(Path(text))), names, strict=True)
            found |= {path: (name, f"the column {column!r}") for path, name in pairs if name}
    return found


def _write(out: Path, table: pd.DataFrame, rejected: pd.DataFrame) -> None:
    with publishing(out) as temporary:
        if out.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, float_format="%.6f")
    refused = out.with_name(f"{out.stem}.rejected.csv")
    if len(rejected):
        with publishing(refused) as temporary:
            rejected.to_csv(temporary, index=False)
    else:
        refused.unlink(missing_ok=True)  # of an earlier prediction
