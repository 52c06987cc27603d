"""The plan of a network that several findings share: which of them it can learn, under which policies, how.

In: the findings asked for, the user's settings. Out: its configuration, its label policies, and what has to be said of
both. Called by the planner of a run. A shared network has no finding's [training] table and no finding's tuned
settings; each of its columns has its own finding's label policy, as a network of that finding alone would.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.config import TrainConfig
from orchestrator.datasets.labelled import Material, usable_views
from orchestrator.planning.target_files import job_parts, taught_column
from pathologies.errors import InputError
from pathologies.findings.policy import LabelPolicy

SHARED = "shared"  # the folder in a run, and the first half of a job's name


@dataclass(frozen=True, kw_only=True)
class SharedTask:
    """What a shared network answers for."""

    policies: Mapping[str, LabelPolicy]  # of the findings in the order of the outputs
    note: str  # what to tell

    def payload(self) -> dict[str, Any]:
        """For `config.json`: a change of it is another network."""
        return {
            "targets": list(self.policies),
            "policies": {slug: dataclasses.asdict(policy) for slug, policy in self.policies.items()},
        }


def shared_task(
    material: Material, slugs: Sequence[str], config: TrainConfig, folds: Sequence[Mapping[str, int] | None] = (None,)
) -> SharedTask:
    """The findings that part `train` can teach, in each of `folds`: its members answer for the same ones.

    Errors: settings that only one target can have; nothing to learn.
    """
    if config.sampler == "balanced":
        raise InputError(
            "sampler=balanced evens out the two classes of one finding; a shared network has several. Use "
            "--set sampler=label_vector (rare combinations more often) or --set positive_weight=balanced (per finding)."
        )
    if config.snapshots:
        raise InputError("snapshots: a shared network keeps none. Train further members instead: --members 3.")
    policies, absent = {}, []
    for slug in slugs:
        own = material.catalog[slug].policy
        policy = LabelPolicy(uncertain=config.uncertain or own.uncertain, blank=config.blank or own.blank)
        reason = _unteachable(material, slug, policy, config, folds)
        if reason:
            absent.append(f"{slug} ({reason})")
        else:
            policies[slug] = policy
    if not policies:
        raise InputError(f"Nothing for a shared network to learn: {', '.join(absent)}. Prepare more patients.")
    return SharedTask(policies=policies, note=_note(material, policies, absent))


def _unteachable(
    material: Material,
    slug: str,
    policy: LabelPolicy,
    config: TrainConfig,
    folds: Sequence[Mapping[str, int] | None],
) -> str:
    """Why part `train` cannot teach the finding, or that of one of the folds; else nothing."""
    usable = usable_views(material.frame, config.views)
    for fold in folds:
        parts = job_parts(material, config, fold)
        value, weight = taught_column(material, slug, policy, config.seed, parts)
        here = (parts == "train") & (weight > 0) & usable
        positives, negatives = int((value[here] >= 0.5).sum()), int((value[here] < 0.5).sum())
        if not (positives and negatives):
            where = f" without fold {fold['index']}" if fold else ""
            return f"{positives} positives and {negatives} negatives in train{where}"
    return ""


def _note(material: Material, slugs: Sequence[str], absent: Sequence[str]) -> str:
    own = [slug for slug in slugs if material.catalog[slug].training]
    parts = [f"one network for {len(slugs)} findings: {', '.join(slugs)}"]
    if own:
        parts.append(f"without the [training] table of {', '.join(own)}, which only a network of its own can follow")
    if absent:
        parts.append(f"not in it: {', '.join(absent)}")
    return "; ".join(parts)
