"""The weights that a training starts from: are they there, and are they those that it started from before?

In: a configuration (`init`, `pretrained`). Out: an error before anything starts, a note on weights that fit it less
well, or the hash of the file, which `config.json` keeps: a path says nothing about what lies there now. Called by the
plan.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.config import TrainConfig
from models.files.layout import TargetPaths, read_json, start_file
from orchestrator.datasets.dataset import hash_file
from pathologies.errors import InputError

START = "start_sha256"  # key of config.json
FOLDER, FOLDER_WEIGHTS = "local-dir:", "model.safetensors"  # a backbone in a folder, as timm's own tools write it


def require_start(config: TrainConfig) -> Path | None:
    """The file that the network starts from; None where it starts anew or from timm's weights.

    Errors: FileNotFoundError.
    """
    if config.init:
        return start_file(config.init)
    if config.pretrained.lower() == "true" and config.backbone.startswith(FOLDER):
        path = Path(config.backbone.removeprefix(FOLDER)) / FOLDER_WEIGHTS
        return path if path.is_file() else None  # timm knows further names
    if config.pretrained.lower() in ("", "true", "false"):
        return None
    if not Path(config.pretrained).is_file():
        raise FileNotFoundError(
            f"pretrained={config.pretrained}: no such file. Give true, false or a .safetensors or .pth file."
        )
    return Path(config.pretrained)


def require_others(config: TrainConfig, root: Path) -> None:
    """InputError where the target in the folder `root` is to start from itself: training anew removes those weights."""
    try:
        path = require_start(config)
    except FileNotFoundError:
        return
    if path and path.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"{root} is to start from its own weights, which training it again would remove. Name the other targets "
            "with --targets, or give another --out."
        )


def start_entry(config: TrainConfig) -> dict[str, str]:
    """What `config.json` says of the file; nothing where there is none, or where only a cluster's machines have it."""
    try:
        path = require_start(config)
    except FileNotFoundError:
        return {}
    return {START: hash_file(path)} if path else {}


def start_note(config: TrainConfig) -> str:
    """What to tell of starting weights that saw their films standardised otherwise; their run's settings say how."""
    try:
        path = require_start(config)
        before = read_json(TargetPaths(path.parent).config)["config"].get("standardise", "dataset") if path else ""
    except (FileNotFoundError, ValueError, KeyError):  # a weight file alone, or a cluster's: nothing is known
        return ""
    return f"starts from weights of standardise={before}" if before not in ("", config.standardise) else ""


def comparable(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two settings files, both with the hash or both without: where one lacks it, there is nothing to compare."""
    left_out = set() if START in before and START in now else {START}
    old, new = ({name: value for name, value in side.items() if name not in left_out} for side in (before, now))
    return old, new
