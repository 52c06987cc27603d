"""The trained networks of a run: which there are, and what a bundle takes over of them.

In: a RUN. Out: its finished (target, member) pairs, the columns of logits that they make up, their weights in a bundle.
Called by the ensembler, by `replace` and by comparisons of runs; what the networks say is read by `logit_tables`.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.data.targets import Targets
from models.files.layout import BundlePaths, RunPaths, TargetPaths, publishing, read_json
from models.statistics.metrics import divide
from models.statistics.reliability import log_odds
from orchestrator.datasets.dataset import hash_file
from pathologies.errors import InputError

# Which networks of a run are members: a finding's own, shared ones, heads on an encoder; both: all that are there.
USES = ("both", "single", "shared", "heads")
HEAD_JOBS = "heads/"  # what the names of such jobs begin with


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
    fold: tuple[int, int] | None = None  # (which, of how many): learned without it, and answers for it; none: no folds
    head: str = ""  # of a head on a frozen encoder: which encoder and kind, and fold

    @property
    def kind(self) -> str:
        """One of USES."""
        return "heads" if self.head else "shared" if self.outputs else "single"

    @property
    def together(self) -> tuple:
        """The same for all networks of one cross-validation; of a network by itself its own."""
        index, folds = self.fold or (0, 1)
        return self.kind, self.head_of_folds, self.snapshot, folds, self.member - index

    @property
    def head_of_folds(self) -> str:
        """Which encoder and kind, the same for the heads of all folds."""
        return self.head.rpartition("-")[0] if self.fold else self.head

    @property
    def column(self) -> int:
        """Which output of the network."""
        return self.outputs.index(self.slug) if self.outputs else 0

    @property
    def weights(self) -> Path:
        return self.paths.snapshot(self.snapshot) if self.snapshot else self.paths.weights

    @property
    def name(self) -> str:
        if self.head:
            return f"{HEAD_JOBS}{self.head}"
        own = f"{self.member}-{self.snapshot}" if self.snapshot else str(self.member)
        return f"shared/{own}" if self.outputs else own


def columns_of(members: Sequence[Trained]) -> list[list[Trained]]:
    """The members behind each column of a table, in order; those of a cross-validation by the number of their fold."""
    found: dict[tuple, list[Trained]] = {}
    for one in members:
        found.setdefault(one.together, []).append(one)
    return [sorted(column, key=lambda one: one.fold or (0, 1)) for column in found.values()]


def column_name(column: Sequence[Trained]) -> str:
    """0; of a cross-validation 0..4; of a shared network shared/0; of the snapshot of epoch 7 0-7."""
    first, last = column[0], column[-1]
    if first.fold is None:
        return first.name
    if first.head:
        return f"{HEAD_JOBS}{first.head_of_folds}"
    own = f"{first.member}..{last.member}" + (f"-{first.snapshot}" if first.snapshot else "")
    return f"shared/{own}" if first.outputs else own


def finished_targets(
    run: RunPaths, wanted: tuple[str, ...] = (), snapshots: bool = False, use: str = "both"
) -> tuple[dict[str, list[Trained]], dict[str, str]]:
    """The finished members of every target, with their snapshots or without, and why each other one is left out.

    A finding's own networks come first, then the columns of the shared ones; `use` is one of USES. The networks of a
    cross-validation stand together, all of them or none; beside them networks without folds are left out, as they know
    fewer of the films, and have learned from others.
    """
    if not run.plan.exists():
        raise FileNotFoundError(f"{run.root} is not a run: it has no plan.json. Make one with `hilum train`.")
    if use not in USES:
        raise InputError(f"Unknown choice of networks {use!r}. Known: {', '.join(USES)}.")
    trained: dict[str, list[Trained]] = {}
    left_out: dict[str, str] = {}
    for name in sorted(read_json(run.plan)["jobs"], key=lambda name: name.startswith(("shared/", HEAD_JOBS))):
        slug, _, member = name.partition("/")
        if name.startswith(HEAD_JOBS):
            continue
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
    for one in _finished_heads(run, wanted, left_out) if use in ("both", "heads") else ():
        trained.setdefault(one.slug, []).append(one)
    trained = {slug: whole for slug, members in trained.items() if (whole := _whole_columns(slug, members, left_out))}
    missing = [slug for slug in wanted if slug not in trained]
    if not trained or missing:
        kind = {"both": "", "single": " of its own", "shared": " by a shared network", "heads": " as a head"}[use]
        reasons = [f"{name}: {reason}." for name, reason in list(left_out.items())[:5]]
        option = {"shared": " --shared", "heads": " --heads"}.get(use, "")
        raise InputError(
            f"{run.root} has no finished training{kind} of {', '.join(missing) or 'any target'}. "
            + (" ".join(reasons) or f"Train first: `hilum train DATASET --out {run.root}{option}`.")
        )
    return trained, left_out


def _whole_columns(slug: str, members: list[Trained], left_out: dict[str, str]) -> list[Trained]:
    """The members whose columns can stand side by side; why not, goes to `left_out`."""
    kept = []
    for column in columns_of(members):
        there = {one.fold[0] for one in column if one.fold}
        missing = [k for k in range(column[0].fold[1] if column[0].fold else 0) if k not in there]
        if not missing:
            kept.append(column)
        elif not column[0].snapshot:  # a fold's training may well keep other epochs than another's
            folds = ", ".join(f"{number + 1} of {column[0].fold[1]}" for number in missing)
            job = f"{'shared' if column[0].outputs else slug}/{column[0].member - column[0].fold[0] + missing[0]}"
            if column[0].head:
                job = f"{HEAD_JOBS}{slug}/{column[0].head_of_folds}-{missing[0]}of{column[0].fold[1]}"
            left_out[f"{slug}/{column_name(column)}"] = (
                f"the network of fold {folds} is missing ({job}), so some films have no answer of a network that did "
                "not learn from them; give the train command again, which goes on with it"
            )
    if any(column[0].fold for column in kept):
        for column in kept:
            if not column[0].fold and not column[0].snapshot:
                left_out[f"{slug}/{column_name(column)}"] = "trained without folds, beside networks of folds"
        kept = [column for column in kept if column[0].fold]
    return [one for column in kept for one in column]


def _outputs(slug: str, member: int, paths: TargetPaths, outcome: Mapping[str, Any]) -> list[Trained]:
    """A trained network as a member of its finding, or of each that shares it, with that finding's label policy."""
    payload = read_json(paths.config)
    config, fold = payload["config"], payload.get("fold")
    # a finding's own network that branched from a shared one may know the others' names too, and answers for itself
    shared = tuple(payload["targets"]) if slug == "shared" else ()
    return [
        Trained(
            slug=one,
            member=member,
            paths=paths,
            config=config | payload["policies"][one] if shared else config,
            outcome=outcome,
            outputs=shared,
            fold=(fold["index"], fold["of"]) if fold else None,
        )
        for one in shared or (slug,)
    ]


def _finished_heads(run: RunPaths, wanted: tuple[str, ...], left_out: dict[str, str]) -> Iterator[Trained]:
    """Heads on frozen encoders; why one is left out goes to `left_out`."""
    for name in sorted(one for one in read_json(run.plan)["jobs"] if one.startswith(HEAD_JOBS)):
        slug, _, folder = name.removeprefix(HEAD_JOBS).partition("/")
        if wanted and slug not in wanted:
            continue
        paths = run.head(slug, folder)
        outcome = read_json(paths.outcome) if paths.outcome.exists() else {"status": "not finished"}
        if outcome["status"] != "ok":
            left_out[name] = f"{outcome['status']}: {outcome.get('error') or 'give the train command again'}"
            continue
        payload = read_json(paths.config)
        fold = payload.get("fold")
        yield Trained(
            slug=slug,
            member=payload["member"],
            paths=paths,
            config=payload["config"],
            outcome=outcome,
            fold=(fold["index"], fold["of"]) if fold else None,
            head=folder,
        )


def copy_weights(one: Trained, out: BundlePaths) -> dict[str, Any]:
    """Copy a member's weights into a bundle; returns its entry in `models`."""
    if one.head:
        return copy_head(one, out)
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


def copy_head(one: Trained, out: BundlePaths) -> dict[str, Any]:
    """As `copy_weights`: the head's own weights, and its encoder's, which all heads on it have in common.

    Errors: InputError where the run's copy of the encoder is not the one that the features were computed with.
    """
    payload = read_json(one.paths.config)
    facts, run = payload["encoder"], RunPaths(one.paths.root.parent.parent.parent)
    source, shared = run.encoder(facts["digest"]), out.encoder(facts["weights_sha256"])
    if not source.is_file() or hash_file(source) != facts["weights_sha256"]:
        raise InputError(
            f"{source} is missing or damaged. Give `hilum train --heads` again: it brings the encoder back."
        )
    goal = out.weights(one.slug, one.name.replace("/", "-"))
    for file, place in ((one.weights, goal), (source, shared)):
        if not place.exists():
            with publishing(place) as temporary:
                shutil.copyfile(file, temporary)
    return {
        "file": str(goal.relative_to(out.root)),
        "sha256": hash_file(goal),
        "head": {
            "name": one.head,
            "kind": payload["head"]["kind"],
            "features": facts["features"],
            "hidden": one.outcome["head"]["hidden"],
        },
        "encoder": {
            "file": str(shared.relative_to(out.root)),
            "sha256": facts["weights_sha256"],
            "pixel_mean": facts["pixel_mean"],  # whose films it takes: its own way, not the bundle's
            "pixel_std": facts["pixel_std"],
        },
        "member": one.member,
        "copies": False,
        "backbone": facts["architecture"]["name"],
        "backbone_args": facts["architecture"]["args"],
        "standardise": facts["standardise"],
        "image_size": facts["size"],
        "seed": one.config["seed"],
        "views": one.config["views"],
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
        targets = targets.only(one.column) if one.outputs else targets.judged
        here = targets.usable("train")
        value, drawn = targets.value[here].astype(float), targets.weight[here] * targets.draw[here].astype(float)
        ill = positive_weight(config, value) * float(drawn @ value)
        prior["taught_share"] = divide(ill, ill + float(drawn @ (1 - value)))
        prior["log_odds_to_correct"] = float(log_odds(calibrate_share) - log_odds(prior["taught_share"]))
    return prior
