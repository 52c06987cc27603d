"""The phantom: same seed, same bytes; an honest truth table; a task that is neither trivial nor hopeless.

The guards train on films drawn in memory: thumbnails must not give the findings away, a network must find them, and
never without fail.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pathologies.phantom.films import FilmRequest, render_film
from pathologies.phantom.labels import CHEXPERT_COUNTS, CHEXPERT_IMAGES
from pathologies.phantom.patients import CHILDREN, FINDINGS, draw_patient
from pathologies.phantom.writer import HEADER, PREFIX, PhantomConfig, draw_labels, render_example, write_phantom

CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
TWELVE = list(HEADER[6:18])
SMALL = {"patients": 5, "size": 32, "workers": 1}


def _fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_layout_is_chexperts_own(tmp_path):
    table = write_phantom(tmp_path, PhantomConfig(**SMALL | {"patients": 12}))
    assert table == tmp_path / "train.csv"
    assert table.read_text().splitlines()[0] == CHEXPERT_HEADER
    assert (tmp_path / "truth.csv").read_text().splitlines()[0] == CHEXPERT_HEADER
    frame = pd.read_csv(table)
    assert frame["Path"][0] == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    lateral = frame["Frontal/Lateral"] == "Lateral"
    assert lateral.any()
    assert frame.loc[lateral, "AP/PA"].isna().all()
    assert set(frame.loc[~lateral, "AP/PA"]) <= {"AP", "PA"}
    for path in frame["Path"]:
        with Image.open(tmp_path / path.removeprefix(PREFIX)) as film:
            assert film.mode == "L"
            assert max(film.size) == 32


def test_same_seed_same_bytes_for_any_number_of_processes(tmp_path):
    write_phantom(tmp_path / "one", PhantomConfig(**SMALL | {"patients": 20}))
    write_phantom(tmp_path / "two", PhantomConfig(**SMALL | {"patients": 20, "workers": 2}))
    write_phantom(tmp_path / "other", PhantomConfig(**SMALL | {"patients": 20, "seed": 1}))
    assert _fingerprint(tmp_path / "one") == _fingerprint(tmp_path / "two")
    assert _fingerprint(tmp_path / "one") != _fingerprint(tmp_path / "other")


def test_more_patients_extend_a_set(tmp_path):
    write_phantom(tmp_path / "few", PhantomConfig(**SMALL))
    write_phantom(tmp_path / "more", PhantomConfig(**SMALL | {"patients": 7}))
    few, more = _fingerprint(tmp_path / "few"), _fingerprint(tmp_path / "more")
    films = {path for path in few if path.endswith(".jpg")}
    assert all(few[path] == more[path] for path in films)
    rows = (tmp_path / "few" / "truth.csv").read_text()
    assert (tmp_path / "more" / "truth.csv").read_text().startswith(rows)


def test_complete_folder_is_left_alone_and_another_config_refused(tmp_path):
    write_phantom(tmp_path, PhantomConfig(**SMALL))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    seen = []
    write_phantom(tmp_path, PhantomConfig(**SMALL | {"workers": 2}), lambda done, total: seen.append(done))
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert seen == []
    with pytest.raises(ValueError, match=r"seed: there 0, asked 3"):
        write_phantom(tmp_path, PhantomConfig(**SMALL, seed=3))


def test_incomplete_folder_is_completed(tmp_path):
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done >= 3:
            raise Killed

    with pytest.raises(Killed):
        write_phantom(tmp_path / "part", PhantomConfig(**SMALL), kill)
    assert not (tmp_path / "part" / "phantom.json").exists()
    with pytest.raises(ValueError, match="strength"):
        write_phantom(tmp_path / "part", PhantomConfig(**SMALL, strength=0.5))
    steps = []
    (tmp_path / "part" / "train" / ".view1_frontal.jpg.1.tmp").write_bytes(b"half a film")
    write_phantom(tmp_path / "part", PhantomConfig(**SMALL), lambda done, total: steps.append((done, total)))
    write_phantom(tmp_path / "whole", PhantomConfig(**SMALL))
    assert _fingerprint(tmp_path / "part") == _fingerprint(tmp_path / "whole")
    assert steps[-1][0] == steps[-1][1] == len(pd.read_csv(tmp_path / "part" / "train.csv"))
    assert json.loads((tmp_path / "part" / "phantom.json").read_text())["patients"] == 5


@pytest.mark.parametrize("setting", [{"prevalence": "high"}, {"labels": "dirty"}, {"patients": 0}, {"size": 8}])
def test_impossible_settings_say_what_is_allowed(setting):
    with pytest.raises(ValueError, match="Allowed"):
        PhantomConfig(**setting)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo_prevalence_is_15_to_35_percent_of_frontal_films(seed):
    _, truth = draw_labels(PhantomConfig(seed=seed))
    frontal = truth[truth["Frontal/Lateral"] == "Frontal"]
    assert 1400 <= len(frontal) <= 1600
    shares = frontal[TWELVE].mean()
    assert shares.between(0.15, 0.35).all(), shares.to_dict()


@pytest.mark.parametrize("prevalence", ["demo", "chexpert"])
def test_truth_is_closed_and_clean_labels_are_the_truth(prevalence):
    train, truth = draw_labels(PhantomConfig(patients=300, prevalence=prevalence))
    pd.testing.assert_frame_equal(train, truth)
    column = dict(zip(FINDINGS, TWELVE, strict=True))
    for parent, children in CHILDREN.items():
        for child in children:
            assert (truth[column[parent]] >= truth[column[child]]).all()
    nothing = (truth[TWELVE] == 0).all(axis=1)
    assert (truth["No Finding"] == nothing).all()
    assert set(truth["Support Devices"]) == {0, 1}


def test_report_labels_come_at_chexperts_rates():
    config = PhantomConfig(patients=1500, prevalence="chexpert", labels="chexpert")
    train, truth = draw_labels(config)
    frontal = train["Frontal/Lateral"] == "Frontal"
    for finding, column in zip(FINDINGS, TWELVE, strict=True):
        for value, count in zip((1, 0, -1), CHEXPERT_COUNTS[finding], strict=True):
            rate = float((train.loc[frontal, column] == value).mean())
            assert rate == pytest.approx(count / CHEXPERT_IMAGES, abs=0.025), (column, value)
    blank_parent = train["Enlarged Cardiomediastinum"].isna() & (train["Cardiomegaly"] == 1)
    assert blank_parent.sum() > 0.3 * (train["Cardiomegaly"] == 1).sum()
    assert not ((train["No Finding"] == 1) & (train[TWELVE].isin([1, -1]).any(axis=1))).any()
    assert set(truth[TWELVE].to_numpy().ravel()) == {0, 1}


def test_findings_persist_over_studies_and_occur_together():
    patients = [draw_patient(0, number, "demo") for number in range(1, 901)]
    pairs = np.array(
        [
            (first.truth["pleural_effusion"], second.truth["pleural_effusion"])
            for patient in patients
            for first, second in zip(patient.studies, patient.studies[1:], strict=False)
        ]
    )
    assert np.corrcoef(pairs.T)[0, 1] > 0.4
    truth = np.array(
        [[s.truth["edema"], s.truth["cardiomegaly"], s.projection == "AP"] for p in patients for s in p.studies]
    )
    correlation = np.corrcoef(truth.T)
    assert correlation[0, 1] > 0.08
    assert correlation[0, 2] > 0.08


@pytest.mark.parametrize("slug", FINDINGS)
def test_every_finding_shows(slug):
    without, with_it = render_example(slug, seed=3, size=160)
    assert without.shape == with_it.shape
    assert without.dtype == np.uint8
    changed = np.abs(without.astype(int) - with_it.astype(int)) > 12
    assert 0.001 < changed.mean() < 0.5


def test_lungs_are_dark_and_the_heart_is_bright():
    film, _ = render_example("edema", seed=3, size=160)
    height, width = film.shape
    rows = film[int(0.4 * height) : int(0.55 * height)]
    middle = rows[:, int(0.47 * width) : int(0.53 * width)].mean()
    lungs = [rows[:, int(a * width) : int((a + 0.08) * width)].mean() for a in (0.25, 0.67)]
    assert middle > 1.5 * max(lungs)


def test_unknown_example_names_the_known_ones():
    with pytest.raises(ValueError, match="pleural_effusion"):
        render_example("efusion")


def letterbox(film: np.ndarray, size: int) -> np.ndarray:
    """`film` scaled to fit a black square."""
    height, width = film.shape
    scale = size / max(height, width)
    shape = round(width * scale), round(height * scale)
    small = Image.fromarray(film).resize(shape, Image.Resampling.BILINEAR)
    square = Image.new("L", (size, size))
    square.paste(small, ((size - shape[0]) // 2, (size - shape[1]) // 2))
    return np.asarray(square)


def frontal_films(patients: int, size: int, square: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(letterboxed films, truth, train part?) of a demo phantom, split by patient."""
    films, truth, train = [], [], []
    for number in range(1, patients + 1):
        patient = draw_patient(0, number, "demo", laterals=False)
        for study in patient.studies:
            film = render_film(FilmRequest(seed=0, patient=patient, study=study, size=size))
            films.append(letterbox(film, square))
            truth.append([study.truth[finding] for finding in FINDINGS])
            train.append(number % 5 < 3)
    return np.stack(films), np.array(truth), np.array(train)


@pytest.fixture(scope="module")
def demo_films():
    return frontal_films(900, 160, 64)


@pytest.mark.slow
def test_thumbnails_do_not_give_the_findings_away(demo_films):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler

    films, truth, train = demo_films
    pixels = films.reshape(len(films), 16, 4, 16, 4).mean(axis=(2, 4)).reshape(len(films), -1)
    pixels = StandardScaler().fit(pixels[train]).transform(pixels)
    scores = []
    for column in range(len(FINDINGS)):
        model = LogisticRegression(C=1e-3, max_iter=300).fit(pixels[train], truth[train, column])
        scores.append(roc_auc_score(truth[~train, column], model.decision_function(pixels[~train])))
    assert 0.55 < np.mean(scores) <= 0.75, dict(zip(FINDINGS, np.round(scores, 3), strict=True))


@pytest.mark.slow
def test_a_network_finds_the_findings_but_never_all_of_them(demo_films):
    from sklearn.metrics import roc_auc_score

    films, truth, train = demo_films
    probabilities = _train_network(films[train], truth[train], films[~train])
    scores = {f: roc_auc_score(truth[~train, i], probabilities[:, i]) for i, f in enumerate(FINDINGS)}
    assert max(scores.values()) <= 0.995, scores
    assert sum(score > 0.75 for score in scores.values()) >= 4, scores


def _train_network(films: np.ndarray, truth: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Scores of the unseen films by one small network with twelve outputs."""
    import timm
    import torch

    from models.training.cpu_features import cpu_precision

    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    images, others = (torch.from_numpy((part - 110.0) / 70.0).float().unsqueeze(1) for part in (films, unseen))
    targets = torch.from_numpy(truth).float()
    model = timm.create_model("test_resnet", in_chans=1, num_classes=len(FINDINGS)).to(
        memory_format=torch.channels_last
    )
    fast = cpu_precision() == "bf16"
    batches, epochs = len(images) // 32, 10
    optimiser = torch.optim.AdamW(model.parameters(), 6e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=batches * epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: batches * 32].split(32):
            moves = [int(value) for value in torch.randint(-6, 7, (2,))]
            batch = torch.roll(images[rows], moves, dims=(2, 3))
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                logits = model(batch)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model(part) for part in others.split(128)]).numpy()
    torch.set_num_threads(threads)
    return scores
