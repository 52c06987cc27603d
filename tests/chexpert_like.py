"""A label file with the counts of CheXpert's `train.csv`, made from a seed, since the real one is gated.

Goes in: a fraction of the full size and a seed. Comes out: a table in the exact published columns (`chexpert_like`),
the same as a CSV file (`write_chexpert_like`), or the label frame that a source reader makes of it (`as_label_frame`).
Used by the tests of the audit, the splits and the source readers.

At fraction 1 these hold exactly: 223,414 images of 64,540 patients, 41,959 of them with more than one and one with 92;
187,641 studies; 191,027 frontal films (161,590 AP, 29,420 PA, 16 LL, 1 RL) and 32,387 lateral ones; three ages of 0;
and the positive, negative and uncertain images of every finding. Labels belong to studies, as in the original, and
depend on a severity that a patient keeps, so that a split has something to balance. Which findings meet in one study
is invented.
"""

from pathlib import Path

import numpy as np
import pandas as pd

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
IMAGES, PATIENTS, SINGLE_IMAGE_PATIENTS, MOST_IMAGES = 223_414, 64_540, 22_581, 92
LATERAL, SECOND_FRONTAL = 32_387, 3_386
PROJECTIONS = {"PA": 29_420, "LL": 16, "RL": 1}  # every other frontal film is AP
NO_FINDING = 22_381

# Images labelled positive, negative and uncertain; every other cell is blank.
COUNTS = {
    "Enlarged Cardiomediastinum": (10_798, 21_638, 12_403),
    "Cardiomegaly": (27_000, 11_116, 8_087),
    "Lung Opacity": (105_581, 6_599, 5_598),
    "Lung Lesion": (9_186, 1_270, 1_488),
    "Edema": (52_246, 20_726, 12_984),
    "Consolidation": (14_783, 28_097, 27_742),
    "Pneumonia": (6_039, 2_799, 18_770),
    "Atelectasis": (33_376, 1_328, 33_739),
    "Pneumothorax": (19_448, 56_341, 3_145),
    "Pleural Effusion": (86_187, 35_396, 11_628),
    "Pleural Other": (3_523, 316, 2_653),
    "Fracture": (9_040, 2_512, 642),
    "Support Devices": (116_001, 6_137, 1_079),
}
SLUGS = {name: name.lower().replace(" ", "_") for name in COUNTS if name != "Support Devices"}


def chexpert_like(fraction: float = 1.0, seed: int = 0, prefix: str = "CheXpert-v1.0/train") -> pd.DataFrame:
    """The table of `train.csv`, every count scaled by `fraction` (0.01 makes about 2,200 rows)."""
    rng = np.random.default_rng(seed)
    patient, position, attached = _layout(fraction, rng)
    study = np.cumsum(~attached) - 1  # one number per study over the whole file
    lateral = attached.copy()
    second = rng.choice(np.flatnonzero(attached), _scale(SECOND_FRONTAL, fraction), replace=False)
    lateral[second] = False
    frame = _who_and_how(patient, position, attached, lateral, prefix, fraction, rng)
    for name, values in _labels(patient, study, fraction, rng).items():
        frame[name] = values[study]
    return frame[HEADER.split(",")]


def write_chexpert_like(path: Path, fraction: float = 1.0, seed: int = 0, **options) -> Path:
    chexpert_like(fraction, seed, **options).to_csv(path, index=False)
    return path


def as_label_frame(table: pd.DataFrame) -> pd.DataFrame:
    """The label frame of such a table: image_id, patient_id, study_id, view, ..., raw columns by slug."""
    image_id = table["Path"].str.split("/", n=1).str[1].astype("str")
    parts = image_id.str.split("/", expand=True)
    frame = pd.DataFrame(
        {
            "image_id": image_id,
            "patient_id": parts[1].astype("str"),
            "study_id": (parts[1] + "/" + parts[2]).astype("str"),
            "view": table["Frontal/Lateral"].str.lower(),
            "projection": table["AP/PA"].fillna(""),
            "age": table["Age"].astype(np.float32),
            "sex": table["Sex"].str[0].where(table["Sex"].isin(["Male", "Female"]), ""),
            "path": image_id,
            "official_split": "train",
            "source": "chexpert",
            "no_finding": table["No Finding"].astype(np.float32),
        }
    )
    for name, slug in SLUGS.items():
        frame[slug] = table[name].astype(np.float32)
    return frame


def _scale(count: int, fraction: float) -> int:
    return count if fraction == 1 else max(1, round(count * fraction))


def _layout(fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patient index and position of every image, and whether it shares the study of the image before it."""
    patients, images = _scale(PATIENTS, fraction), _scale(IMAGES, fraction)
    single = _scale(SINGLE_IMAGE_PATIENTS, fraction)
    sizes = 2 + np.floor(rng.lognormal(0.55, 1.15, patients - single)).astype(int)
    most = max(6, round(MOST_IMAGES * min(1, fraction) ** 0.5))
    sizes = np.minimum(sizes, most - 1)
    sizes[0] = most
    while (missing := images - single - sizes.sum()) != 0:
        adjustable = 1 + np.flatnonzero((sizes[1:] > 2) if missing < 0 else (sizes[1:] < most - 1))
        chosen = rng.choice(adjustable, min(abs(missing), len(adjustable)), replace=False)
        sizes[chosen] += np.sign(missing)
    sizes = rng.permutation(np.concatenate([np.ones(single, int), sizes]))
    patient = np.repeat(np.arange(patients), sizes)
    position = np.arange(images) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    attached = np.zeros(images, bool)
    followers = _scale(LATERAL, fraction) + _scale(SECOND_FRONTAL, fraction)
    attached[rng.choice(np.flatnonzero(position % 2 == 1), followers, replace=False)] = True
    return patient, position, attached


def _who_and_how(patient, position, attached, lateral, prefix, fraction, rng) -> pd.DataFrame:
    images, patients = len(patient), patient.max() + 1
    started = np.cumsum(~attached)
    number = started - started[position == 0][patient] + 1
    view = np.where(lateral, "lateral", "frontal")
    path = [
        f"{prefix}/patient{p + 1:05d}/study{s}/view{2 if a else 1}_{v}.jpg"
        for p, s, a, v in zip(patient.tolist(), number.tolist(), attached.tolist(), view.tolist(), strict=True)
    ]
    projection = np.where(lateral, None, "AP").astype(object)
    free = rng.permutation(np.flatnonzero(~lateral))
    for name, count in PROJECTIONS.items():
        taken, free = np.split(free, [_scale(count, fraction)])
        projection[taken] = name
    age = np.clip(rng.normal(60, 18, patients), 18, 90).astype(int)[patient]
    age[rng.choice(images, 3, replace=False)] = 0
    sex = np.where(rng.random(patients) < 0.594, "Male", "Female").astype(object)[patient]
    sex[np.flatnonzero(np.bincount(patient)[patient] == 1)[0]] = "Unknown"
    return pd.DataFrame(
        {"Path": path, "Sex": sex, "Age": age, "Frontal/Lateral": np.char.capitalize(view), "AP/PA": projection}
    )


def _labels(patient, study, fraction, rng) -> dict[str, np.ndarray]:
    """One value per study and column; the counts per image are exact because a study has one image or two."""
    sizes = np.bincount(study)
    owner = patient[np.unique(study, return_index=True)[1]]
    severity = rng.normal(size=patient.max() + 1)[owner] + 0.7 * rng.normal(size=len(sizes))
    columns, any_sign = {}, np.zeros(len(sizes), bool)
    for name, counts in COUNTS.items():
        values = np.full(len(sizes), np.nan)
        trait = rng.normal(size=patient.max() + 1)[owner]
        positive, negative, uncertain = counts
        for label, count, weight in ((1.0, positive, 0.8), (-1.0, uncertain, 0.6), (0.0, negative, 0.2)):
            score = weight * (severity + trait) + rng.normal(size=len(sizes))
            free = np.flatnonzero(np.isnan(values))
            values[_fill(free[np.argsort(-score[free])], sizes, _scale(count, fraction))] = label
        columns[name] = values
        if name in SLUGS:
            any_sign |= (values == 1) | (values == -1)
    columns["No Finding"] = np.full(len(sizes), np.nan)
    clean = rng.permutation(np.flatnonzero(~any_sign))
    columns["No Finding"][_fill(clean, sizes, _scale(NO_FINDING, fraction))] = 1.0
    return columns


def _fill(order: np.ndarray, sizes: np.ndarray, target: int) -> np.ndarray:
    """The first studies of `order` that hold `target` images; a last study of one image closes a gap of one."""
    filled = np.cumsum(sizes[order])
    end = np.searchsorted(filled, target, side="right")
    gap = target - (filled[end - 1] if end else 0)
    rest = order[end:]
    closing = rest[sizes[rest] == 1][:gap]
    if len(closing) < gap:
        raise AssertionError(f"{target} images do not fit into {len(order)} studies")
    return np.concatenate([order[:end], closing])
