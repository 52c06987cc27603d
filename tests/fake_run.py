"""A run whose networks are untrained and whose stored predictions are made up: for what works on predictions alone."""

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save_file
from torch import manual_seed

from models.config import TrainConfig
from models.data.targets import PARTS, Targets
from models.files.layout import RunPaths, TargetPaths, read_json, write_json
from models.network.builder import build_network
from orchestrator.ensembling.calibration_fit import FitSettings
from orchestrator.ensembling.pipeline import SelectionSettings
from tests.small_data import disc_films, label_frame, parts_of, write_dataset

QUICK = FitSettings(resamples=200, selection=SelectionSettings(folds=3, resamples=500))
FILMS = 1260  # 140 in calibrate, of 70 patients


def make_truth(seed: int = 0) -> dict[str, np.ndarray]:
    """Lung opacity with its children edema and pneumonia, and pneumothorax apart; both films of a patient alike."""
    draws = np.random.default_rng(seed)
    truth = {slug: np.repeat(draws.random(FILMS // 2) < 0.45, 2) for slug in ("pneumonia", "edema", "pneumothorax")}
    extra = np.repeat(draws.random(FILMS // 2) < 0.1, 2)
    truth = {"lung_opacity": truth["pneumonia"] | truth["edema"] | extra} | truth
    return {slug: one.astype(float) for slug, one in truth.items()}


def make_logits(truth: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return 2 * truth - 1 + noise * np.random.default_rng(seed).normal(size=len(truth))


def make_fake_dataset(root: Path) -> Path:
    return write_dataset(root, make_truth(), disc_films(make_truth()["pneumonia"]))


def write_fake_run(root: Path, dataset: Path, logits: dict[str, list[np.ndarray]], seed: int = 0) -> Path:
    """A finished run with a member per array of logits (an entry per film of the data set)."""
    run, manifest = RunPaths(root), read_json(dataset / "manifest.json")
    frame = label_frame(make_truth())
    parts = parts_of(frame)
    stored = np.isin(parts, ("select", "calibrate", "test"))
    jobs = {}
    for slug, members in logits.items():
        for member, values in enumerate(members):
            paths = run.target(slug, member)
            paths.root.mkdir(parents=True)
            manual_seed(seed + 10 * len(jobs) + member)
            save_file(build_network("test_resnet").state_dict(), paths.weights)
            config = TrainConfig(backbone="test_resnet", seed=member, uncertain="ignore", blank="zero")
            write_json(paths.config, {"config": config.to_dict(), "data": {"size": manifest["size"]}})
            pd.DataFrame({"image_id": frame["image_id"], "part": parts, "logit": values})[stored].to_parquet(
                paths.predictions, index=False
            )
            write_json(paths.outcome, {"status": "ok", "best_epoch": 1, "selection_rule": "auc"})
            jobs[f"{slug}/{member}"] = {}
    data = {name: manifest[name] for name in ("images_sha256", "labels_sha256", "split_hash", "size", "fold")}
    write_json(run.plan, {"format": "hilum-run/1", "dataset": str(dataset.resolve()), "data": data, "jobs": jobs})
    return root


def add_fake_shared(root: Path, dataset: Path, logits: dict[str, np.ndarray], member: int = 0, seed: int = 90) -> None:
    """A finished shared network in a run, with a column of logits per finding."""
    paths, plan = RunPaths(root).shared(member), read_json(RunPaths(root).plan)
    frame = label_frame(make_truth())
    parts = parts_of(frame)
    paths.root.mkdir(parents=True)
    manual_seed(seed)
    save_file(build_network("test_resnet", outputs=len(logits)).state_dict(), paths.weights)
    payload = {
        "config": TrainConfig(backbone="test_resnet", seed=member).to_dict(),
        "data": {"size": read_json(dataset / "manifest.json")["size"]},
        "targets": list(logits),
        "policies": {slug: {"uncertain": "ignore", "blank": "zero"} for slug in logits},
    }
    write_json(paths.config, payload)
    table = pd.DataFrame({"image_id": frame["image_id"], "part": parts} | logits)
    table[np.isin(parts, ("select", "calibrate", "test"))].to_parquet(paths.predictions, index=False)
    write_json(paths.outcome, {"status": "ok", "best_epoch": 1, "selection_rule": "mean_auc"})
    write_json(RunPaths(root).plan, plan | {"jobs": plan["jobs"] | {f"shared/{member}": {}}})


def usual_logits(noise: float = 1.5) -> dict[str, list[np.ndarray]]:
    """Two members a finding that know it about equally well."""
    return {
        slug: [make_logits(truth, noise, 10 * index + member) for member in range(2)]
        for index, (slug, truth) in enumerate(make_truth().items())
    }


def fold_of_films(folds: int) -> np.ndarray:
    """The fold of each film of the data set, patients whole; -1 in part `test`."""
    frame = label_frame(make_truth())
    number = frame["patient_id"].str[-5:].astype(int).to_numpy()
    return np.where(parts_of(frame) == "test", -1, number // 9 % folds)


def write_fold_run(
    root: Path, dataset: Path, logits: dict[str, np.ndarray], base: int = 0, shared: bool = False
) -> Path:
    """A finished run (or more of one) of a cross-validation; logits: folds x films of the data set, what each network
    would say, of which the run stores what it says of its own fold and of `test`.

    base: the number of its first member. shared: one network per fold for all the findings.
    """
    jobs = {"shared": list(logits)} if shared else {slug: [slug] for slug in logits}
    plan = read_json(RunPaths(root).plan)["jobs"] if RunPaths(root).plan.exists() else {}
    write_fake_run(root, dataset, {})
    for slug, findings in jobs.items():
        folds = len(logits[findings[0]])
        for index in range(folds):
            columns = {one if shared else "logit": logits[one][index] for one in findings}
            paths = RunPaths(root).shared(base + index) if shared else RunPaths(root).target(slug, base + index)
            _write_fold(paths, dataset, columns, index, folds, base + index + (50 if shared else len(plan)))
            plan[f"{slug}/{base + index}"] = {}
    write_json(RunPaths(root).plan, read_json(RunPaths(root).plan) | {"jobs": plan})
    return root


def _write_fold(
    paths: TargetPaths, dataset: Path, columns: dict[str, np.ndarray], index: int, folds: int, seed: int
) -> None:
    frame, fold = label_frame(make_truth()), fold_of_films(folds)
    parts = np.where(fold < 0, "test", np.where(fold == index, "calibrate", "train"))
    shared = "logit" not in columns
    paths.root.mkdir(parents=True)
    manual_seed(seed)
    save_file(build_network("test_resnet", outputs=len(columns) if shared else None).state_dict(), paths.weights)
    config = TrainConfig(backbone="test_resnet", seed=seed, uncertain="ignore", blank="zero")
    payload = {"config": config.to_dict(), "data": {"size": read_json(dataset / "manifest.json")["size"]}}
    payload["fold"] = {"index": index, "of": folds}
    if shared:
        payload["targets"] = list(columns)
        payload["policies"] = {slug: {"uncertain": "ignore", "blank": "zero"} for slug in columns}
    write_json(paths.config, payload)
    number = np.array([PARTS.index(part) for part in parts], np.uint8)
    value = np.full((len(frame), len(columns)) if shared else len(frame), np.nan, np.float32)
    Targets(
        row=np.arange(len(frame)),
        part=number,
        value=value,
        weight=np.zeros_like(value),
        draw=np.ones(len(frame), np.float32),
        image_id=frame["image_id"].to_numpy(str).astype(bytes),
        slugs=np.array(list(columns) if shared else [], "S"),
    ).save(paths.targets)
    table = pd.DataFrame({"image_id": frame["image_id"], "part": parts} | columns)
    table[np.isin(parts, ("calibrate", "test"))].to_parquet(paths.predictions, index=False)
    write_json(paths.outcome, {"status": "ok", "best_epoch": 1, "epochs_trained": 1, "selection_rule": "last_epoch"})


def fold_logits(truth: np.ndarray, folds: int = 5, noise: float = 1.5, own: float = 0.6, seed: int = 0) -> np.ndarray:
    """Networks that err alike (noise), and each for itself (own)."""
    alike = make_logits(truth, noise, seed)
    return alike + own * np.random.default_rng([seed, folds]).normal(size=(folds, len(truth)))
