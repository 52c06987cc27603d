"""The people of the phantom: who they are, how often they come, and which findings each study shows.

In: seed, patient number, "demo" or "chexpert" prevalence. Out: Patient objects without a single pixel.
Called by writer.py (tables and films) and by tests. A patient depends on (seed, number) alone, so more patients
extend a set. First studies follow a low-discrepancy sequence over the patient numbers, which keeps the prevalence of
small sets close to the table below.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from pathologies.errors import InputError

CHILDREN = {
    "enlarged_cardiomediastinum": ("cardiomegaly",),
    "lung_opacity": ("lung_lesion", "edema", "consolidation", "pneumonia", "atelectasis"),
}
FINDINGS = (
    "enlarged_cardiomediastinum",
    "cardiomegaly",
    "lung_opacity",
    "lung_lesion",
    "edema",
    "consolidation",
    "pneumonia",
    "atelectasis",
    "pneumothorax",
    "pleural_effusion",
    "pleural_other",
    "fracture",
)

# Share of studies that show a finding. `opaque` is lung_opacity itself: its children occur among those studies only.
# For enlarged_cardiomediastinum it is the share with a wide upper mediastinum, cardiomegaly comes on top.
# "chexpert": positive + 0.3 x uncertain of the label counts in labels.py (a part of "cannot be excluded" is
# there), and room in `opaque` for the opacities that have no other name.
PREVALENCES = {
    "demo": {
        "opaque": 0.322,
        "failure": 0.25,
        "devices": 0.40,
        "ap": 0.55,
        "enlarged_cardiomediastinum": 0.13,
        "cardiomegaly": 0.21,
        "lung_lesion": 0.18,
        "edema": 0.19,
        "consolidation": 0.18,
        "pneumonia": 0.18,
        "atelectasis": 0.19,
        "pneumothorax": 0.19,
        "pleural_effusion": 0.27,
        "pleural_other": 0.18,
        "fracture": 0.20,
    },
    "chexpert": {
        "opaque": 0.60,
        "failure": 0.25,
        "devices": 0.55,
        "ap": 0.85,
        "enlarged_cardiomediastinum": 0.065,
        "cardiomegaly": 0.132,
        "lung_lesion": 0.043,
        "edema": 0.251,
        "consolidation": 0.103,
        "pneumonia": 0.052,
        "atelectasis": 0.195,
        "pneumothorax": 0.091,
        "pleural_effusion": 0.402,
        "pleural_other": 0.019,
        "fracture": 0.041,
    },
}

# Relative frequency in the four states (opaque + heart failure, opaque, heart failure, neither).
LIFTS = {
    "enlarged_cardiomediastinum": (1.0, 1.1, 1.0, 0.8),
    "cardiomegaly": (2.2, 1.0, 2.4, 0.7),
    "lung_lesion": (0.9, 1.1, 0.0, 0.0),
    "edema": (1.7, 0.75, 0.0, 0.0),
    "consolidation": (0.9, 1.1, 0.0, 0.0),
    "pneumonia": (0.9, 1.1, 0.0, 0.0),
    "atelectasis": (1.1, 1.0, 0.0, 0.0),
    "pneumothorax": (0.8, 1.1, 0.6, 0.9),
    "pleural_effusion": (2.2, 1.4, 1.7, 0.65),
    "pleural_other": (1.1, 1.3, 0.9, 0.9),
    "fracture": (1.0, 1.1, 1.0, 1.0),
}
FAILURE_GIVEN_OPAQUE = 1.7  # times the overall share: the flooded lung is often a failing heart's
PERSISTENCE = 0.7  # chance that a trait of the last study is still there in the next
SLIGHT_SHARE = 0.12  # of the planted signs
STUDY_SHARES = (0.60, 0.22, 0.10, 0.08)  # one to four studies: 1.66 on average
_LATENTS = ("opaque", "failure", *LIFTS)
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)


@dataclass(frozen=True, kw_only=True)
class Study:
    """One visit: what is there (hierarchy closed), how pronounced, and the views that were taken."""

    number: int
    projection: str  # of the frontal view: AP or PA
    lateral: bool
    truth: dict[str, int]
    signs: dict[str, float]  # drawn sign -> severity around 1; parents without a sign of their own are absent
    devices: bool


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One person with every study."""

    number: int
    sex: str
    age: int
    studies: tuple[Study, ...]

    @property
    def name(self) -> str:
        """The folder name in CheXpert's layout."""
        return f"patient{self.number:05d}"


def stream(seed: int, number: int, *purpose: int) -> np.random.Generator:
    """The random stream of one purpose: it depends on its own numbers only, never on what was drawn elsewhere."""
    return np.random.default_rng([seed, number, *purpose])


@cache
def _rates(prevalence: str) -> dict[str, tuple[float, float, float, float]]:
    """Probability of each finding in the four states, such that the overall share is the table's."""
    table = PREVALENCES[prevalence]
    opaque, failure = table["opaque"], table["failure"]
    both = opaque * min(0.95, failure * FAILURE_GIVEN_OPAQUE)
    cells = np.array([both, opaque - both, failure - both, 1 - opaque - failure + both])
    rates = {}
    for finding, lift in LIFTS.items():
        rate = table[finding] * np.array(lift) / (cells @ np.array(lift))
        if rate.max() > 1:
            raise InputError(f"Prevalence '{prevalence}': {finding} cannot reach {table[finding]} with lifts {lift}")
        rates[finding] = tuple(float(value) for value in rate)
    return rates


@cache
def _shifts(seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 0]).random(len(_PRIMES))


def _first_latents(seed: int, number: int) -> np.ndarray:
    """Uniform numbers of the first study: a Richtmyer sequence over patients, shifted by the seed."""
    return (_shifts(seed) + number * np.sqrt(np.array(_PRIMES))) % 1.0


def _findings(latents: np.ndarray, prevalence: str) -> tuple[set[str], bool, bool]:
    """(findings with a sign of their own, opaque, heart failure) of one study."""
    table, draw = PREVALENCES[prevalence], dict(zip(_LATENTS, latents, strict=True))
    opaque = draw["opaque"] < table["opaque"]
    share = min(0.95, table["failure"] * FAILURE_GIVEN_OPAQUE)
    if not opaque:
        share = (table["failure"] - table["opaque"] * share) / (1 - table["opaque"])
    failure = draw["failure"] < share
    state = (0 if failure else 1) if opaque else (2 if failure else 3)
    found = {finding for finding, rate in _rates(prevalence).items() if draw[finding] < rate[state]}
    if opaque and not found & set(CHILDREN["lung_opacity"]):
        found.add("lung_opacity")
    return found, opaque, failure


def _severities(rng: np.random.Generator) -> np.ndarray:
    """Per finding: mostly clear signs, some slight ones, and a few (3 %) that the film does not show at all.

    Those are known from elsewhere, as in life, and keep every AUC below 1 however good the network.
    """
    slight = rng.random(len(FINDINGS)) < SLIGHT_SHARE
    return np.where(slight, rng.uniform(-0.15, 0.45, len(FINDINGS)).clip(0), rng.uniform(0.65, 1.35, len(FINDINGS)))


def close_hierarchy(found: set[str]) -> dict[str, int]:
    """1 or 0 for each of the twelve; a child brings its parent with it."""
    truth = {finding: int(finding in found) for finding in FINDINGS}
    for parent, children in CHILDREN.items():
        truth[parent] = max(truth[parent], *(truth[child] for child in children))
    return truth


def draw_patient(seed: int, number: int, prevalence: str, laterals: bool = True) -> Patient:
    """The patient `number` (from 1) with one to four studies."""
    rng = stream(seed, number, 1)
    table = PREVALENCES[prevalence]
    latents = _first_latents(seed, number)
    count = 1 + int(np.searchsorted(np.cumsum(STUDY_SHARES)[:-1], rng.random(), side="right"))
    studies = []
    for index in range(count):
        if index:
            latents = np.where(rng.random(latents.size) < PERSISTENCE, latents, rng.random(latents.size))
        found, opaque, failure = _findings(latents, prevalence)
        sick = opaque or failure
        severity = _severities(rng)
        chances = rng.random(3)
        ap = chances[0] < np.clip(table["ap"] + (0.15 if sick else -0.10), 0.0, 0.95)
        studies.append(
            Study(
                number=index + 1,
                projection="AP" if ap else "PA",
                lateral=laterals and not ap and chances[1] < 0.6,
                truth=close_hierarchy(found),
                signs={finding: float(severity[i]) for i, finding in enumerate(FINDINGS) if finding in found},
                devices=bool(chances[2] < np.clip(table["devices"] + (0.15 if sick else -0.08), 0.0, 0.95)),
            )
        )
    sex = "Male" if rng.random() < 0.58 else "Female"
    age = int(np.clip(rng.normal(60, 17), 18, 90))
    return Patient(number=number, sex=sex, age=age, studies=tuple(studies))
