"""The files of an adapted bundle: everything of the old one that is not fitted, linked or copied, and what is new.

In: the old bundle, the changed entries and a record of what was done. Out: a complete BUNDLE folder, `bundle.json`
last. Called by adapt. `bundle.json` gains `adapted`, a list with an entry per adaptation: its source, the hash of the
old `bundle.json`, and for each changed finding the values that it had before.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from models.files.layout import BundlePaths
from orchestrator.datasets.dataset import hash_file
from orchestrator.ensembling.bundle_writing import link_or_copy, made_names, new_bundle, renew_self_test
from orchestrator.formatting import write_csv
from orchestrator.inference.bundle import Bundle
from orchestrator.inference.bundle_description import read_description, write_description
from orchestrator.storage.folder_swap import recover
from pathologies.errors import InputError

NOT_COPIED = ("bundle.json", "bundle.sha256", "test_reads.jsonl", ".*")
PREVIOUS = ("calibration", "operating_points", "conformal", "counts", "cross_validated")


def check_source(source: Path, out: Path) -> None:
    """InputError unless `out` is free, unfinished, or adapted from this very bundle, so to be made anew."""
    recover(out)
    if not out.exists() or not any(out.iterdir()):
        return
    if out.resolve() == source.resolve():
        raise InputError("--out is the bundle itself, which is left as it is. Give a folder of its own.")
    paths = BundlePaths(out)
    if paths.bundle.is_file():
        made = read_description(out).get("adapted", [])
        ours = bool(made) and made[-1]["from_sha256"] == hash_file(BundlePaths(source).bundle)
    else:
        ours = paths.selftest.is_dir()
    if not ours:
        raise InputError(f"{out} exists and was not adapted from this bundle. Give another --out.")


def write_adapted(
    bundle: Bundle,
    out: Path,
    changes: Mapping[str, Any],
    record: dict[str, Any],
    listing: pd.DataFrame | None,
    carry: Callable[[str], str],
) -> dict[str, Any]:
    """Write the folder, test it and return its description. What was at `out` stays until the new one is complete.

    `carry`: what the old bundle says of its run, as the new one has to say it.
    """
    source = bundle.paths.root
    with new_bundle(out) as goal:
        left = made_names(source, NOT_COPIED)
        shutil.copytree(source, goal.root, copy_function=link_or_copy, ignore=left, dirs_exist_ok=True)
        description = _describe(bundle, goal, changes, record, listing)
        description |= {"run": carry(description["run"])} if description.get("run") else {}
        if description.get("runs"):
            description["runs"] = {slug: carry(run) for slug, run in description["runs"].items()}
        renew_self_test(description, goal)
        return write_description(description, goal)


def _describe(
    bundle: Bundle,
    goal: BundlePaths,
    changes: Mapping[str, Any],
    record: dict[str, Any],
    listing: pd.DataFrame | None,
) -> dict[str, Any]:
    """The old description with the changed entries and the record; the list of films is written to `goal`."""
    old, source = bundle.description, bundle.paths
    earlier = list(old.get("adapted", []))
    record = {"from": source.root.name, "from_sha256": hash_file(source.bundle)} | record
    if listing is not None:
        record["films_list"] = f"adapted-{len(earlier) + 1}-films.csv"
        write_csv(listing, goal.root / record["films_list"])
        record["films_sha256"] = hash_file(goal.root / record["films_list"])
    record["findings"] = {slug: _told(old["findings"][slug], change) for slug, change in changes.items()}
    return dict(old) | {
        "findings": old["findings"] | {slug: change.entry for slug, change in changes.items()},
        "adapted": [*earlier, record],
    }


def _told(old: Mapping[str, Any], change: Any) -> dict[str, Any]:
    previous = {name: old[name] for name in PREVIOUS if name in old}
    return {"how": change.how, "reason": change.reason, "previous": previous} | change.facts
