"""One finding as data: what its TOML file may hold, read and checked.

Goes in: a `<slug>.toml` file. Comes out: a `Pathology`, or an InputError that names file, key, value and what is
allowed.
Called by the catalogue, which adds the checks that need all findings.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pathologies.errors import InputError, did_you_mean
from pathologies.findings.policy import LabelPolicy

NAME_SOURCES = ("chexpert", "nih", "mimic", "vindr", "padchest", "table")
LAST_IN_REPORT = 1000

_TEXT = ("name", "definition", "sign", "citation")
_KEYS = {
    **dict.fromkeys((*_TEXT, "parents_reason"), str),
    **dict.fromkeys(("parents", "shared_names"), list),
    **dict.fromkeys(("names", "policy", "training"), dict),
    "order": int,
}
_TYPE_NAMES = {str: "a string", list: "a list of strings", dict: "a table", int: "a whole number"}
_REQUIRED = (*_TEXT, "policy")
_SLUG = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Pathology:
    """One finding: what it is called, what a 1 means, and how its labels are read for training."""

    slug: str
    name: str
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # source -> its names there
    definition: str
    sign: str  # what is looked for on the film
    citation: str
    parents: tuple[str, ...] = ()  # findings that are present whenever this one is
    parents_reason: str = ""
    policy: LabelPolicy
    reason: str  # why this policy
    training: Mapping[str, object] = field(default_factory=dict)  # TrainConfig fields that differ for this finding
    order: int = LAST_IN_REPORT
    shared_names: tuple[str, ...] = ()  # names that knowingly mean another finding as well


def read_pathology(file: Path) -> Pathology:
    """One file to one finding; what can be checked without the other findings is checked here."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a TOML file: {error}.") from error
    _check_keys(file, data)
    slug = "_".join(data["name"].lower().replace("-", " ").split())
    if not _SLUG.fullmatch(file.stem) or slug != file.stem:
        raise InputError(f"{file}: key 'name' is {data['name']!r}. Allowed: the file's name in words, so {slug}.toml.")
    policy, reason = _read_policy(file, data["policy"])
    fields = {key: data[key] for key in (*_TEXT, "parents_reason", "order", "training") if key in data}
    return Pathology(
        **fields,
        slug=slug,
        names={source: tuple(names) for source, names in data.get("names", {}).items()},
        parents=tuple(data.get("parents", ())),
        shared_names=tuple(data.get("shared_names", ())),
        policy=policy,
        reason=reason,
    )


def _check_keys(file: Path, data: dict) -> None:
    for key in _REQUIRED:
        if key not in data:
            raise InputError(f"{file}: key '{key}' is missing. Required: {', '.join(_REQUIRED)}.")
    for key, value in data.items():
        if key not in _KEYS:
            raise InputError(f"{file}: unknown key '{key}' ({value!r}).{did_you_mean(key, _KEYS)}")
        _check_type(file, key, value, _KEYS[key])
        if _KEYS[key] is str and not value.strip():
            raise InputError(f"{file}: key '{key}' is {value!r}. Allowed: a text that is not empty.")
    for source, names in data.get("names", {}).items():
        if source not in NAME_SOURCES:
            raise InputError(f"{file}: unknown key 'names.{source}' ({names!r}).{did_you_mean(source, NAME_SOURCES)}")
        _check_type(file, f"names.{source}", names, list)
    for key, value in data.get("training", {}).items():
        if not isinstance(value, str | int | float):
            raise InputError(f"{file}: key 'training.{key}' is {value!r}. Allowed: a string, a number, true, false.")


def _check_type(file: Path, key: str, value: object, kind: type) -> None:
    right = type(value) is kind and (kind is not list or all(isinstance(item, str) and item.strip() for item in value))
    if not right:
        raise InputError(f"{file}: key '{key}' is {value!r}. Allowed: {_TYPE_NAMES[kind]}.")


def _read_policy(file: Path, table: dict) -> tuple[LabelPolicy, str]:
    keys = ("uncertain", "blank", "reason")
    for key in keys:
        if key not in table:
            raise InputError(f"{file}: key 'policy.{key}' is missing. Required: {', '.join(keys)}.")
    for key, value in table.items():
        if key not in keys:
            raise InputError(f"{file}: unknown key 'policy.{key}' ({value!r}).{did_you_mean(key, keys)}")
        _check_type(file, f"policy.{key}", value, str)
    try:
        return LabelPolicy(uncertain=table["uncertain"], blank=table["blank"]), table["reason"]
    except ValueError as error:
        raise InputError(f"{file}: key 'policy': {error}") from error
