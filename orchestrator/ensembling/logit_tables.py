"""What the networks of a run or a bundle say about the films of a part: a table of logits per finding.

In: trained networks, or the models of a finished bundle. Out: a column per member or per cross-validation, from the
stored predictions. Called by the ensembler, by `replace` and by comparisons of runs. Only test-time augmentation, and a
bundle whose run is gone, run a network.

The K networks of a cross-validation (`hilum train --folds K`) are one column. On part `calibrate` it holds the answers
out of fold: every film of train, select and calibrate once, as said by the network that did not learn from it, on one
scale (`align_folds`). On part `test`, and in a bundle, it is the mean of the K networks, which is a little better than
what was fitted: see `calibration_fit`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.data.targets import PARTS, Targets
from models.files.layout import RESERVED_SLUGS, BundlePaths, RunPaths, TargetPaths, read_json
from models.statistics.blending import align_folds, model_columns
from orchestrator.datasets.dataset import Dataset, hash_file
from orchestrator.datasets.folds import fold_of_films
from orchestrator.datasets.labelled import usable_views
from orchestrator.ensembling.members import Trained, column_name, columns_of
from pathologies.errors import InputError
from pathologies.table_files import read_parquet_file

BATCH = 32


def member_table(members: list[Trained], part: str) -> pd.DataFrame:
    """Logits over the films of a part, sorted by image_id: a column per member, or per cross-validation."""
    columns = columns_of(members)
    table = pd.concat([_column(one, part) for one in columns], axis=1, keys=[column_name(one) for one in columns])
    if table.isna().to_numpy().any():
        hint = " Take those of one kind with --use single or --use shared." if members[-1].outputs else ""
        raise InputError(
            f"The members of {members[0].slug} were trained on different views or films; see config.json.{hint}"
        )
    return table.sort_index()


def mean_logits(members: list[Trained], part: str) -> pd.Series:
    """The mean of the columns over the films of a part, indexed by image_id."""
    return member_table(members, part).mean(axis=1)


def _column(column: Sequence[Trained], part: str) -> pd.Series:
    if column[0].fold is None or part == "test":
        stored = [_stored_of(one, part) for one in column]
        return stored[0] if len(stored) == 1 else pd.concat(stored, axis=1).mean(axis=1, skipna=False)
    if part != "calibrate":
        raise InputError(
            f"Networks of folds have learned from the films of part {part!r}. On part calibrate each film of train, "
            "select and calibrate is answered by the network that has not; part test is new to all."
        )
    return out_of_fold([_stored_of(one, part) for one in column], _taught_films(column[0].paths))


def out_of_fold(pieces: Sequence[pd.Series], films: pd.Index) -> pd.Series:
    """One column from each network's answers about its own fold. InputError unless each of the films is there once."""
    values = pd.concat(pieces)
    twice, lacking = values.index[values.index.duplicated()], films.difference(values.index)
    if len(twice) or len(lacking) or len(values) != len(films):
        wrong = (
            f"{len(twice)} films are in two folds" if len(twice) else f"{len(lacking)} of {len(films)} are in no fold"
        )
        raise InputError(
            f"The networks of these folds do not belong together: {wrong}. They were trained on other folds or views; "
            "train them anew in a run of their own."
        )
    fold = np.repeat(np.arange(len(pieces)), [len(one) for one in pieces])
    return pd.Series(align_folds(values.to_numpy(float), fold), index=values.index)


def _taught_films(paths: TargetPaths) -> pd.Index:
    """The films that a cross-validation is about: of the views of its networks, in all parts but test."""
    targets = Targets.load(paths.targets)
    return pd.Index(targets.image_id[targets.part != PARTS.index("test")].astype(str))


def held_out_films(one: Trained) -> pd.Index:
    """The films of a network's own fold, which it has not learned from."""
    return _stored_of(one, "calibrate").index.sort_values()


def copied_table(models: list[dict[str, Any]], folder: Path, dataset: Dataset, films: pd.Index) -> pd.DataFrame:
    """What models of a bundle under way or complete say about films, a column per model; this runs the networks."""
    from models.classifier import load_classifier
    from models.training.device import available_device

    contract = {name: dataset.manifest[name] for name in ("pixel_mean", "pixel_std")}
    alone = [{name: value for name, value in model.items() if name != "group"} for model in models]
    entry = {"models": alone, "combine": "mean of logits", "calibration": {"method": "identity"}}
    classifier = load_classifier("member", entry, contract, folder, available_device("auto"))
    row = pd.Series(np.arange(dataset.manifest["images"]), index=dataset.read_labels_frame()["image_id"])
    rows, images = row.loc[films].to_numpy(), dataset.images()
    blocks = [classifier.columns(images[rows[at : at + BATCH]]) for at in range(0, len(rows), BATCH)]
    return pd.DataFrame(np.concatenate(blocks), index=films)


def asked_table(
    models: list[dict[str, Any]], folder: Path, dataset: Dataset, films: pd.Index, held_out: Sequence[pd.Index] = ()
) -> pd.DataFrame:
    """As `copied_table`, a column per column of the models: a group's films are asked of the network of their fold.

    held_out: of each model in a group, at its position, the films of its fold.
    """
    columns = []
    for members in model_columns(models):
        if len(members) == 1 and "group" not in models[members[0]]:
            columns.append(copied_table([models[members[0]]], folder, dataset, films)[0])
            continue
        pieces = [copied_table([models[one]], folder, dataset, held_out[one].intersection(films))[0] for one in members]
        columns.append(out_of_fold(pieces, films).reindex(films))
    return pd.concat(columns, axis=1, keys=range(len(columns)))


def bundled_table(
    entry: Mapping[str, Any], bundle: BundlePaths, run: RunPaths, dataset: Dataset, films: pd.Index
) -> pd.DataFrame:
    """The columns of logits of a finding of a bundle: stored predictions where its run has them, else computed.

    The run's predictions count only where its weight file is, to the byte, the bundle's.
    """
    columns, models = [], entry["models"]
    for position, members in enumerate(model_columns(models)):
        asked = [models[one] for one in members]
        stored = [_same_weights(run, model) for model in asked]
        if all(stored) and not asked[0].get("copies"):
            pieces = [_stored_model(paths, model) for paths, model in zip(stored, asked, strict=True)]
            logits = out_of_fold(pieces, films) if "group" in asked[0] else pieces[0]
            columns.append(logits.reindex(films).rename(position))
        else:
            held_out = _folds_again(asked, run, dataset) if "group" in asked[0] else ()
            columns.append(asked_table(asked, bundle.root, dataset, films, held_out)[0].rename(position))
    return pd.concat(columns, axis=1)


def _stored_model(paths: TargetPaths, model: Mapping[str, Any]) -> pd.Series:
    finding = read_json(paths.config)["targets"][model["column"]] if model.get("outputs") else ""
    return _stored(paths, "calibrate", model.get("snapshot", 0), finding)


def _folds_again(models: Sequence[Mapping[str, Any]], run: RunPaths, dataset: Dataset) -> list[pd.Index]:
    """The films of each model's fold. A bundle does not list them, as they are names of patients' films.

    They follow from the data set. InputError where those are not the films that the networks were trained without.
    """
    frame, folds = dataset.read_labels_frame(), models[0]["fold"]["of"]
    fold = fold_of_films(dataset, folds, run.folds(folds))
    seen, names = usable_views(frame, models[0]["views"]), frame["image_id"].to_numpy(str)
    found = [pd.Index(names[seen & (fold == model["fold"]["index"])]) for model in models]
    if any(films_hash(films) != model["fold"]["films_sha256"] for films, model in zip(found, models, strict=True)):
        raise InputError(
            f"The bundle's networks learned in other folds than this data set's, and {run.root} does not have them any "
            "more. Make the bundle anew from a run, with `hilum ensemble`."
        )
    return found


def films_hash(films: pd.Index) -> str:
    """Which films a fold has, without their names."""
    return hashlib.sha256("\n".join(sorted(films)).encode("utf-8")).hexdigest()


def group_facts(one: Trained, group: int) -> dict[str, Any]:
    """Of a network of a cross-validation: with which others it is averaged, and which films it has not seen."""
    if one.fold is None:
        return {}
    index, folds = one.fold
    return {"group": group, "fold": {"index": index, "of": folds, "films_sha256": films_hash(held_out_films(one))}}


def _stored_of(one: Trained, part: str) -> pd.Series:
    return _stored(one.paths, part, one.snapshot, one.slug if one.outputs else "")


def _stored(paths: TargetPaths, part: str, snapshot: int = 0, finding: str = "") -> pd.Series:
    """`finding`: of a shared network, whose columns are called so."""
    column = (finding or "logit") + (f"@{snapshot}" if snapshot else "")
    stored = read_parquet_file(paths.predictions, columns=["image_id", "part", column])
    return stored[stored["part"] == part].set_index("image_id")[column].astype(float)


def _same_weights(run: RunPaths, model: Mapping[str, Any]) -> TargetPaths | None:
    """The folder in the run of the network that a bundle's model was copied from, if it is there unchanged."""
    owner = Path(model["file"]).stem.partition("-")[0]
    if owner in RESERVED_SLUGS and not model.get("outputs"):
        return None
    if model.get("head"):
        paths = run.head(owner, model["head"]["name"])
    else:
        paths = run.shared(model["member"]) if model.get("outputs") else run.target(owner, model["member"])
    weights = paths.snapshot(model["snapshot"]) if model.get("snapshot") else paths.weights
    there = weights.is_file() and paths.predictions.is_file() and hash_file(weights) == model["sha256"]
    return paths if there else None
