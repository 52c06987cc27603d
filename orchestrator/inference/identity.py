"""Whose films are these: the patient and the study of each, from what says so, never from a guess.

In: paths or ids of films, and what the user says of them. Out: a name for each, or none where nothing says whose it
is, and by what the names were found, for a sentence. Called by predict, by the tables of evaluate and by adapt, which
refuse to go on where a name is missing. What may say it: a pattern that the user gives, a column of a table, the tags
of a DICOM file, and a layout of folders that is recognised exactly. A folder called "patients" says nothing.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from models.data.dicom import is_dicom, read_tags
from pathologies.errors import InputError

LEVELS = ("image", "study", "patient")
GROUP_COLUMNS = {  # of a table that lists films
    "study": ("study_id", "Study", "study", "StudyInstanceUID"),
    "patient": ("patient_id", "Patient ID", "PatientID", "subject_id", "patient"),
}
PLURAL = {"study": "studies", "patient": "patients", "image": "images"}
_CHEXPERT = r"(?P<patient>patient\d+)/(?P<study>study\d+)(?:/view\d+(?:_[A-Za-z]+)?(?:\.[A-Za-z]+)?)?$"
LAYOUTS = {  # whole names only, and the end of the path; what stands before is a folder of somebody's
    "CheXpert": re.compile(rf"(?<![A-Za-z0-9])(?P<start>){_CHEXPERT}", re.IGNORECASE),
    "CheXpert's patients": re.compile(r"(?:^|/)(?P<start>)(?P<patient>patient\d+)(?P<study>)$", re.IGNORECASE),
    "MIMIC-CXR": re.compile(r"(?:^|/)(?P<start>)p(?P<ten>\d\d)/(?P<patient>p(?P=ten)\d+)/(?P<study>s\d+)(?:/[^/]+)?$"),
    # ChestX-ray14 has patients up to 00030805: a date such as 20240131_001.png is none
    "NIH": re.compile(r"(?:^|/)(?P<start>)(?P<patient>000[0-3]\d{4})(?P<study>_\d{3})(?:\.[A-Za-z]+)?$"),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a path in a known layout says."""

    layout: str
    prefix: str  # what stands before the layout; NIH's names are unique without it
    patient: str
    study: str  # with its patient; "" where the path is a patient's


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How the user says whose a film is."""

    patient_pattern: str | None = None  # a regular expression with a group, searched in the path
    study_pattern: str | None = None

    def of(self, path: str, level: str) -> str | None:
        """The name by the patterns; a study is named with its patient where there is a pattern for that too."""
        patient, study = (
            _first_match(pattern, path, option)
            for pattern, option in (
                (self.patient_pattern, "--patient-pattern"),
                (self.study_pattern, "--study-pattern"),
            )
        )
        if level == "patient" or study is None:
            return patient if level == "patient" else None
        return study if self.patient_pattern is None else patient and f"{patient}/{study}"

    def has(self, level: str) -> bool:
        return (self.patient_pattern if level == "patient" else self.study_pattern) is not None


@dataclass(frozen=True, kw_only=True)
class Identities:
    """The name of each film's patient or study, none where nothing says whose it is."""

    names: list[str | None]
    ways: list[str]  # what says so, film by film

    def note(self, level: str) -> str:
        """A sentence with the number found: one name for a whole hospital is to be seen."""
        known = [name for name in self.names if name is not None]
        one, films = len(set(known)) == 1 and len(known) > 1, f"{len(known):,} film{'' if len(known) == 1 else 's'}"
        number = f"{len(set(known)):,} {level if len(set(known)) == 1 else PLURAL[level]}"
        counts = Counter(way for way, name in zip(self.ways, self.names, strict=True) if name is not None)
        ways = ", ".join(f"{way} ({count:,})" for way, count in counts.most_common()) or "nothing"
        alarm = f" All films are of one {level}: if that is wrong, say whose they are." if one else ""
        return f"{number} found in {films}, by {ways}.{alarm}"


def identify(
    paths: Sequence[str | Path],
    level: str,
    *,
    asked: Asked | None = None,
    listed: Mapping[str, tuple[str, str]] | None = None,
) -> Identities:
    """The study or patient of each path. `listed`: {path: (name, the column that says so)}.

    A pattern comes first, then the column, then the DICOM's tags, then the layout.
    """
    asked, listed = asked or Asked(), listed or {}
    found = [_one(str(path), level, asked, listed) for path in paths]
    return Identities(names=[name for name, _ in found], ways=[way for _, way in found])


def _one(path: str, level: str, asked: Asked, listed: Mapping[str, tuple[str, str]]) -> tuple[str | None, str]:
    if asked.has(level):
        return asked.of(plain(path), level), f"--{level}-pattern"
    if path in listed:
        return listed[path]
    if name := tagged(Path(path), level):
        return name, "the DICOM tag " + ("PatientID" if level == "patient" else "StudyInstanceUID")
    place = recognise(plain(path))
    name = None if place is None else getattr(place, level)
    return (place.prefix + name, f"the folders of {place.layout}") if name else (None, "")


def refusal(identities: Identities, paths: Sequence[str | Path], level: str) -> InputError:
    """The sentence for films of which nothing says whose they are."""
    unknown = [str(path) for path, name in zip(paths, identities.names, strict=True) if name is None]
    return InputError(
        f"A row per {level} needs the {level} of each film; nothing says so of {len(unknown):,} of {len(paths):,} "
        f"films, the first {unknown[0]!r}. {ways_to_say(level)} Or leave --level out."
    )


def ways_to_say(level: str) -> str:
    """What the user can do."""
    tag = "PatientID" if level == "patient" else "StudyInstanceUID"
    columns = ", ".join(GROUP_COLUMNS[level])
    return (
        f"A {level} is known by a column of a table ({columns}), by --{level}-pattern REGEX, whose group is the "
        f"{level} in a path, by the DICOM tag {tag}, or by the exact folders and names of CheXpert, MIMIC-CXR or NIH."
    )


def plain(path: str) -> str:
    """A path with forward slashes, without blanks and slashes at its ends."""
    return path.strip().replace("\\", "/").rstrip("/")


def recognise(path: str) -> Place | None:
    """What a plain path says in one of the LAYOUTS; None where it has none of them."""
    for layout, pattern in LAYOUTS.items():
        found = pattern.search(path)
        if found:
            patient, study = found["patient"], found["study"]
            prefix = "" if layout == "NIH" else path[: found.start("start")]
            joined = patient + study if layout == "NIH" else f"{patient}/{study}"
            return Place(layout=layout, prefix=prefix, patient=patient, study=joined if study else "")
    return None


def ids_at(path: pd.Series, level: str) -> pd.Series:
    """The image, study or patient that each path names, as in CheXpert-v1.0/test/patient64741/study1/view1_frontal.jpg.

    An image is its path from the layout on, so that any prefix, and either slash, will do, unless two images of the
    table would become one. A path in no known layout stands for itself.
    """
    if level not in LEVELS:
        raise InputError(f"Unknown level {level!r}. Known: {', '.join(LEVELS)}.")
    path = path.astype("str").map(plain)
    places = [recognise(one) for one in path]
    image = [one if place is None else one[len(place.prefix) :] for one, place in zip(path, places, strict=True)]
    prefixed = len(set(image)) < path.nunique()  # two data sets with the same names
    names = []
    for whole, short, place in zip(path, image, places, strict=True):
        name = short if level == "image" else place and getattr(place, level)
        names.append(whole if not name else (place.prefix if prefixed and place else "") + name)
    return pd.Series(names, index=path.index, dtype="str")


def patients_by_pattern(ids: pd.Series, pattern: str) -> pd.Series:
    """The patient of each id by --patient-pattern; InputError where an id has none."""
    names = pd.Series([_first_match(pattern, one, "--patient-pattern") for one in ids], index=ids.index, dtype="object")
    if names.isna().any():
        raise InputError(
            f"--patient-pattern {pattern!r} finds no patient in {int(names.isna().sum())} of {len(ids)} ids, the first "
            f"{ids[names.isna()].iloc[0]!r}. Every row needs one: write the pattern so that it fits all, or give the "
            "table a patient column."
        )
    return names.astype("str")


def patients_by_layout(ids: pd.Series) -> pd.Series | None:
    """The patient of each id where all of them are in a known layout, else None."""
    if all(recognise(plain(one)) is not None for one in ids):
        return ids_at(ids, "patient")
    return None


def tagged(file: Path, level: str) -> str | None:
    """PatientID (with its issuer) or StudyInstanceUID of a DICOM file; None where it is no DICOM or does not say."""
    try:
        with file.open("rb") as stream:
            if not (is_dicom(stream.read(132)) or file.suffix.lower() in (".dcm", ".dicom")):
                return None
        patient, issuer, study = read_tags(file, ("PatientID", "IssuerOfPatientID", "StudyInstanceUID"))
    except (InputError, OSError):  # the decoder says what is wrong with it
        return None
    name = study if level == "study" else patient and (f"{issuer}:{patient}" if issuer else patient)
    return name or None


def _first_match(pattern: str | None, path: str, option: str) -> str | None:
    """The groups of the first match, joined by a slash."""
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{option} {pattern!r} is no regular expression: {error}.") from error
    if not compiled.groups:
        raise InputError(f"{option} {pattern!r} has no group. Put the name into brackets, such as '/([0-9]+)/[^/]*$'.")
    found = compiled.search(path)
    return "/".join(one for one in found.groups() if one) or None if found else None
