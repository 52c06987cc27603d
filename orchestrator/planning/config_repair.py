"""Files of a job that a disk or a person has damaged: those that follow from others are made again.

In: a job's folder and what the plan of the run says of it. Out: a whole `config.json`, or an error that says
what to do; whether `targets.npz` has to be written again. Called by the plan, before anything starts.
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from models.config import RECIPE_VERSION, TrainConfig
from models.files.layout import RunPaths, TargetPaths, read_json
from pathologies.errors import InputError


def read_planned(run: RunPaths) -> dict[str, Any]:
    """What `plan.json` says of each job: device, precision and the hash of its configuration."""
    return read_json(run.plan)["jobs"] if run.plan.exists() else {}


def is_damaged(paths: TargetPaths) -> bool:
    """Whether there is a `config.json` that cannot be read."""
    if not paths.config.exists():
        return False
    try:
        TrainConfig(**read_json(paths.config)["config"])
    except (ValueError, KeyError, TypeError):
        return True
    return False


def config_again(paths: TargetPaths, config: TrainConfig, planned: Mapping[str, Any] | None) -> TrainConfig:
    """The configuration that the damaged `config.json` had. Errors: InputError where that is not the one asked for."""
    if planned:
        same = dataclasses.replace(config, device=planned["device"], precision=planned["precision"])
        for version in (config.recipe_version, *range(RECIPE_VERSION, 0, -1)):
            same = dataclasses.replace(same, recipe_version=version)
            if same.digest() == planned["config"]:
                return same
    raise InputError(
        f"{paths.config} is damaged, and what is asked for now is not what the run's plan has for it. Give the same "
        f"settings as before and it is written again; or remove {paths.root} to train that target anew."
    )


def targets_are_whole(paths: TargetPaths) -> bool:
    """Whether `targets.npz` is there and each of its arrays has the checksum that it was written with."""
    try:
        with paths.targets.open("rb") as file, zipfile.ZipFile(file) as stored:
            return stored.testzip() is None and bool(stored.namelist())
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False
