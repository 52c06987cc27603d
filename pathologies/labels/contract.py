"""The codes of a raw label, and label policies and contracts: what becomes of an uncertain or a blank label.

Goes in: the strings of a finding's TOML file or of a manifest. Comes out: `LabelPolicy` (one finding) and
`LabelContract` (all findings and the parent closure), which `labels.resolve` applies. Called by the catalogue, by
`prepare` (reference contract, into the manifest) and by the driver of `train` (training contract). The codes are used
by every reader of labels and by what counts them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pathologies.errors import InputError

if TYPE_CHECKING:
    from pathologies.findings.catalog import Pathology

# A raw label is 1 (present), 0 (absent), a soft value between, NaN (blank: not mentioned) or one of these two. Blank
# and unknown differ: a policy may read what a report does not mention as absent, and never what the source cannot say.
UNCERTAIN, UNKNOWN = -1.0, -2.0
LABEL_CODES = {  # written into a manifest; a data set without it was made when unknown had no code and was a blank
    "1": "present",
    "0": "absent",
    "0 to 1": "soft",
    "-1": "uncertain",
    "-2": "unknown: the source cannot say",
    "blank": "not mentioned",
}
UNCERTAIN_POLICIES = ("zeros", "ones", "ignore", "soft(low,high)")
BLANK_POLICIES = ("zero", "ignore")
_SOFT = re.compile(r"soft\(\s*([0-9.]+)\s*,\s*([0-9.]+)\s*\)")


@dataclass(frozen=True, kw_only=True)
class LabelPolicy:
    """What an uncertain (-1) and a blank label of one finding become."""

    uncertain: str = "ignore"  # zeros | ones | ignore | soft(low,high): a number drawn from [low, high)
    blank: str = "zero"  # zero | ignore

    def __post_init__(self) -> None:
        if not isinstance(self.uncertain, str) or not (
            self.uncertain in UNCERTAIN_POLICIES[:3] or _SOFT.fullmatch(self.uncertain)
        ):
            raise InputError(
                f"Policy for uncertain labels is {self.uncertain!r}. Allowed: {', '.join(UNCERTAIN_POLICIES)}."
            )
        if self.blank not in BLANK_POLICIES:
            raise InputError(f"Policy for blank labels is {self.blank!r}. Allowed: {', '.join(BLANK_POLICIES)}.")
        if self.soft_range is not None:
            low, high = self.soft_range
            if not 0 <= low <= high <= 1:
                raise InputError(f"Policy for uncertain labels is {self.uncertain!r}. Allowed: 0 <= low <= high <= 1.")
            object.__setattr__(self, "uncertain", f"soft({low:g},{high:g})")  # one spelling, so that equal means equal

    @property
    def soft_range(self) -> tuple[float, float] | None:
        """(low, high) of a soft policy, else None."""
        match = _SOFT.fullmatch(self.uncertain)
        if match is None:
            return None
        try:
            return float(match[1]), float(match[2])
        except ValueError:
            raise InputError(
                f"Policy for uncertain labels is {self.uncertain!r}: low and high are numbers from 0 to 1."
            ) from None

    def to_dict(self) -> dict[str, str]:
        return {"uncertain": self.uncertain, "blank": self.blank}


@dataclass(frozen=True, kw_only=True)
class LabelContract:
    """The policies of a set of findings and whether a positive child lifts its parents."""

    policies: Mapping[str, LabelPolicy]
    closure: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.closure, bool):
            raise InputError(f"Label contract: closure is {self.closure!r}. Allowed: true, false.")

    def policy(self, slug: str) -> LabelPolicy:
        """The policy of one finding; a finding that the contract does not name is an error."""
        if slug not in self.policies:
            raise InputError(f"The label contract has no finding '{slug}'.{did_you_mean(slug, self.policies)}")
        return self.policies[slug]

    def to_dict(self) -> dict:
        """Plain data for a manifest; `from_dict` reads it back to an equal contract."""
        return {
            "closure": self.closure,
            "policies": {slug: policy.to_dict() for slug, policy in self.policies.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping) -> "LabelContract":
        unknown = sorted(set(data) - {"closure", "policies"})
        if unknown or "policies" not in data:
            raise InputError(f"Label contract: keys are {sorted(data)}. Allowed: closure, policies (required).")
        policies = {slug: _policy_from_dict(slug, policy) for slug, policy in data["policies"].items()}
        return cls(policies=policies, closure=data.get("closure", True))


REFERENCE_POLICY = LabelPolicy(uncertain="ignore", blank="zero")


def reference_contract(slugs: Iterable[str], closure: bool = True) -> LabelContract:
    """The contract that alone scores select, calibrate and test: uncertain left out, blank and No Finding negative."""
    return LabelContract(policies=dict.fromkeys(slugs, REFERENCE_POLICY), closure=closure)


def training_contract(
    catalog: Mapping[str, "Pathology"],
    slugs: Iterable[str],
    overrides: Mapping[str, LabelPolicy] | None = None,
    *,
    closure: bool = True,
) -> LabelContract:
    """The contract that shapes part `train`: each finding's own policy, except where `overrides` names another."""
    slugs, overrides = tuple(slugs), dict(overrides or {})
    for slug in slugs:
        if slug not in catalog:
            raise InputError(f"Unknown finding '{slug}'.{did_you_mean(slug, catalog)}")
    for slug in overrides:
        if slug not in slugs:
            raise InputError(f"A policy is given for '{slug}', which is not a target.{did_you_mean(slug, slugs)}")
    return LabelContract(policies={slug: overrides.get(slug, catalog[slug].policy) for slug in slugs}, closure=closure)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, if one is near, and all known names."""
    known = list(known)
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} Known: {', '.join(known)}."


def _policy_from_dict(slug: str, data: Mapping) -> LabelPolicy:
    unknown = sorted(set(data) - {"uncertain", "blank"})
    if unknown:
        raise InputError(f"Label contract, finding '{slug}': unknown key '{unknown[0]}'. Allowed: uncertain, blank.")
    return LabelPolicy(**data)
