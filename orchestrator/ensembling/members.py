"""The trained networks of a run, and what they say about the films of a part.

In: a RUN. Out: its finished (target, member) pairs and a table of logits per finding, a column per member, from the
stored predictions. Called by the ensembler and by `replace`. Only test-time augmentation runs a network.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.data.targets import Targets
from models.files.layout import RESERVED_SLUGS, BundlePaths, RunPaths, TargetPaths, publishing, read_json
from models.statistics.metrics import divide
from models.statistics.reliability import log_odds
from orchestrator.datasets.dataset import Dataset, hash_file
from pathologies.errors import InputError
from pathologies.table_files import read_parquet_file

BATCH = 32
USES = ("both", "single", "shared")  # which networks of a run are members: of a finding's own, of shared ones


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One finished (target, member), a snapshot that its training left, or one output of a shared network."""

    slug: str
    member: int
    paths: TargetPaths
    config: Mapping[str, Any]
    outcome: Mapping[str, Any]
    snapshot: int = 0  # the epoch that it is of; 0: the best weights
    outputs: tuple[str, ...] = ()  # of a shared network: the findings that it answers for, in order

    @property
    def column(self) -> int:
        """Which output of the network."""
        return self.outputs.index(self.slug) if self.outputs else 0

    @property
    def weights(self) -> Path:
        return self.paths.snapshot(self.snapshot) if self.snapshot else self.paths.weights

    @property
    def name(self) -> str:
        own = f"{self.member}-{self.snapshot}" if self.snapshot else str(self.member)
        return f"shared/{own}" if self.outputs else own


def finished_targets(
    run: RunPaths, wanted: tuple[str, ...] = (), snapshots: bool = False, use: str = "both"
) -> tuple[dict[str, list[Trained]], dict[str, str]]:
    """The finished members of every target, with their snapshots or without, and why each other one is left out.

    A finding's own networks come first, then the columns of the shared ones; `use` is one of USES.
    """
    if not run.plan.exists():
        raise FileNotFoundError(f"{run.root} is not a run: it has no plan.json. Make one with `hilum train`.")
    if use not in USES:
        raise InputError(f"Unknown choice of networks {use!r}. Known: {', '.join(USES)}.")
    trained: dict[str, list[Trained]] = {}
    left_out: dict[str, str] = {}
    for name in sorted(read_json(run.plan)["jobs"], key=lambda name: name.startswith("shared/")):
        slug, _, member = name.partition("/")
        shared = slug == "shared"
        if use not in ("both", "shared" if shared else "single") or (wanted and not shared and slug not in wanted):
            continue
        paths = run.shared(int(member)) if shared else run.target(slug, int(member))
        outcome = read_json(paths.outcome) if paths.outcome.exists() else {"status": "not finished"}
        if outcome["status"] != "ok":
            left_out[name] = f"{outcome['status']}: {outcome.get('error') or 'give the train command again'}"
            continue
        further = [kept["epoch"] for kept in outcome.get("snapshots", ())] if snapshots else []
        for one in _outputs(slug, int(member), paths, outcome):
            if not wanted or one.slug in wanted:
                members = [dataclasses.replace(one, snapshot=epoch) for epoch in (0, *further)]
                trained.setdefault(one.slug, []).extend(members)
    missing = [slug for slug in wanted if slug not in trained]
    if not trained or missing:
        kind = {"both": "", "single": " of its own", "shared": " by a shared network"}[use]
        reasons = [f"{name}: {reason}." for name, reason in list(left_out.items())[:5]]
        option = " --shared" if use == "shared" else ""
        raise InputError(
            f"{run.root} has no finished training{kind} of {', '.join(missing) or 'any target'}. "
            + (" ".join(reasons) or f"Train first: `hilum train DATASET --out {run.root}{option}`.")
        )
    return trained, left_out


def _outputs(slug: str, member: int, paths: TargetPaths, outcome: Mapping[str, Any]) -> list[Trained]:
    """A trained network as a member of its finding, or of each that shares it, with that finding's label policy."""
    payload = read_json(paths.config)
    config, shared = payload["config"], tuple(payload.get("targets", ()))
    return [
        Trained(
            slug=one,
            member=member,
            paths=paths,
            config=config | payload["policies"][one] if shared else config,
            outcome=outcome,
            outputs=shared,
        )
        for one in shared or (slug,)
    ]


def member_table(members: list[Trained], part: str) -> pd.DataFrame:
    """The members' logits over the films of a part, a column per member, sorted by image_id."""
    columns = [_stored(one.paths, part, one.snapshot, one.slug if one.outputs else "") for one in members]
    table = pd.concat(columns, axis=1, keys=[one.name for one in members])
    if table.isna().to_numpy().any():
        hint = " Take those of one kind with --use single or --use shared." if members[-1].outputs else ""
        raise InputError(
            f"The members of {members[0].slug} were trained on different views or films; see config.json.{hint}"
        )
    return table.sort_index()


def mean_logits(members: list[Trained], part: str) -> pd.Series:
    """The mean of the members' logits over the films of a part, indexed by image_id."""
    return member_table(members, part).mean(axis=1)


def copied_table(models: list[dict[str, Any]], folder: Path, dataset: Dataset, films: pd.Index) -> pd.DataFrame:
    """What models of a bundle under way or complete say about films, a column per model; this runs the networks."""
    from models.classifier import load_classifier
    from models.training.device import available_device

    contract = {name: dataset.manifest[name] for name in ("pixel_mean", "pixel_std")}
    entry = {"models": models, "combine": "mean of logits", "calibration": {"method": "identity"}}
    classifier = load_classifier("member", entry, contract, folder, available_device("auto"))
    row = pd.Series(np.arange(dataset.manifest["images"]), index=dataset.read_labels_frame()["image_id"])
    rows, images = row.loc[films].to_numpy(), dataset.images()
    blocks = [classifier.columns(images[rows[at : at + BATCH]]) for at in range(0, len(rows), BATCH)]
    return pd.DataFrame(np.concatenate(blocks), index=films)


def bundled_table(
    entry: Mapping[str, Any], bundle: BundlePaths, run: RunPaths, dataset: Dataset, films: pd.Index
) -> pd.DataFrame:
    """The members' logits of a finding of a finished bundle: stored predictions where its run has them, else computed.

    The run's predictions count only where its weight file is, to the byte, the bundle's.
    """
    columns = []
    for position, model in enumerate(entry["models"]):
        stored = _same_weights(run, model)
        if stored is not None and not model.get("copies"):
            finding = read_json(stored.config)["targets"][model["column"]] if model.get("outputs") else ""
            logits = _stored(stored, "calibrate", model.get("snapshot", 0), finding)
            columns.append(logits.reindex(films).rename(position))
        else:
            columns.append(copied_table([model], bundle.root, dataset, films)[0].rename(position))
    return pd.concat(columns, axis=1)


def copy_weights(one: Trained, out: BundlePaths) -> dict[str, Any]:
    """Copy a member's weights into a bundle; returns its entry in `models`."""
    goal = out.shared_weights(one.member, hash_file(one.weights)) if one.outputs else out.weights(one.slug, one.name)
    if not (one.outputs and goal.exists()):  # a shared network is copied once for all its findings
        with publishing(goal) as temporary:
            shutil.copyfile(one.weights, temporary)
    kind = one.outcome.get("architecture") or {"name": one.config["backbone"], "args": {}}  # runs of before: no args
    return {
        "file": str(goal.relative_to(out.root)),
        "sha256": hash_file(goal),
        "member": one.member,
        "snapshot": one.snapshot,  # the epoch of a snapshot of the member's training; 0: its best weights
        "column": one.column,  # which output of the network
        "outputs": len(one.outputs) or None,  # of a shared network: how many it has
        "copies": False,  # True: asked about shifted and zoomed copies of the film (test-time augmentation)
        "backbone": kind["name"],
        "backbone_args": kind["args"],
        "standardise": one.config.get("standardise", "dataset"),  # runs of before know no other
        "image_size": one.config["image_size"] or read_json(one.paths.config)["data"]["size"],
        "seed": one.config["seed"],
        "views": one.config["views"],
        "best_epoch": one.snapshot or one.outcome["best_epoch"],
        "selected_by": one.outcome["selection_rule"],
    }


def taught_prior(one: Trained, calibrate_share: float) -> dict[str, Any]:
    """Which share of positives the loss of a network saw, and how far (in log odds) the calibration has to come back.

    A balanced sampler or a weight of the positives teaches another prevalence than the real one; the calibration is
    fitted on films at their natural prevalence, so that its intercept undoes it.
    """
    from models.config import TrainConfig
    from models.network.losses import positive_weight

    config = TrainConfig(**one.config)
    prior: dict[str, Any] = {name: one.config[name] for name in ("sampler", "positive_weight", "loss")}
    prior["calibrate_share"] = calibrate_share
    if one.paths.targets.exists():
        targets = Targets.load(one.paths.targets)
        if one.outputs:
            targets = targets.only(one.column)
        here = targets.usable("train")
        value, drawn = targets.value[here].astype(float), targets.weight[here] * targets.draw[here].astype(float)
        ill = positive_weight(config, value) * float(drawn @ value)
        prior["taught_share"] = divide(ill, ill + float(drawn @ (1 - value)))
        prior["log_odds_to_correct"] = float(log_odds(calibrate_share) - log_odds(prior["taught_share"]))
    return prior


def _stored(paths: TargetPaths, part: str, snapshot: int = 0, finding: str = "") -> pd.Series:
    """`finding`: of a shared network, whose columns are called so."""
    column = (finding or "logit") + (f"@{snapshot}" if snapshot else "")
    stored = read_parquet_file(paths.predictions, columns=["image_id", "part", column])
    return stored[stored["part"] == part].set_index("image_id")[column].astype(float)


def _same_weights(run: RunPaths, model: Mapping[str, Any]) -> TargetPaths | None:
    """The folder in the run of the network that a bundle's model was copied from, if it is there unchanged."""
    owner = Path(model["file"]).stem.partition("-")[0]
    if owner in RESERVED_SLUGS and not model.get("outputs"):
        return None
    paths = run.shared(model["member"]) if model.get("outputs") else run.target(owner, model["member"])
    weights = paths.snapshot(model["snapshot"]) if model.get("snapshot") else paths.weights
    there = weights.is_file() and paths.predictions.is_file() and hash_file(weights) == model["sha256"]
    return paths if there else None
