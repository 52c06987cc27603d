"""The label contract at work: raw labels in, target values and weights out.

Goes in: a label frame with one column of raw labels for each finding (1, 0, -1 uncertain, NaN not mentioned, -2
unknown, or a soft value between 0 and 1) and a `LabelContract`. Comes out: `Resolved` for one finding. Called by the
driver of `train` (training contract), by every step that scores a part (reference contract) and by the audit.

The order is fixed: (1) an explicit label stands; (2) No Finding = 1 turns a blank into 0; (3) with closure, a blank or
uncertain label becomes 1 where a finding that implies this one, directly or through others, is explicitly 1; an
explicit 0 stands and is counted as a contradiction; (4) the uncertain policy; (5) the blank policy. An unknown label is
left out before any of them, as are the rows of a source that does not label the finding: no rule makes it 0 or 1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pathologies.errors import InputError, did_you_mean
from pathologies.findings.catalog import descendants, parents_of
from pathologies.findings.pathology import Pathology
from pathologies.findings.policy import LabelPolicy
from pathologies.labels.contract import LabelContract
from pathologies.labels.frame import UNCERTAIN, UNKNOWN, raw_labels

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The labels of one finding under one contract."""

    values: np.ndarray  # float32 [N], NaN where unknown
    weights: np.ndarray  # float32 [N], 0 where unknown, else 1
    counts: dict[str, int] = field(default_factory=dict)  # how many rows each rule touched


def resolve(
    frame: "pd.DataFrame",
    slug: str,
    contract: LabelContract,
    catalog: Mapping[str, Pathology],
    *,
    seed: int = 0,
    labelled: Mapping[str, Sequence[str]] | None = None,
) -> Resolved:
    """Apply `contract` to the column of `slug`.

    Soft labels depend on (seed, slug, image_id) alone. `labelled` ({source: slugs}) makes the rows of a source that
    does not label the finding unknown, whatever the policy.
    """
    policy = contract.policy(slug)
    known_source = _labelled_rows(frame, slug, labelled)
    raw = raw_labels(frame, slug)
    unknown = known_source & (raw == UNKNOWN)
    said = known_source & ~unknown
    raw = np.where(said, raw, np.nan)
    blank, uncertain = np.isnan(raw) & said, raw == UNCERTAIN
    implied = said & _implied(frame, slug, catalog) if contract.closure else np.zeros(len(raw), bool)

    rules = {"no_finding_filled": blank & _no_finding(frame)}
    rules["closure_lifted"] = implied & (uncertain | (blank & ~rules["no_finding_filled"]))
    rules["closure_lifted_uncertain"] = rules["closure_lifted"] & uncertain
    rules["contradictions"] = implied & (raw == 0)
    rules["no_finding_contradictions"] = implied & rules["no_finding_filled"]
    settled = rules["no_finding_filled"] | rules["closure_lifted"]
    for name in ("zeros", "ones", "ignore", "soft"):
        rules[f"uncertain_as_{name}"] = uncertain & ~settled & policy.uncertain.startswith(name)
    for name in ("zero", "ignore"):
        rules[f"blank_as_{name}"] = blank & ~settled & (policy.blank == name)

    values = np.where(raw >= 0, raw, np.nan).astype(np.float32)
    for name in ("no_finding_filled", "uncertain_as_zeros", "blank_as_zero"):
        values[rules[name]] = 0
    for name in ("closure_lifted", "uncertain_as_ones"):
        values[rules[name]] = 1
    values[rules["uncertain_as_soft"]] = _soft_labels(frame, slug, policy, seed, rules["uncertain_as_soft"])
    return _resolved(raw, values, {**rules, "explicit_unknown": unknown, "not_labelled": ~known_source})


def soft_draws(image_ids: Sequence[str], slug: str, seed: int) -> np.ndarray:
    """A number in [0, 1) for each image, float64, from a hash of (seed, slug, image_id): rows have no order."""
    key = hashlib.blake2b(f"{seed}\0{slug}".encode(), digest_size=32).digest()
    digests = b"".join(hashlib.blake2b(name.encode(), key=key, digest_size=8).digest() for name in image_ids)
    return (np.frombuffer(digests, dtype=">u8") >> np.uint64(11)) * 2.0**-53


def _labelled_rows(frame: "pd.DataFrame", slug: str, labelled: Mapping[str, Sequence[str]] | None) -> np.ndarray:
    if labelled is None:
        return np.ones(len(frame), bool)
    sources = [source for source, slugs in labelled.items() if slug in slugs]
    if not sources:
        known = ", ".join(f"{source}: {' '.join(slugs)}" for source, slugs in labelled.items())
        raise InputError(f"No source labels '{slug}', so it cannot be resolved. Labelled are: {known}.")
    return frame["source"].isin(sources).to_numpy(dtype=bool)


def _no_finding(frame: "pd.DataFrame") -> np.ndarray:
    if "no_finding" not in frame.columns:
        return np.zeros(len(frame), bool)
    return frame["no_finding"].to_numpy(dtype=np.float32, na_value=np.nan) == 1


def _implied(frame: "pd.DataFrame", slug: str, catalog: Mapping[str, Pathology]) -> np.ndarray:
    """Rows in which a finding that implies `slug`, at any depth, is explicitly positive."""
    if slug not in catalog:
        raise InputError(f"Unknown finding '{slug}'.{did_you_mean(slug, catalog)}")
    implied = np.zeros(len(frame), bool)
    for child in descendants(slug, parents_of(catalog)):
        if child in frame.columns:
            implied |= raw_labels(frame, child) == 1
    return implied


def _soft_labels(frame: "pd.DataFrame", slug: str, policy: LabelPolicy, seed: int, rows: np.ndarray) -> np.ndarray:
    low, high = policy.soft_range or (0.0, 0.0)  # without a soft policy there are no rows
    image_ids = frame["image_id"].to_numpy(dtype=object)[rows].tolist()
    return low + (high - low) * soft_draws(image_ids, slug, seed)


def _resolved(raw: np.ndarray, values: np.ndarray, rules: dict[str, np.ndarray]) -> Resolved:
    """Add what was there before and what is there after to the rows that each rule touched, as counts."""
    before = {
        "explicit_positive": raw == 1,
        "explicit_negative": raw == 0,
        "explicit_soft": (raw > 0) & (raw < 1),
    }
    after = {
        "positive": values == 1,
        "negative": values == 0,
        "soft": (values > 0) & (values < 1),
        "unknown": np.isnan(values),
    }
    return Resolved(
        values=values,
        weights=(~np.isnan(values)).astype(np.float32),
        counts={name: int(np.count_nonzero(rows)) for name, rows in {**before, **rules, **after}.items()},
    )
