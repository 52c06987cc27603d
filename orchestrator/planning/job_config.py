"""A job of a run: what was asked for, and the configuration and `config.json` that follow for one (target, member).

In: the layers of settings (defaults, the finding's, a search's, the user's), what the job's folder says of before. Out:
a TrainConfig in which nothing is left to be decided later, and the content of `config.json`. Called by the planner; the
search and the doctor resolve configurations by it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.config import RECIPE_VERSION, TrainConfig, build_config
from models.files.layout import TargetPaths, read_json
from models.training.cpu_features import cpu_precision
from orchestrator.datasets.dataset import SAME_DATA, Dataset
from orchestrator.planning.backbones import require_backbone
from orchestrator.planning.batch_backoff import as_wished
from orchestrator.planning.changed_settings import is_finished
from orchestrator.planning.config_repair import is_damaged
from orchestrator.planning.initial_weights import start_entry, start_note
from orchestrator.planning.multilabel import SharedTask
from orchestrator.planning.recipe import SCRATCH
from orchestrator.planning.shared_start import Branch
from orchestrator.planning.target_files import FOLD
from orchestrator.storage.workspace import Workspace
from pathologies.errors import InputError
from pathologies.findings.pathology import Pathology
from pathologies.findings.policy import LabelPolicy

UNTUNED = "not tuned: its usual settings"


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What `hilum train` was asked for."""

    dataset: Path
    out: Path
    targets: tuple[str, ...] = ()  # names or slugs; none: those of CheXpert's twelve that the data set labels
    members: int = 1
    start: str = SCRATCH  # scratch, shared (each finding's own network goes on from a shared one), auto
    folds: int = 1  # of the patients that are not test; 1: none, 0: decided from the data set
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of TrainConfig
    member_settings: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # on top, for one member (from 0)
    inline: bool = False
    address: str | None = None
    gpus_per_target: float | str | None = None  # none: one, where there are GPUs; auto: as many as fit on a card
    retries: int = 2  # of a training process that dies
    force: bool = False  # train a target anew that was trained, or begun, with another configuration
    findings: Path | None = None  # a folder with further pathology files
    shared: bool = False  # one network for all the targets, in the place of one for each, or as the first half of it
    tuned: Path | None = None  # a run whose search found better settings: between the finding's own and the user's
    heads: tuple[str, ...] = ()  # kinds of heads to fit on the features of a frozen encoder, in the place of networks
    encoder: str = ""  # how its features are called in the data set, or what they begin with; none: the only ones
    workspace: Workspace = field(default_factory=Workspace, compare=False)  # in which `out` was opened


@dataclass(frozen=True, kw_only=True)
class Job:
    slug: str
    member: int
    paths: TargetPaths
    config: TrainConfig
    finished: bool = False
    shared: SharedTask | None = None  # what a shared network answers for; its slug is `shared`
    branch: Branch | None = None  # the shared network that it goes on from: a job of the same run, which ends before
    fold: Mapping[str, int] | None = None  # which fold is held out, of how many
    remark: str = ""
    untuned: bool = False  # the run of --tuned has no settings of this finding
    cpus: float | None = None  # what it asks of Ray; none: one for each of its threads
    memory: int | None = None  # bytes that it takes, where it is no training of a network; none: those of one
    # with --force: removes what was trained with other settings; called when this training starts, and not before
    replace_earlier: Callable[[], None] | None = field(default=None, compare=False)

    @property
    def note(self) -> str:
        """What to tell of the job before it starts."""
        own = self.shared.note if self.shared else UNTUNED if self.untuned else ""
        start = "" if self.branch else start_note(self.config)
        return "; ".join(filter(None, (own, self.remark, start)))

    @property
    def name(self) -> str:
        return f"{self.slug}/{self.member}"


def resolved_config(
    pathology: Pathology,
    settings: Mapping[str, Any],
    member: int,
    device: str,
    tuned: Mapping[str, Any] | None = None,
    card: str = "bf16",
) -> TrainConfig:
    """Defaults, the finding's overrides, those of a search, the user's; nothing in it is left to be decided later.

    `device`, `card`: as in `plan_run`. Only where `card` is `auto` the precision is left to the training process.
    """
    try:
        config = build_config({"recipe_version": RECIPE_VERSION}, pathology.training, tuned or {}, settings)
        require_backbone(config.backbone)
    except ValueError as error:
        if not pathology.training:
            raise
        raise InputError(f"{error} (with the [training] table of {pathology.slug}.toml)") from error
    policy = LabelPolicy(
        uncertain=config.uncertain or pathology.policy.uncertain, blank=config.blank or pathology.policy.blank
    )
    config = dataclasses.replace(config, uncertain=policy.uncertain, blank=policy.blank)
    return definite(config, member, device, card)


def definite(config: TrainConfig, member: int, device: str, card: str) -> TrainConfig:
    """The member's seed, the device and the precision."""
    device = device if config.device == "auto" else config.device
    precision = config.precision
    if precision == "auto":
        precision = card if device.startswith("cuda") else cpu_precision()
    return dataclasses.replace(config, seed=config.seed + member, device=device, precision=precision)


def as_before(config: TrainConfig, settings: Mapping[str, Any], paths: TargetPaths) -> TrainConfig:
    """Device, precision and recipe that the user left to us stay what they were: they are resolved once in a run.

    Only an unfinished training whose device is not here begins anew on the one that is, and a training that begins
    anew with other settings has the newest recipe.
    """
    if not paths.config.exists() or is_damaged(paths):
        return config
    before = TrainConfig(**as_wished(read_json(paths.config))["config"])
    if not is_finished(paths) and before.device != config.device:
        return config
    kept = {name: getattr(before, name) for name in ("device", "precision") if settings.get(name, "auto") == "auto"}
    config = dataclasses.replace(config, **kept)
    if "recipe_version" not in settings:
        same = dataclasses.replace(config, recipe_version=before.recipe_version)
        config = same if same.digest() == before.digest() else config
    return config


def job_payload(job: Job, dataset: Dataset) -> dict[str, Any]:
    manifest = dataset.manifest
    others = job.branch.payload() if job.branch else start_entry(job.config)
    others |= (job.shared.payload() if job.shared else {}) | ({FOLD: dict(job.fold)} if job.fold else {})
    return others | {
        "config": job.config.to_dict(),
        "target": job.slug,
        "member": job.member,
        "reference_contract": manifest["reference_contract"],
        "data": {name: manifest[name] for name in (*SAME_DATA, "size")},
    }
