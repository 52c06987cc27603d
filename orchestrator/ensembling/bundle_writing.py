"""The one way to write a bundle: built beside, tested there, and put in place of what was there in one step.

In: where the bundle goes, and what it says of itself. Out: a complete, sealed BUNDLE, `bundle.json` last; until its
self-test has passed the bundle that was there stays. Called by the ensembler, by `replace` and by `adapt`.
"""

import contextlib
import fnmatch
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from models.files.layout import TEMPORARY_PREFIX, BundlePaths, publishing, read_json, write_json, write_text
from orchestrator.ensembling.pipeline import COMPARISONS, comparisons_text
from orchestrator.inference.bundle import answers, assemble, load_bundle, test_pattern
from orchestrator.inference.bundle_description import write_description
from orchestrator.storage.folder_swap import building, recover
from pathologies.errors import InputError

MADE = (
    "bundle.json",
    "bundle.sha256",
    "weights",
    "selftest",
    COMPARISONS,
    "adapted-*-films.csv",
    f"{TEMPORARY_PREFIX}*",
)


def check_goal(out: Path, run: Path, force: bool = False) -> None:
    """InputError unless a bundle of `run` may go to `out`: free, or a bundle that can be made anew; all stays there.

    An adapted bundle has what no run can make again; it gives way only with `force`.
    """
    recover(out)
    paths = BundlePaths(out)
    if out.resolve() == run.resolve():
        raise InputError("--out is the run itself. Give a folder of its own.")
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (paths.bundle.exists() or paths.selftest.exists())):
        raise InputError(f"{out} exists and is not a bundle. Give another --out.")
    if not force and paths.bundle.is_file() and read_json(paths.bundle).get("adapted"):
        raise InputError(
            f"{out} is a bundle that was adapted to local films, which this command cannot make again. "
            "Give another --out, or --force to replace it."
        )


@contextlib.contextmanager
def new_bundle(out: Path) -> Iterator[BundlePaths]:
    """A folder to write the bundle in; it takes the place of `out` when it is complete and its self-test passes.

    Files of `out` that no bundle is made of, such as its log of test readings, are there afterwards too.
    """
    with building(out) as build:
        yield BundlePaths(build)
        load_bundle(build, device="cpu")
        if Path(out).is_dir():
            ours = made_names(Path(out))
            shutil.copytree(out, build, symlinks=True, copy_function=_keep, ignore=ours, dirs_exist_ok=True)


def made_names(root: Path, names: tuple[str, ...] = MADE) -> Callable[[str, list[str]], set[str]]:
    """For `shutil.copytree`: leave out what in `root` itself is called like one of `names`, and temporary files."""

    def ignored(folder: str, present: list[str]) -> set[str]:
        patterns = names if Path(folder) == root else (f"{TEMPORARY_PREFIX}*",)
        return {one for one in present if any(fnmatch.fnmatch(one, pattern) for pattern in patterns)}

    return ignored


def link_or_copy(source: str, goal: str) -> str:
    """A second name for the same bytes (hilum replaces files and never changes one), else a copy."""
    Path(goal).unlink(missing_ok=True)
    try:
        os.link(source, goal)
    except OSError:
        shutil.copy2(source, goal)
    return goal


def _keep(source: str, goal: str) -> str:
    return goal if Path(goal).exists() else link_or_copy(source, goal)


def finish(
    description: Mapping[str, Any], out: BundlePaths, kept: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Complete a bundle whose weights are there: the self-test, the comparisons, the seal, `bundle.json`.

    Returns what the last one says.

    kept: answers of the self-test by kind and finding that stay as an earlier bundle had them.
    """
    write_self_test(description, out, kept)
    write_text(out.root / COMPARISONS, comparisons_text(description["findings"]))
    return write_description(description, out)


def write_self_test(
    description: Mapping[str, Any], out: BundlePaths, kept: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """The film of the self-test and the answers to it."""
    from PIL import Image

    film = test_pattern(description["input"]["size"])
    with publishing(out.selftest / "input.png") as temporary:
        Image.fromarray(film).save(temporary)
    bundle, kept = assemble(description, out, device="cpu"), kept or {}
    logits = dict(zip(bundle.slugs, bundle.logits(film[None])[0].tolist(), strict=True)) | dict(kept.get("logits", {}))
    given = answers(bundle, logits)  # of the kept logits too, from which alone the test asks them
    expected = {"input_sha256": hashlib.sha256(film.tobytes()).hexdigest(), "logits": logits}
    for name, values in given.items():
        expected[name] = values | dict(kept.get(name, {}))
    write_json(out.selftest / "expected.json", expected)


def renew_self_test(description: Mapping[str, Any], out: BundlePaths) -> None:
    """After a change of what follows the networks: the same film and logits, and what is told of them now."""
    expected = read_json(out.selftest / "expected.json")
    bundle = assemble(description, out, device="cpu")
    write_json(out.selftest / "expected.json", expected | answers(bundle, expected["logits"]))
