"""The recipe of a run: do the findings' networks start from a shared one, and in how many folds are they trained?

In: what was asked for, what the run's plan says, the data set. Out: the start, the number of folds, one line that tells
what was decided here; the folds written into the run. Called by the planner of a run. What was decided once stays with
the run, so that the same command goes on as it began.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from models.config import TrainConfig
from models.files.layout import RunPaths, read_json, write_text
from orchestrator.datasets.labelled import Material
from pathologies.errors import InputError

SCRATCH, SHARED_START = "scratch", "shared"
DECIDE, DECIDE_FOLDS = "auto", 0
KEY = "recipe"  # of plan.json; absent: from scratch, without folds
FOLDS = 5
MOST_FILMS = 5_000  # from so many on, calibrate has enough of them, and five networks in the place of one cost hours
LEAST_POSITIVE = 2  # patients in a fold, of one finding at least


@dataclass(frozen=True, kw_only=True)
class Recipe:
    start: str  # scratch: the old way; shared: a shared network first, and each finding's own from its state
    folds: int  # 1: none
    told: str = ""  # what was decided here and not by the user

    def to_dict(self) -> dict[str, Any]:
        return {"start": self.start, "folds": self.folds}

    @property
    def is_old(self) -> bool:
        return self.start == SCRATCH and self.folds == 1


def asked_start(from_scratch: bool | None) -> str:
    return {None: DECIDE, True: SCRATCH, False: SHARED_START}[from_scratch]


def asked_folds(words: int | str) -> int:
    """A number as it is; DECIDE_FOLDS for auto. Errors: InputError."""
    text = str(words).strip().lower()
    if text == DECIDE:
        return DECIDE_FOLDS
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--folds {words}: give a number from 1 (none) on, or auto.")
    return int(text)


def decided_recipe(
    start: str, folds: int, settings: Iterable[Mapping[str, Any]], run: RunPaths, material: Material
) -> Recipe:
    """`start`, `folds`: as asked for, or left to be decided. `settings`: the user's, of all members.

    Errors: settings that choose an epoch by the part `select`, which neither a shared start nor folds leave to them.
    """
    given: dict[str, Any] = {}
    for layer in settings:
        given |= layer
    choosing, before = _choosing(given), _recipe_of(run)
    alone = given.get("epochs") == 1 or len(material.dataset.manifest["findings"]) < 2
    if start == DECIDE:
        start = before.start if before else SCRATCH if choosing or alone else SHARED_START
    films, enough = _enough(material)
    if folds == DECIDE_FOLDS:
        folds = before.folds if before else FOLDS if enough and not choosing else 1
    if start not in (SCRATCH, SHARED_START) or folds < 1:
        raise InputError(f"start={start!r}, folds={folds}: a start is {SCRATCH} or {SHARED_START}, folds at least 1.")
    if choosing and (start == SHARED_START or folds > 1):
        raise InputError(
            f"{choosing} chooses epochs by the part select. Networks that start from a shared one keep their last "
            "epoch, and folds leave no part select. Leave it out, or add --from-scratch --folds 1."
        )
    return Recipe(start=start, folds=folds, told=_told(start, folds, films, before is not None))


def _choosing(settings: Mapping[str, Any]) -> str:
    """The first setting that chooses epochs by `select`, as `name=value`; else nothing."""
    wanted = {"patience": 0, "snapshots": 0, "epoch_choice": "last"}
    found = [f"{name}={settings[name]}" for name, usual in wanted.items() if settings.get(name, usual) != usual]
    return found[0] if found else ""


def chooses_epochs(config: TrainConfig) -> str:
    """As `decided_recipe` refuses it, of a configuration: what in it chooses epochs; else nothing."""
    return _choosing({"patience": config.patience, "snapshots": config.snapshots})


def _recipe_of(run: RunPaths) -> Recipe | None:
    """What the run began with; None where no training was planned in it."""
    plan = read_json(run.plan) if run.plan.exists() else {}
    if KEY in plan:
        return Recipe(**plan[KEY])
    return Recipe(start=SCRATCH, folds=1) if plan.get("jobs") else None


def _enough(material: Material) -> tuple[int, bool]:
    """The films of train, select and calibrate, and whether they are few enough, and patients enough, for folds."""
    here = material.frame[material.parts != "test"]
    raw = here[material.dataset.manifest["findings"]].eq(1)
    positive = raw.groupby(here["patient_id"]).any().sum()
    patients = here["patient_id"].nunique()
    enough = patients >= 2 * FOLDS and (positive >= LEAST_POSITIVE * FOLDS).any()
    return len(here), bool(len(here) < MOST_FILMS and enough)


def _told(start: str, folds: int, films: int, before: bool) -> str:
    first = "each finding's own network goes on from a shared one" if start == SHARED_START else "from scratch"
    parts = f"{folds} folds of the {films:,} films that are not test" if folds > 1 else "without folds"
    other = "--from-scratch" if start == SHARED_START else "--from-shared"
    return f"Recipe{' of this run' if before else ''}: {first}, {parts}. Otherwise: {other}, --folds."


def write_folds(run: RunPaths, material: Material) -> None:
    for folds, number in material.folds.items():
        if not run.folds(folds).exists():
            table = pd.DataFrame({"image_id": material.frame["image_id"], "fold": number})
            write_text(run.folds(folds), table.to_csv(index=False))
