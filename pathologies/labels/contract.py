"""Label contracts: by which policies the raw labels of several findings become targets.

In: findings with their policies, or the plain data of a manifest. Out: a `LabelContract` (a policy per finding and the
parent closure), which `resolution.resolve` applies. Called by `prepare` (reference contract, into the manifest), by
the driver of `train` (training contract) and by every step that scores a part (reference contract).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pathologies.errors import InputError, did_you_mean
from pathologies.findings.pathology import Pathology
from pathologies.findings.policy import LabelPolicy


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
    catalog: Mapping[str, Pathology],
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


def _policy_from_dict(slug: str, data: Mapping) -> LabelPolicy:
    unknown = sorted(set(data) - {"uncertain", "blank"})
    if unknown:
        raise InputError(f"Label contract, finding '{slug}': unknown key '{unknown[0]}'. Allowed: uncertain, blank.")
    return LabelPolicy(**data)
