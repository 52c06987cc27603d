"""The code of hilum as one zip file, as it travels to a cluster: these files, and never another.

In: the folder that holds the three packages, and a folder of findings that a command names. Out: which files travel,
what lies among them and does not, and the zip. Called by `hilum submit`, by a driver that connects to a cluster and by
the doctor. A working folder holds label files, films, predictions and keys, so nothing is sent for lying there.
"""

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathologies.errors import InputError
from pathologies.findings.catalog import load_catalog

PACKAGES = ("models", "orchestrator", "pathologies")  # and the packages in them
DATA = {"pathologies/findings": ".toml"}  # package data beside the code, as pyproject.toml installs it
BESIDE = ("LICENSE", "README.md", "constraints.txt", "pyproject.toml")
FINDINGS = "findings"  # where the files of --findings lie in the zip
CHECKOUT = Path(__file__).resolve().parents[1]
EARLIEST = (1980, 1, 1, 0, 0, 0)  # a zip file without times: the same files give the same bytes and the same address


@dataclass(frozen=True, kw_only=True)
class Package:
    files: Mapping[str, Path]  # name in the zip -> the file here, sorted
    left_out: Mapping[str, str]  # of what lies in the packages' folders: name -> why it stays behind

    @property
    def size(self) -> int:
        """Bytes of the files before compression."""
        return sum(path.stat().st_size for path in self.files.values())


def survey(root: Path = CHECKOUT, findings: Path | None = None) -> Package:
    """What a cluster needs of `root`, and the files of `findings`. Errors: InputError, also for a file that is none."""
    files, left_out = {}, {}
    for package in PACKAGES:
        for path, reason in _contents(root / package, package):
            name = path.relative_to(root).as_posix()
            if reason:
                left_out[name] = reason
            else:
                files[name] = path
    if {name.partition("/")[0] for name in files} != set(PACKAGES):
        raise InputError(f"{root} does not hold hilum's packages ({', '.join(PACKAGES)}).")
    files |= {name: root / name for name in BESIDE if (root / name).is_file()}
    if findings is not None:
        load_catalog(findings)  # a TOML file that is no finding may hold anything
        files |= {f"{FINDINGS}/{path.name}": path for path in findings.glob("*.toml")}
    return Package(files=dict(sorted(files.items())), left_out=dict(sorted(left_out.items())))


def pack(package: Package, out: Path) -> int:
    """Write the zip and return its bytes."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in package.files.items():
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = path.stat().st_mode << 16
            archive.writestr(entry, path.read_bytes())
    return out.stat().st_size


def package_lines(package: Package, size: int) -> list[str]:
    """What is sent, and how much: a package's files are counted, any other is named. `size`: bytes of the zip."""
    counts = {name: Counter(Path(file).suffix for file in package.files if file.startswith(f"{name}/"))
              for name in PACKAGES}  # fmt: skip
    code = "; ".join(
        f"{name}: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}"
        for name, kinds in counts.items()
    )
    others = [file if file in BESIDE else f"{file} ({path})" for file, path in package.files.items()
              if file.partition("/")[0] not in PACKAGES]  # fmt: skip
    return [
        f"Sent: {'; '.join([code, *others])}. Nothing else.",
        *(f"Not sent: {name} ({reason})" for name, reason in package.left_out.items()),
        f"Upload: {len(package.files)} files, {package.size / 2**20:.1f} MiB, packed {size / 2**20:.1f} MiB.",
    ]


def _contents(folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """(path, "" or why it stays behind) of what lies in the folder of the package `name`, written with slashes."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name == "__pycache__":
            continue
        if path.is_symlink():
            yield path, "a link"
        elif (path / "__init__.py").is_file():
            yield from _contents(path, f"{name}/{path.name}")
        elif path.is_dir():
            yield path, "a folder"
        else:
            yield path, "" if path.suffix in (".py", DATA.get(name)) else "neither code nor package data"
