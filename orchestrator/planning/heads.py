"""The plan of heads: for each finding, small classifiers on the features of a frozen encoder.

In: a TrainRequest with `heads`, a data set with features (`hilum embed`). Out: the jobs of its plan, one for each
finding and kind of head, and the encoder's weights in the run, once for all of them. Called by the launcher. A head is
a job like any other: a process, a folder, a label contract, an outcome; only what it learns from is stored already.
"""

import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.config import HEAD_KINDS, RECIPE_VERSION, TrainConfig, build_config
from models.data.features import complete_features, read_description
from models.files.layout import FeaturePaths, publishing
from orchestrator.datasets.dataset import hash_file
from orchestrator.datasets.labelled import Material
from orchestrator.planning.job_config import Job, TrainRequest
from orchestrator.planning.memory import BASE_BYTES
from orchestrator.planning.plan import plan_run
from orchestrator.planning.recipe import Recipe
from orchestrator.storage.workspace import DrivenRun
from pathologies.errors import InputError
from pathologies.findings.pathology import Pathology
from pathologies.findings.policy import LabelPolicy

# Settings that mean something for a head; of a finding's [training] table the others are passed over.
TAKEN = ("views", "positive_weight", "seed", "threads", "watchdog_minutes", "storage_minutes", "uncertain", "blank")
COPIES = 4  # of the features taught, in a fit: as they are stored, in double precision, on the way there


@dataclass(frozen=True, kw_only=True)
class HeadTask:
    """What a head is fitted on; in the place of what a shared network answers for."""

    kind: str
    encoder: Mapping[str, Any]
    note: str

    def payload(self) -> dict[str, Any]:
        """For `config.json`: a change of it is another head."""
        return {"head": {"kind": self.kind}, "encoder": dict(self.encoder)}


@dataclass(frozen=True, kw_only=True)
class HeadJob(Job):
    folder: str = field(default="")  # which encoder and kind

    @property
    def name(self) -> str:
        return f"heads/{self.slug}/{self.folder}"


def plan_jobs(
    request: TrainRequest, device: str, card: str = "bf16", tell: Callable[[str], None] = lambda text: None
) -> list[Job]:
    """`plan_run`, also for heads."""
    return plan_run(request, device, card, tell, head_jobs if request.heads else None)


def head_jobs(request: TrainRequest, recipe: Recipe, material: Material, slugs: list[str]) -> list[Job]:
    """In the folds of the recipe a head for each, as networks have them.

    Errors: InputError for what heads cannot be asked for, or where the data set has no such features.
    """
    _require_sense(request)
    run, features = request.workspace.driven(request.out), find_features(request, material)
    description = read_description(features)
    encoder = description["encoder"] | {"digest": features.root.name}
    note = f"on the features of {description['name']} ({features.root.name}, {encoder['features']} a film)"
    films = int((material.parts != "test").sum())
    jobs = []
    for slug in slugs:
        config = head_config(material.catalog[slug], request.settings, encoder)
        for kind, index in itertools.product(request.heads, range(recipe.folds)):
            fold = {"index": index, "of": recipe.folds} if recipe.folds > 1 else None
            folder = f"{features.root.name}-{kind}" + (f"-{index}of{recipe.folds}" if fold else "")
            jobs.append(
                HeadJob(
                    slug=slug,
                    member=index,
                    paths=run.head(slug, folder),
                    config=config,
                    shared=HeadTask(kind=kind, encoder=encoder, note=note),
                    memory=BASE_BYTES + COPIES * 4 * films * encoder["features"],
                    fold=fold,
                    folder=folder,
                )
            )
    bring_encoder(features, encoder, run)
    return jobs


def _require_sense(request: TrainRequest) -> None:
    unknown = [kind for kind in request.heads if kind not in HEAD_KINDS]
    if unknown:
        raise InputError(f"Unknown kind of head {unknown[0]!r}. Known: {', '.join(HEAD_KINDS)}.")
    asked = {"--shared": request.shared, "--tuned": request.tuned, "--members": request.members > 1,
             "--member-set": request.member_settings}  # fmt: skip
    senseless = [name for name, given in asked.items() if given]
    if senseless:
        raise InputError(f"{', '.join(senseless)} is for networks, and --heads trains none. Give them one by one.")
    senseless = [name for name in request.settings if name not in TAKEN]
    if senseless:
        raise InputError(
            f"--set {senseless[0]}: a head has no such setting, its encoder is frozen. It has: {', '.join(TAKEN)}."
        )


def find_features(request: TrainRequest, material: Material) -> FeaturePaths:
    """Of the encoder that is asked for; without a wish the only ones there are. Errors: InputError."""
    folder = material.dataset.paths.all_features
    found = complete_features(folder)
    chosen = [one for one in found if one.root.name.startswith(request.encoder)]
    there = ", ".join(f"{one.root.name} ({read_description(one)['name']})" for one in found)
    make = f"Compute them first: `hilum embed {request.dataset} --encoder ...`."
    if not found:
        raise InputError(f"{request.dataset} has no features of an encoder for heads to learn from. {make}")
    if not chosen:
        raise InputError(f"{request.dataset} has no features {request.encoder!r}, but: {there}. {make}")
    if len(chosen) > 1:
        raise InputError(f"{request.dataset} has the features of several encoders: {there}. Say which with --encoder.")
    return chosen[0]


def head_config(pathology: Pathology, settings: Mapping[str, Any], encoder: Mapping[str, Any]) -> TrainConfig:
    """The finding's label policy and views, the user's settings; what names the encoder is as its networks have it."""
    own = {name: value for name, value in pathology.training.items() if name in TAKEN}
    of_encoder = {"backbone": encoder["architecture"]["name"], "image_size": encoder["size"],
                  "standardise": encoder["standardise"], "device": "cpu", "precision": "fp32"}  # fmt: skip
    usual = {"recipe_version": RECIPE_VERSION, "epochs": 1, "epoch_choice": "last"}
    config = build_config(usual, own, settings, of_encoder)
    policy = LabelPolicy(
        uncertain=config.uncertain or pathology.policy.uncertain, blank=config.blank or pathology.policy.blank
    )
    return dataclasses.replace(config, uncertain=policy.uncertain, blank=policy.blank)


def bring_encoder(features: FeaturePaths, encoder: Mapping[str, Any], run: DrivenRun) -> None:
    """The encoder's weights into the run, so that it needs the data set's folder no more. Errors: InputError."""
    goal, expected = run.encoder(encoder["digest"]), encoder["weights_sha256"]
    if goal.is_file() and hash_file(goal) == expected:
        return
    if not features.encoder.is_file() or hash_file(features.encoder) != expected:
        raise InputError(
            f"{features.encoder} is not what the features were computed with. Remove {features.root} and give "
            "`hilum embed` again."
        )
    with publishing(goal) as temporary:
        try:
            os.link(features.encoder, temporary)  # the same bytes under a second name: neither is ever changed
        except OSError:
            shutil.copyfile(features.encoder, temporary)
    run.publish(goal)
