"""`RUN/tuned/<slug>.toml`: the settings that a search found best for a finding, and how good they were.

In: the search's winner. Out: a file that a person can read and `hilum train --tuned RUN` uses. Called by the search and
by the planner.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.config import build_config
from models.files.layout import RunPaths, to_plain, write_text
from pathologies.errors import InputError

# Where and how fast something is computed belongs to a machine, not to a finding.
MACHINE_FIELDS = ("device", "threads", "checkpoint_minutes")


def write_tuned(path: Path, facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """`facts` (trial, scores) at the top, `settings` of TrainConfig in the table [training]; None is left out."""
    kept = {name: value for name, value in settings.items() if name not in MACHINE_FIELDS}
    lines = ["# Written by `hilum tune`; `hilum train --tuned` layers [training] below its own --set.", *_lines(facts)]
    write_text(path, "\n".join([*lines, "", "[training]", *_lines(kept)]) + "\n")


def read_tuned(path: Path) -> dict[str, Any]:
    """The whole file. Errors: not TOML; a setting that TrainConfig does not know."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        build_config(content.get("training", {}))
    except ValueError as error:
        raise InputError(f"{path}: {error}. `hilum tune` writes it anew.") from error
    return content


def tuned_settings(run: Path, slugs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{slug: settings} of the findings that were tuned; those that were not keep their defaults.

    Errors: FileNotFoundError where none of `slugs` was.
    """
    paths = {slug: RunPaths(run).tuned(slug) for slug in slugs}
    found = {slug: read_tuned(path)["training"] for slug, path in paths.items() if path.is_file()}
    if not found:
        folder = next(iter(paths.values())).parent
        there = ", ".join(sorted(path.stem for path in folder.glob("*.toml"))) or "nothing"
        raise FileNotFoundError(
            f"{folder} has no tuned settings of {', '.join(slugs)}. It has: {there}. Make them with `hilum tune`."
        )
    return found


def _lines(values: Mapping[str, Any]) -> list[str]:
    """A JSON string, number or truth value is a TOML one too; TOML has no word for nothing."""
    known = {name: value for name, value in to_plain(values).items() if value is not None}
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in known.items()]
