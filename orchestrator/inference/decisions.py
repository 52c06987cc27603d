"""From probabilities to answers: which threshold holds, what the conformal zone says.

In: a bundle's description, probabilities, what was asked for. Out: thresholds, answers, a table of both.
Called by predict, evaluate and adapt.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from models.statistics import conformal
from models.statistics.thresholds import ESTIMATE, ESTIMATED, PROMISED, parse_rule
from pathologies.errors import InputError
from pathologies.findings.catalog import find_pathology

CONFORMAL_HINT = "Make the bundle again with `hilum ensemble`, or leave --conformal out."


def find_slug(name: str, slugs: Sequence[str]) -> str:
    """The bundle's finding of this name, slug or alias. InputError with "Did you mean" otherwise."""
    if name in slugs:
        return name
    try:
        slug = find_pathology(name).slug
    except ValueError:
        slug = None
    if slug in slugs:
        return slug
    near = difflib.get_close_matches(name.lower(), slugs, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"The bundle has no finding {name!r}.{hint} It has: {', '.join(slugs)}.")


def parse_assignments(words: Sequence[str], slugs: Sequence[str], what: str) -> dict[str, float]:
    """["edema=0.3"] -> {"edema": 0.3}. `what` names the option in errors; values lie between 0 and 1."""
    found: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"{what} {word!r}: give finding=value, for example {slugs[0]}=0.3.")
        slug = find_slug(name.strip(), slugs)
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1:
            raise InputError(f"{what} {word!r}: {text!r} is not a number between 0 and 1.")
        if slug in found:
            raise InputError(f"{what}: {slug} is given twice.")
        found[slug] = value
    return found


def stored_rules(findings: Mapping[str, Any]) -> list[str]:
    """The operating point rules that every finding of the bundle has."""
    rules = [list(entry["operating_points"]) for entry in findings.values()]
    return [rule for rule in rules[0] if all(rule in other for other in rules)]


def thresholds_of(
    findings: Mapping[str, Any], rule: str | None = None, overrides: Mapping[str, float] | None = None
) -> dict[str, float | None]:
    """{finding: threshold} by a stored rule (none: each finding's own) and by hand; None where none is useful.

    findings: the entries of bundle.json by slug. InputError for a rule that is not stored, naming those that are.
    """
    points = _points_of(findings, rule)
    found = {slug: point["threshold"] if point["useful"] else None for slug, point in points.items()}
    return found | dict(overrides or {})


def threshold_notes(
    findings: Mapping[str, Any], slugs: Sequence[str], rule: str | None = None, overrides: Sequence[str] = ()
) -> list[str]:
    """What the thresholds of `thresholds_of` mean where a rule names a rate, and why a finding has none: sentences."""
    points = {
        slug: point for slug, point in _points_of(findings, rule).items() if slug in slugs and slug not in overrides
    }
    meanings: dict[str, list[str]] = {}
    for slug, point in points.items():
        if parse_rule(point["rule"])[0].removeprefix(ESTIMATED) in PROMISED:
            meaning = point.get("promise") or f"{ESTIMATE}, as in bundles made before the rule meant a bound"
            meanings.setdefault(f"{point['rule']}: {meaning}", []).append(slug)
    notes = [f"{meaning} ({', '.join(names)})." for meaning, names in meanings.items()]
    return notes + [f"{slug}: {point['reason']}." for slug, point in points.items() if point.get("reason")]


def _points_of(findings: Mapping[str, Any], rule: str | None) -> dict[str, Mapping[str, Any]]:
    """Each finding's operating point of a stored rule, none: of its own."""
    if rule is not None:
        known = {one.replace(" ", ""): one for one in stored_rules(findings)}
        rule = known.get(rule.replace(" ", "").lower())
        if rule is None:
            raise InputError(f"The bundle stores no such operating point. It has: {', '.join(known.values())}.")
    chosen = {slug: rule or entry["operating_point"] for slug, entry in findings.items()}
    return {slug: findings[slug]["operating_points"][one] | {"rule": one} for slug, one in chosen.items()}


def prediction_frame(
    slugs: Sequence[str], names: Sequence[str], probability: np.ndarray, thresholds: Mapping[str, float | None]
) -> pd.DataFrame:
    """`path`, a calibrated probability per finding, then 1, 0 or nothing (no useful threshold) per finding.

    names, probability: of N films, N x findings.
    """
    columns = {"path": pd.Series(list(names), dtype="str")}
    frame = pd.DataFrame(columns | {slug: probability[:, index] for index, slug in enumerate(slugs)})
    for index, slug in enumerate(slugs):
        call = pd.Series(pd.NA, index=frame.index, dtype="Int8")
        if thresholds[slug] is not None:
            call = pd.Series(probability[:, index] >= thresholds[slug], index=frame.index).astype("Int8")
        frame[f"{slug}_positive"] = call
    return frame


def conformal_answers(findings: Mapping[str, Any], slugs: Sequence[str], probability: np.ndarray) -> pd.DataFrame:
    """`<slug>_answer` for each finding, 1 present, 0 absent, -1 uncertain; N x findings probabilities in."""
    without = [slug for slug in slugs if not findings[slug].get("conformal")]
    if without:
        raise InputError(f"The bundle has no conformal zone for {', '.join(without)}. {CONFORMAL_HINT}")
    columns = {
        f"{slug}_answer": conformal.answer(probability[:, index], findings[slug]["conformal"])
        for index, slug in enumerate(slugs)
    }
    return pd.DataFrame(columns).astype("Int8")
