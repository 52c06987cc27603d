"""Networks that start from a shared one: what it learns, and which finding's own network branches out of it, how.

In: the user's settings, the configuration that a finding's network would have from scratch. Out: the shared network's
settings and findings; the finding's configuration and what its `config.json` says of where it begins. Called by the
planner of a run. What a finding's network IS (its backbone, how its films are standardised) has to be what the shared
one is; how it learns may differ.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.config import TrainConfig
from models.files.layout import read_json
from orchestrator.datasets.labelled import Material
from orchestrator.planning.changed_settings import has_learnt, is_finished
from orchestrator.planning.initial_weights import START
from orchestrator.planning.multilabel import SharedTask
from orchestrator.planning.recipe import chooses_epochs
from orchestrator.planning.target_files import BRANCH
from orchestrator.storage.workspace import DrivenRun
from pathologies.errors import InputError
from pathologies.findings.catalog import CHEXPERT_TARGETS

BRANCH_SHARE = 2 / 3  # of the shared network's epochs come before a finding's own
OTHERS_WEIGHT = 0.3  # of each other finding's loss: without them a third of the gain over starting anew is lost
LAST = {"epoch_choice": "last"}
OF_THE_NETWORK = ("backbone", "pretrained", "init", "standardise", "image_size")
OF_ONE_FINDING = ("others_weight", "snapshots")  # a shared network has no use for them


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where a finding's own network begins."""

    source: str  # the shared job's name: shared/0
    task: SharedTask
    digest: str  # of all that shapes the shared network

    def payload(self) -> dict[str, Any]:
        return {BRANCH: {"from": self.source, "digest": self.digest, **self.task.payload()}}


def shared_findings(run: DrivenRun, material: Material, slugs: Sequence[str]) -> list[str]:
    """Those of CheXpert's twelve that the data set labels, then the others asked for; of a shared network that has
    learnt already, its own, so that a finding that is added later does not change it."""
    for paths in run.shared_members():
        if paths.config.exists() and (is_finished(paths) or has_learnt(paths, run)):
            known = [slug for slug in read_json(paths.config).get("targets", ()) if slug in material.catalog]
            if known:
                return known
    labelled = material.dataset.manifest["findings"]
    usual = [slug for slug in CHEXPERT_TARGETS if slug in labelled]
    return usual + sorted(set(slugs) - set(usual))


def shared_settings(settings: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """The user's, for the shared network: without those that only a finding's own can follow."""
    kept = {name: value for name, value in settings.items() if name not in OF_ONE_FINDING}
    if kept.get("sampler") == "balanced":  # evens out the classes of one finding
        kept.pop("sampler")
    if epochs == 1:
        raise InputError(
            f"epochs={epochs}: a network that starts from a shared one needs an epoch after the first. "
            "Give --set epochs=2 or more, or --from-scratch."
        )
    return LAST | {"branch_epoch": min(max(round(BRANCH_SHARE * epochs), 1), epochs - 1)} | kept


def why_not(slug: str, config: TrainConfig, shared: TrainConfig, task: SharedTask) -> str:
    """Why the finding's network trains from scratch and not from the shared one; nothing where it can branch."""
    differing = [name for name in OF_THE_NETWORK if getattr(config, name) != getattr(shared, name)]
    if slug not in task.policies:
        return "the shared network does not learn it"
    if differing:
        return f"{differing[0]}={getattr(config, differing[0])} makes it another network than the shared one"
    if chooses_epochs(config):
        return f"{chooses_epochs(config)} chooses epochs by part select"
    if config.epochs <= shared.branch_epoch:
        return f"epochs={config.epochs} end before the shared network's epoch {shared.branch_epoch}"
    return ""


def branched(config: TrainConfig, shared: TrainConfig, source: str, own: Mapping[str, Any]) -> TrainConfig:
    """`own`: settings of the finding and the user. `init` is named from the run on, so that the run may be moved."""
    weight = config.others_weight if "others_weight" in own else OTHERS_WEIGHT
    return dataclasses.replace(
        config, init=source, pretrained="false", branch_epoch=shared.branch_epoch, others_weight=weight
    )


def payload_digest(payload: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """Of a job's `config.json`, for those that begin where it is. `before`: the one that is there, or nothing.

    The hash of starting weights that are no longer there is the one that the job began with.
    """
    known = {START: before[START]} if START in before and START not in payload else {}
    plain = known | dict(payload) | {"config": TrainConfig(**payload["config"]).digest()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
