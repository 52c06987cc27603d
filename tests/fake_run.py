"""A run whose networks are untrained and whose stored predictions are made up: for what works on predictions alone."""

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import save_file
from torch import manual_seed

from models.config import TrainConfig
from models.files.layout import RunPaths, read_json, write_json
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
