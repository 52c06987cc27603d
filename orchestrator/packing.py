"""The checkout as one zip file, as a job takes it to the cluster.

In: the folder that holds the three packages. Out: which files travel, which do not and why, and the zip. Called by
`hilum submit` and by the doctor. `.gitignore` and `.rayignore` are read by the matcher that Ray itself reads them with.
"""

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pathologies.errors import InputError

PACKAGES = ("pathologies", "models", "orchestrator")
CHECKOUT = Path(__file__).resolve().parent.parent
LIMIT_BYTES = 100 * 2**20  # every node unpacks it and the head keeps it in memory; Ray's own limit is 512 MiB
# Left out whatever the ignore files say: never code, and each one large.
ALWAYS_OUT = (".git", ".venv", "/data", "/runs", "/bundles", "/demo", "/build", "/dist", "*.egg-info", "__pycache__",
              "*.pyc", ".pytest_cache", ".ruff_cache", ".hypothesis", ".mypy_cache", "node_modules")  # fmt: skip
# A folder with one of these is a data set, a run or a bundle, under whatever name.
DATA_MARKERS = ("images.u8", "ledger.jsonl", "plan.json", "bundle.json")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # a zip file without times: the same files give the same bytes and the same address
Matcher = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Package:
    root: Path
    files: tuple[str, ...]  # relative to root, sorted
    left_out: dict[str, str]  # topmost path that stays behind -> reason
    size: int  # bytes of the files before compression


def survey(root: Path = CHECKOUT) -> Package:
    """What of `root` a job needs. An installed hilum has no checkout: then its three packages alone."""
    tops = None if (root / "pyproject.toml").is_file() else PACKAGES
    files, left_out = [], {}
    for path, reason in _walk(root, root, [("default", _matcher(ALWAYS_OUT))], tops):
        if reason:
            left_out[path] = reason
        else:
            files.append(path)
    if not any(name.startswith("orchestrator/") for name in files):
        raise InputError(
            f"{root} does not hold hilum's packages ({', '.join(PACKAGES)}), or an ignore file hides them."
        )
    size = sum((root / name).stat().st_size for name in files)
    return Package(root=root, files=tuple(sorted(files)), left_out=left_out, size=size)


def pack(package: Package, out: Path) -> int:
    """Write the zip and return its bytes. Errors: InputError over the limit, naming the largest files."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in package.files:
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (package.root / name).stat().st_mode << 16
            archive.writestr(entry, (package.root / name).read_bytes())
    size = out.stat().st_size
    if size > LIMIT_BYTES:
        raise InputError(
            f"The upload would be {size / 2**20:.0f} MiB; at most {LIMIT_BYTES // 2**20} MiB are sent. The largest: "
            f"{', '.join(largest(package))}. Name what no job needs in .rayignore."
        )
    return size


def largest(package: Package, count: int = 3) -> list[str]:
    sizes = sorted(((package.root / name).stat().st_size, name) for name in package.files)
    return [f"{name} ({size / 2**20:.1f} MiB)" for size, name in reversed(sizes[-count:])]


def _walk(
    folder: Path, root: Path, rules: list[tuple[str, Matcher]], tops: tuple[str, ...] | None = None
) -> Iterator[tuple[str, str]]:
    """(path relative to root, "" or why it stays behind); a folder that stays behind is named once, not entered."""
    rules = rules + [(name, _file_matcher(folder, root, name)) for name in (".gitignore", ".rayignore")
                     if (folder / name).is_file()]  # fmt: skip
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        if tops and entry.name not in tops:
            continue
        path = Path(entry.path).relative_to(root).as_posix()
        asked = f"{path}/" if entry.is_dir(follow_symlinks=False) else path  # as git names a folder
        reason = next((name for name, hides in rules if hides(asked)), "")
        if not reason and entry.is_symlink() and not entry.is_file():
            reason = "link to a folder"
        if not reason and entry.is_dir() and any((Path(entry.path) / name).exists() for name in DATA_MARKERS):
            reason = "data set, run or bundle"
        if not reason and entry.is_dir():
            yield from _walk(Path(entry.path), root, rules)
        elif reason or entry.is_file():
            yield path, reason


def _matcher(lines: tuple[str, ...] | list[str]) -> Matcher:
    from ray._private.thirdparty.pathspec import PathSpec

    return PathSpec.from_lines("gitwildmatch", lines).match_file


def _file_matcher(folder: Path, root: Path, name: str) -> Matcher:
    above = "" if folder == root else folder.relative_to(root).as_posix() + "/"
    matches = _matcher((folder / name).read_text(encoding="utf-8").splitlines())
    return lambda path: matches(path.removeprefix(above))
