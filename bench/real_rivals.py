"""The plain rivals of `bench.real`, as anyone would write them: bare torch, and principal components; no hilum in it.

In: a folder with `films.npz` (uint8 pixels of every side as `side_96`, ..., labels films x findings with NaN in the
rows that are judged, the patient of each film) and settings as JSON. Out: `answer.json`: a score per judged film and
finding, what was chosen, and the seconds that choosing and learning took. Run by `bench.real` in a process of its own.

`plain` is one ResNet-18 that all findings share, from chance weights, with AdamW, one-cycle and the augmentations that
hilum has. It learns from every film with labels; which of its settings is taken is said by cross-validation over the
patients of those films. `pca` is principal components with logistic regression, chosen in the same way.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

BATCH, DECAY, CLIP, WARMUP = 32, 0.05, 1.0, 0.3
ROTATION, SHIFT, SCALING, BRIGHTNESS, CONTRAST = 7.0, 0.06, 0.1, 0.15, 0.2  # hilum's own


@dataclass(frozen=True, kw_only=True)
class Setting:
    side: int
    epochs: int
    rate: float


@dataclass(frozen=True, kw_only=True)
class Films:
    """What a rival may know of a fold; `label` is films x findings, NaN where it may not."""

    pixels: dict[int, np.ndarray]  # side -> films x side x side, uint8
    label: np.ndarray
    patient: np.ndarray

    @property
    def known(self) -> np.ndarray:
        return np.flatnonzero(~np.isnan(self.label).all(axis=1))

    @property
    def judged(self) -> np.ndarray:
        return np.flatnonzero(np.isnan(self.label).all(axis=1))


def inner_folds(films: Films, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows that teach, rows that judge) of the films with labels; a patient's films stay together."""
    rows = films.known
    patients = np.unique(films.patient[rows])
    fold_of = dict(zip(np.random.default_rng(0).permutation(patients), np.arange(len(patients)) % folds, strict=True))
    fold = np.array([fold_of[one] for one in films.patient[rows]])
    return [(rows[fold != number], rows[fold == number]) for number in range(folds)]


def mean_auc(score: np.ndarray, label: np.ndarray) -> float:
    """Over the findings of which both classes are there."""
    both = [one for one in range(label.shape[1]) if len(np.unique(label[:, one])) == 2]
    return float(np.mean([roc_auc_score(label[:, one], score[:, one]) for one in both])) if both else math.nan


# The network


def normalised(pixels: np.ndarray, rows: np.ndarray) -> Tensor:
    """All films as floats, by mean and spread of the pixels of `rows`."""
    floats = torch.from_numpy(np.ascontiguousarray(pixels)).float()[:, None]
    return (floats - floats[rows].mean()) / floats[rows].std()


def network_of(findings: int, prevalence: np.ndarray) -> nn.Module:
    network = resnet18(weights=None, num_classes=findings)
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)  # grey films
    share = np.clip(prevalence, 1e-3, 1 - 1e-3)
    with torch.no_grad():
        network.fc.bias.copy_(torch.tensor(np.log(share / (1 - share))))
    return network.to(memory_format=torch.channels_last)


def augmented(batch: Tensor) -> Tensor:
    """Turned, shifted, scaled, lighter or darker, of more or less contrast; never mirrored."""

    def draw(largest: float, *shape: int) -> Tensor:
        return (2 * torch.rand(len(batch), *shape) - 1) * largest

    angle, size, shift = draw(math.radians(ROTATION)), 1 + draw(SCALING), 2 * draw(SHIFT, 2)
    cosine, sine = angle.cos() / size, angle.sin() / size
    theta = torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)
    return moved * (1 + draw(CONTRAST, 1, 1, 1)) + draw(BRIGHTNESS, 1, 1, 1)


def learn(pixels: Tensor, label: np.ndarray, rows: np.ndarray, setting: Setting, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = network_of(label.shape[1], label[rows].mean(axis=0))
    weights = list(network.parameters())
    groups = [{"params": [one for one in weights if one.ndim > 1], "weight_decay": DECAY},
              {"params": [one for one in weights if one.ndim == 1], "weight_decay": 0.0}]  # fmt: skip
    optimiser = torch.optim.AdamW(groups, lr=setting.rate)
    batch_size = min(BATCH, len(rows))
    steps = setting.epochs * (len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, setting.rate, total_steps=steps + 1, pct_start=WARMUP)
    truth = torch.from_numpy(label).float()
    network.train()
    for _ in range(setting.epochs):
        order = torch.from_numpy(rows)[torch.randperm(len(rows))]
        for chosen in order.split(batch_size):
            if len(chosen) < batch_size:
                continue
            batch = augmented(pixels[chosen]).contiguous(memory_format=torch.channels_last)
            functional.binary_cross_entropy_with_logits(network(batch), truth[chosen]).backward()
            nn.utils.clip_grad_norm_(weights, CLIP)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
    return network


def logits_of(network: nn.Module, pixels: Tensor, rows: np.ndarray) -> np.ndarray:
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(pixels[part]) for part in torch.from_numpy(rows).split(2 * BATCH)]).numpy()


def plain(films: Films, settings: Sequence[Setting], folds: int, seed: int) -> tuple[np.ndarray, dict]:
    """(logits of the judged films, what was chosen and why)."""

    def answers(setting: Setting, teach: np.ndarray, ask: np.ndarray) -> np.ndarray:
        pixels = normalised(films.pixels[setting.side], teach)
        return logits_of(learn(pixels, films.label, teach, setting, seed), pixels, ask)

    began = time.process_time()
    found = []
    for setting in settings if len(settings) > 1 else ():
        parts = [mean_auc(answers(setting, teach, ask), films.label[ask]) for teach, ask in inner_folds(films, folds)]
        found.append(float(np.nanmean(parts)))
    best = settings[int(np.argmax(found)) if found else 0]
    chosen = time.process_time()
    logits = answers(best, films.known, films.judged)
    tried = [asdict(one) | {"auc": auc} for one, auc in zip(settings, found, strict=False)]  # one setting: no choice
    facts = {"chosen": asdict(best), "tried": tried}
    return logits, facts | {"choosing_s": chosen - began, "learning_s": time.process_time() - chosen}


# Principal components


def components_of(films: Films, side: int, most: int, teach: np.ndarray, ask: np.ndarray) -> list[np.ndarray]:
    """Both sets of rows as principal components of `teach`, at mean 0 and spread 1."""
    flat = films.pixels[side].reshape(len(films.label), -1).astype(np.float32) / 255
    fitted = make_pipeline(PCA(min(most, len(teach)), random_state=0), StandardScaler()).fit(flat[teach])
    return [fitted.transform(flat[rows]) for rows in (teach, ask)]


def regressed(taught: np.ndarray, label: np.ndarray, asked: np.ndarray, one: tuple[int, float]) -> np.ndarray:
    """Log odds of the rows asked about, from the first so many components."""
    if len(np.unique(label)) < 2:
        return np.zeros(len(asked))
    count, strength = one
    fitted = LogisticRegression(C=strength, max_iter=2000).fit(taught[:, :count], label)
    return fitted.decision_function(asked[:, :count])


def pca(films: Films, side: int, grid: Sequence[tuple[int, float]], folds: int) -> tuple[np.ndarray, dict]:
    """As `plain`; how many components and how strongly regularised is chosen for each finding."""
    began, most = time.process_time(), max(count for count, _ in grid)
    parts = [(teach, ask, *components_of(films, side, most, teach, ask)) for teach, ask in inner_folds(films, folds)]
    taught, asked = components_of(films, side, most, films.known, films.judged)
    columns, picked = [], []
    for label in films.label.T:
        found = [[mean_auc(regressed(known, label[teach], unknown, one)[:, None], label[ask][:, None])
                  for teach, ask, known, unknown in parts] for one in grid]  # fmt: skip
        best = int(np.argmax(np.nan_to_num(np.nanmean(found, axis=1))))
        columns.append(regressed(taught, label[films.known], asked, grid[best]))
        picked.append({"components": grid[best][0], "c": grid[best][1], "auc": float(np.nanmean(found[best]))})
    return np.stack(columns, axis=1), {"chosen": picked, "choosing_s": 0.0, "learning_s": time.process_time() - began}


def main(folder: Path, settings: dict) -> None:
    torch.set_num_threads(settings["threads"])
    with np.load(folder / "films.npz") as stored:
        pixels = {int(name.removeprefix("side_")): stored[name] for name in stored.files if name.startswith("side_")}
        films = Films(pixels=pixels, label=stored["label"], patient=stored["patient"])
    if settings["way"] == "pca":
        scores, facts = pca(films, settings["side"], [tuple(one) for one in settings["grid"]], settings["folds"])
    else:
        tried = [Setting(**one) for one in settings["settings"]]
        scores, facts = plain(films, tried, settings["folds"], settings["seed"])
    answer = facts | {"scores": scores.tolist(), "rows": films.judged.tolist()}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
