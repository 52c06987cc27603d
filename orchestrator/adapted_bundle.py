"""The files of an adapted bundle: everything of the old one that is not fitted, linked or copied, and what is new.

In: the old bundle, the changed entries and a record of what was done. Out: a complete BUNDLE folder, `bundle.json`
last. Called by adapt. `bundle.json` gains `adapted`, a list with an entry per adaptation: its source, the hash of the
old `bundle.json`, and for each changed finding the values that it had before.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from models.paths import TEMPORARY_PREFIX, BundlePaths, publishing, read_json, write_json
from orchestrator.bundle import Bundle, assemble, load_bundle, self_test
from orchestrator.dataset import hash_file
from orchestrator.places import carried_on
from pathologies.errors import InputError

NOT_COPIED = ("bundle.json", "test_reads.jsonl")
PREVIOUS = ("calibration", "operating_points", "conformal", "counts", "cross_validated")


def check_goal(source: Path, out: Path) -> None:
    """Make room. InputError unless `out` is free, unfinished, or adapted from this very bundle, so to be made anew."""
    if not out.exists() or not any(out.iterdir()):
        return
    if out.resolve() == source.resolve():
        raise InputError("--out is the bundle itself, which is left as it is. Give a folder of its own.")
    paths = BundlePaths(out)
    if paths.bundle.is_file():
        made = read_json(paths.bundle).get("adapted", [])
        ours = bool(made) and made[-1]["from_sha256"] == hash_file(BundlePaths(source).bundle)
    else:
        ours = paths.selftest.is_dir()
    if not ours:
        raise InputError(f"{out} exists and was not adapted from this bundle. Give another --out.")
    paths.bundle.unlink(missing_ok=True)
    for folder in (paths.root / "weights", paths.selftest):  # a link left standing would be written through
        shutil.rmtree(folder, ignore_errors=True)


def write_adapted(
    bundle: Bundle, out: Path, changes: Mapping[str, Any], record: dict[str, Any], listing: pd.DataFrame | None
) -> dict[str, Any]:
    """Write the folder, test it and return its description. A killed call leaves no bundle.json, so no bundle."""
    old, source = bundle.description, bundle.paths
    shutil.copytree(source.root, out, copy_function=_link, ignore=_left_behind, dirs_exist_ok=True)
    goal = BundlePaths(out)
    earlier = list(old.get("adapted", []))
    record = {"from": source.root.name, "from_sha256": hash_file(source.bundle)} | record
    if listing is not None:
        record["films_list"] = f"adapted-{len(earlier) + 1}-films.csv"
        with publishing(goal.root / record["films_list"]) as temporary:
            listing.to_csv(temporary, index=False)
        record["films_sha256"] = hash_file(goal.root / record["films_list"])
    record["findings"] = {slug: _told(old["findings"][slug], change) for slug, change in changes.items()}
    description = dict(old) | {
        "findings": old["findings"] | {slug: change.entry for slug, change in changes.items()},
        "adapted": [*earlier, record],
    }
    if old.get("run"):
        description["run"] = carried_on(old["run"], source.root, goal.root)
    if old.get("runs"):
        description["runs"] = {slug: carried_on(run, source.root, goal.root) for slug, run in old["runs"].items()}
    _renew_self_test(description, goal)
    write_json(goal.bundle, description)
    load_bundle(out, device="cpu")
    return description


def _told(old: Mapping[str, Any], change: Any) -> dict[str, Any]:
    previous = {name: old[name] for name in PREVIOUS if name in old}
    return {"how": change.how, "reason": change.reason, "previous": previous} | change.facts


def _link(source: str, goal: str) -> str:
    """A second name for the same bytes (hilum replaces files and never changes one), else a copy."""
    Path(goal).unlink(missing_ok=True)
    try:
        os.link(source, goal)
    except OSError:
        shutil.copy2(source, goal)
    return goal


def _left_behind(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in NOT_COPIED or name.startswith(TEMPORARY_PREFIX)}


def _renew_self_test(description: dict[str, Any], goal: BundlePaths) -> None:
    """The networks must say what they said; the probabilities of the stored film are now others."""
    from models.images import decode

    bundle = assemble(description, goal, device="cpu")
    self_test(bundle)
    expected = read_json(goal.selftest / "expected.json")
    film = decode(goal.selftest / "input.png")
    probability = bundle.probabilities(film[None])[0]
    expected["probabilities"] = dict(zip(bundle.slugs, probability.tolist(), strict=True))
    write_json(goal.selftest / "expected.json", expected)
