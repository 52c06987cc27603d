"""One finding's search, opened: what it varies, which numbers are missing, what each one's settings are.

In: a SearchRequest. Out: a Search, and the folder of each trial that it hands out. Called by orchestrator.tuning.tune
in the driver and, for each finding, by orchestrator.tuning.executors in the process that runs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.config import RECIPE_VERSION, TrainConfig, difference
from models.files.layout import RunPaths, TargetPaths, read_json, write_json
from models.training.selection import SelectionRule, selection_rule
from orchestrator.datasets.dataset import SAME_DATA
from orchestrator.datasets.labelled import Material, usable_views
from orchestrator.planning.backbones import require_films
from orchestrator.planning.plan import Job, resolved_config, write_job
from orchestrator.ray_address import own_cluster
from orchestrator.storage.workspace import Workspace
from orchestrator.tuning.space import Dimension, Told, propose, space_for
from orchestrator.tuning.trials import (
    STOPPED,
    SearchPaths,
    Trial,
    bury_trial,
    drop_checkpoints,
    read_trial,
    read_trials,
    stop_trial,
)
from pathologies.errors import InputError
from pathologies.labels.frame import raw_labels

FORMAT = "hilum-search/1"
BEFORE = {"recipe_version": 1, "card": "bf16"}  # of a search whose `search.json` does not say
# The log-loss of raw logits punishes these, although the calibration that follows undoes what they do.
SHIFTING = ("loss", "positive_weight", "sampler", "label_smoothing", "mixup")


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What `hilum tune` was asked for."""

    dataset: Path
    out: Path
    targets: tuple[str, ...] = ()
    trials: int = 20  # per finding, the defaults among them
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of TrainConfig that the search leaves alone
    seed: int = 0
    time_budget: float | None = None  # minutes; what is unfinished then goes on with the next command
    gpus_per_trial: float | None = None  # none: one, where there are GPUs
    members: int = 0  # so many of the best trials become members of the run
    keep: int = 5  # so many trials of a finding keep their weights
    inline: bool = False
    address: str | None = None
    findings: Path | None = None
    workspace: Workspace = field(default_factory=Workspace, compare=False)  # in which `out` was opened


@dataclass(frozen=True, kw_only=True)
class Search:
    """One finding's search, open: what it varies, and its trials."""

    request: SearchRequest
    paths: SearchPaths
    material: Material
    device: str
    rule: SelectionRule
    space: tuple[Dimension, ...]
    resolved: Mapping[str, Any]  # `recipe_version`, and `card` as in plan_run: as they were when it began

    @property
    def slug(self) -> str:
        return self.paths.slug

    def todo(self) -> list[int]:
        """The numbers without an outcome: first those that were begun, then new ones."""
        begun = self.paths.numbers()
        new = [number for number in range(self.request.trials) if number not in begun]
        return [number for number in begun if not self.paths.trial(number).outcome.exists()] + new

    def hand_out(self, number: int) -> Trial:
        """The trial with its folder written; a number that was begun keeps the configuration that it has."""
        paths = self.paths.trial(number)
        if not (paths.config.exists() and paths.targets.exists()):
            self.write(paths, self.values(number))
        return read_trial(self.paths, number)

    def values(self, number: int) -> dict[str, Any]:
        """Of the searched settings; none for trial 0, which has the defaults."""
        if number == 0:
            return {}
        if self.paths.trial(number).config.exists():  # a kill fell between its two files
            config = read_trial(self.paths, number).config
            return {one.field: config[one.field] for one in self.space}
        told = [_told(trial) for trial in read_trials(self.paths)]
        return propose(self.space, told, number, (self.request.seed, self.slug))

    def config(self, values: Mapping[str, Any] | None = None) -> TrainConfig:
        """The whole configuration of a trial with these values; without any, the defaults."""
        settings = {"recipe_version": self.resolved["recipe_version"], **self.request.settings}
        card = self.resolved["card"]
        return resolved_config(self.material.catalog[self.slug], settings, 0, self.device, values, card)

    def write(self, paths: TargetPaths, values: Mapping[str, Any]) -> None:
        """A target folder with these settings, as the launcher would write it."""
        write_job(Job(slug=self.slug, member=0, paths=paths, config=self.config(values)), self.material)

    def repeat(self, number: int, folder: Path) -> dict[str, Any]:
        """Train a finished trial once more, in this process, from its stored configuration alone; the new outcome.

        On a machine of the same kind its score is the stored one to the last bit.
        """
        from models.process.job import run_job

        config = TrainConfig(**read_trial(self.paths, number).config)
        again = Job(slug=self.slug, member=0, paths=TargetPaths(folder), config=config)
        write_job(again, self.material)
        return run_job(self.material.dataset.root, folder, watch_parent=False)

    def stop(self, number: int) -> None:
        stop_trial(self.paths.trial(number))

    def settle(self, number: int, error: str | None = None) -> None:
        """After a trial's process has ended, well or not: keep only the checkpoints that can still matter."""
        if error:
            bury_trial(self.paths.trial(number), error)
        keep = max(self.request.keep, self.request.members)
        drop_checkpoints(read_trials(self.paths), keep)


def open_search(
    request: SearchRequest, slug: str, material: Material, device: str, card: str = BEFORE["card"]
) -> Search:
    """Open or begin a search; its `search.json` says under what settings. Errors: it was begun under others.

    `device`, `card`: as in `plan_run`, for a search that begins.
    """
    paths = SearchPaths(RunPaths(request.out), slug)
    if paths.description.exists():
        began = read_json(paths.description)  # where and how it began, so that its trials stay comparable
        device, resolved = began["device"], began.get("resolved", BEFORE)
    else:
        resolved = {"recipe_version": RECIPE_VERSION, "card": card if device.startswith("cuda") else BEFORE["card"]}
    defaults = resolved_config(material.catalog[slug], request.settings, 0, device)
    require_films(defaults, material.dataset.manifest["size"], request.inline or own_cluster(request.address))
    rule = selection_rule(_select_truth(material, slug, defaults.views))
    fixed = {*request.settings} | (set() if rule.name == "auc" else set(SHIFTING))
    labels = raw_labels(material.frame, slug)[material.parts == "train"]
    space = space_for(labels, defaults.to_dict(), fixed)
    search = Search(request=request, paths=paths, material=material, device=device, rule=rule, space=space,
                    resolved=resolved)  # fmt: skip
    _describe(search)
    return search


def _describe(search: Search) -> None:
    manifest, request = search.material.dataset.manifest, search.request
    described = {
        "format": FORMAT,
        "slug": search.slug,
        "device": search.device,
        "seed": request.seed,
        "settings": dict(request.settings),
        "space": {one.field: list(one.choices) or [one.low, one.high] for one in search.space},
        "score": f"{search.rule.name} on part select; {search.rule.reason}",
        "data": {name: manifest[name] for name in SAME_DATA},
    }
    if search.resolved != BEFORE:
        described["resolved"] = dict(search.resolved)
    if search.paths.description.exists():
        changed = difference(read_json(search.paths.description), described)
        if changed:
            raise InputError(
                f"The search in {search.paths.root} was begun with other settings ({changed}). Trials under different "
                "ones cannot be ranked together: use another --out. Only --trials may grow."
            )
    else:
        write_json(search.paths.description, described)


def _select_truth(material: Material, slug: str, views: str) -> np.ndarray:
    truth = material.truth(slug).to_numpy(np.float32)
    return truth[(material.parts == "select") & ~np.isnan(truth) & usable_views(material.frame, views)]


def _told(trial: Trial) -> Told:
    outcome = trial.outcome or {}
    state = trial.status if trial.status in ("ok", STOPPED, "running") else "failed"
    return Told(values=trial.config, state=state, score=trial.score, epoch=outcome.get("epochs_trained") or 0)
