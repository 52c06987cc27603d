"""Make the golden past: a tiny data set, run and bundles, written by the hilum that runs this, for later ones to read.

In: the archive to write. Out: a .tar.xz of everything that passes through the doors, with what this hilum answers.
Called by hand, once per promise of reading what was made before: `python -m tests.make_golden_past FILE`. Kept in
tests/golden, read by tests/test_golden_past.py.

The networks are mostly zeros and only their last layer learns, so that a dozen of them fit into a few kilobytes.
"""

import json
import os
import socket
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file

from models.config import TrainConfig
from models.network.builder import build_network
from orchestrator.cli.app import main

ROOT = Path("/tmp/hilum-golden")  # a run remembers where its data set lies: the same place on every machine
TARGETS = "pleural_effusion,lung_opacity"
SETTINGS = {
    "backbone": "plain", "init": "start.safetensors", "epochs": 8, "frozen_epochs": 8, "batch_size": 16,
    "learning_rate": 0.05, "precision": "fp32", "device": "cpu", "threads": 1, "snapshots": 1,
}  # fmt: skip
TRAIN = ("train", "dataset", "--out", "run", "--inline", "--targets", TARGETS)
COMMANDS = (
    ("phantom", "phantom", "--patients", "80", "--size", "64", "--no-laterals", "--labels", "chexpert"),
    ("prepare", "chexpert", "--labels", "phantom/train.csv", "--images", "phantom", "--out", "dataset", "--size", "16",
     "--workers", "1"),
    (*TRAIN, "--members", "2"),
    (*TRAIN, "--shared"),
    ("tune", "dataset", "--out", "search", "--inline", "--targets", "lung_opacity", "--trials", "2",
     "--members", "1"),
    ("ensemble", "run", "--out", "bundle"),
    ("ensemble", "run", "--out", "bundle-shared", "--use", "shared"),
    ("ensemble", "search", "--out", "bundle-search"),
    ("adapt", "bundle", "--out", "bundle-adapted", "--prevalence", "lung_opacity=0.1"),
    ("evaluate", "bundle", "dataset", "--part", "test", "--out", "bundle-test"),
)  # fmt: skip
BUNDLES = ("bundle", "bundle-shared", "bundle-search", "bundle-adapted")
KEPT = ("dataset", "run", "search", *BUNDLES, "films", "answers", "start.safetensors")


def settings_of(command: tuple[str, ...]) -> list[str]:
    """The settings of a training or a search, as words."""
    if command[0] not in ("train", "tune"):
        return []
    left_out = ("snapshots", "learning_rate") if command[0] == "tune" else ()
    if "--shared" in command:
        left_out = ("snapshots",)  # a shared network keeps none
    return [word for name, value in SETTINGS.items() if name not in left_out for word in ("--set", f"{name}={value}")]


def run(*words: str) -> None:
    """One command in ROOT; it leaves by SystemExit."""
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            raise


def start_weights(path: Path) -> None:
    """The plain network with few weights that are not zero, on a coarse grid: it compresses to almost nothing."""
    network = build_network("plain")
    draws = np.random.default_rng(0)
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith("conv.weight"):
            kept = draws.random(value.shape[:2] + (1, 1)) < 2.5 / value.shape[1]
            grid = np.round(draws.normal(0, 2, value.shape)) / 4
            value = torch.from_numpy((grid * kept).astype(np.float32))
        state[name] = value.contiguous()
    save_file(state, path)


def films(folder: Path) -> None:
    """Four films as PNG, of the phantom's first patients."""
    folder.mkdir()
    for path in sorted((ROOT / "phantom").rglob("*.jpg"))[:4]:
        name = "-".join(path.relative_to(ROOT / "phantom").with_suffix(".png").parts[-3:])
        Image.open(path).save(folder / name)


def digests() -> dict:
    """What must stay equal: the digest of every configuration, by folder."""
    found = {}
    for path in sorted([*ROOT.glob("run/**/config.json"), *ROOT.glob("search/**/config.json")]):
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        found[str(path.relative_to(ROOT))] = TrainConfig(**config).digest()
    return found


def scrub() -> None:
    """No name of the machine travels."""
    for path in [*ROOT.rglob("outcome.json"), *ROOT.rglob("ledger.jsonl")]:
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(socket.gethostname(), "golden"), encoding="utf-8")


def make(out: Path) -> None:
    """Errors: SystemExit of the command that failed."""
    ROOT.mkdir()  # one that is there is somebody's
    os.chdir(ROOT)
    start_weights(ROOT / "start.safetensors")
    for command in COMMANDS:
        run(*command, *settings_of(command))
    films(ROOT / "films")
    (ROOT / "answers").mkdir()
    for bundle in BUNDLES:
        run("predict", bundle, "films", "--out", f"answers/{bundle}.csv")
    for path in ROOT.rglob("*.lock"):
        path.unlink()
    scrub()
    (ROOT / "answers" / "digests.json").write_text(json.dumps(digests(), indent=1), encoding="utf-8")
    with tarfile.open(out, "w:xz", preset=9) as archive:
        for name in KEPT:
            archive.add(ROOT / name, name, filter=_plain)
    sizes = pd.Series({name: sum(f.stat().st_size for f in (ROOT / name).rglob("*") if f.is_file()) for name in KEPT})
    print(sizes.to_string(), f"\n{out}: {out.stat().st_size / 1000:.0f} kB")


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if entry.name.startswith("search/") and entry.name.endswith(".png"):
        return None
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
