"""The values of options, as words of the command line or as Python values, and what a call gives back: one for both.

In: "edema,fracture" or ("edema", "fracture"), ["epochs=3"] or {"epochs": 3}, "1/5" or (1, 5); a folder as its path, as
its URI or as what an earlier call gave back. Out: what the requests of the other rooms take. Called by
orchestrator.api, and so by every command. Errors: InputError that names the option.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from orchestrator.storage.object_store import parse_place
from pathologies.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.inference.bundle import Bundle

Place = Union[str, Path, "Result", "Bundle"]
Words = str | Iterable[str] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a call made: the folder (a Path or a URI), which can be handed to the next call, and what is in it."""

    folder: Path | str | None
    table: "pd.DataFrame"
    notes: tuple[str, ...] = ()  # what a reader of the table must know
    details: Any = None  # all of it, as the room that did the work gives it

    def _repr_html_(self) -> str:
        from html import escape

        return self.table.to_html() + "".join(f"<p>{escape(note)}</p>" for note in self.notes)


def place_of(given: Any) -> Path | str | None:
    """The folder of whatever stands for one."""
    if given is None or isinstance(given, str | Path):
        return given if given is None else parse_place(given)
    if isinstance(given, Result) and given.folder is not None:
        return given.folder
    from orchestrator.inference.bundle import Bundle
    from orchestrator.storage.staging import origin

    if isinstance(given, Bundle):
        return origin(given.paths.root) or given.paths.root
    what = type(given).__name__
    raise InputError(f"A {what} stands for no folder. Give a path, a URI, a Bundle, or a Result that has a folder.")


def read_words(given: Words) -> tuple[str, ...]:
    """Names, in one text between commas or one by one."""
    parts = given.split(",") if isinstance(given, str) else given or ()
    return tuple(word.strip() for word in parts if word.strip())


def read_settings(given: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Any]:
    """Training settings; which there are, `TrainConfig` knows."""
    from models.config import parse_settings

    return dict(given) if isinstance(given, Mapping) else parse_settings(_listed(given))


def read_member_settings(given: Mapping[int, Mapping[str, Any]] | Iterable[str] | None) -> dict[int, dict[str, Any]]:
    """`1:backbone=resnet34`, or {1: {"backbone": "resnet34"}}: the settings of single members, from 0."""
    if isinstance(given, Mapping):
        return {int(member): dict(settings) for member, settings in given.items()}
    found: dict[int, dict[str, Any]] = {}
    for word in _listed(given):
        member, separator, setting = word.partition(":")
        if not separator or not member.isdigit():
            raise InputError(f"--member-set wants k:name=value, got {word!r}. For example: 1:backbone=resnet34.")
        found.setdefault(int(member), {}).update(read_settings([setting]))
    return found


def read_source_options(given: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Any]:
    """name=value of a label source."""
    if isinstance(given, Mapping):
        return dict(given)
    pairs = [word.partition("=") for word in _listed(given)]
    wrong = [name for name, separator, _ in pairs if not separator]
    if wrong:
        raise InputError(f"--option wants name=value, got {wrong[0]!r}. For example: --option official_lists=DIR.")
    return {name: value for name, _, value in pairs}


def read_assignments(given: Mapping[str, float] | Iterable[str] | None) -> tuple[str, ...]:
    """finding=value, as words: which findings there are, the bundle knows."""
    if isinstance(given, Mapping):
        return tuple(f"{name}={value}" for name, value in given.items())
    return tuple(_listed(given))


def read_fractions(given: str | Iterable[float]) -> tuple[float, ...]:
    try:
        shares = tuple(float(one) for one in (given.split(",") if isinstance(given, str) else given))
    except (TypeError, ValueError):
        shares = ()
    if len(shares) != 4 or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise InputError(f"--fractions {given!r}: expected four shares that sum to 1, for example 0.6,0.1,0.15,0.15.")
    return shares


def read_fold(given: str | tuple[int, int] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    parts = tuple(str(one) for one in (given.split("/") if isinstance(given, str) else given))
    if len(parts) != 2 or not all(one.isdigit() for one in parts):
        raise InputError(f"--fold {given!r}: expected i/k, for example 1/5.")
    return int(parts[0]), int(parts[1])


def require_at_least(**given: tuple[float | None, float]) -> None:
    """name=(value, the lowest that is allowed); None is allowed."""
    for name, (value, lowest) in given.items():
        if value is not None and not value >= lowest:
            raise InputError(f"{name} is {value}. Allowed: {lowest:g} or more.")


def _listed(given: Iterable[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())
