"""bench/real.py: the judgement on made-up tables, the rivals on made-up films, the meter on a real process."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from bench import real
from bench.real_meter import metered
from bench.real_rivals import Films, Setting, inner_folds, main, mean_auc
from models.files.layout import read_json

WAYS = ("default", "warm", "plain")


def answers(noise: dict[str, float], films: int = 400, seeds: int = 1, shift: float = 0.0) -> pd.DataFrame:
    """Every finding's films in five folds; `noise` of each way's scores; `shift` moves them from fold to fold."""
    draws, parts = np.random.default_rng(0), []
    truths = (np.random.default_rng(1).random((len(real.TARGETS), films)) < 0.3).astype(float)
    names, patients = (
        [f"{letter}{number // one:04d}" for number in range(films)] for letter, one in (("f", 1), ("p", 2))
    )
    fold = np.arange(films) // 2 % 5 + 1
    for slug, truth in zip(real.TARGETS, truths, strict=True):
        for seed in range(seeds):
            part = {"image_id": names, "patient_id": patients, "seed": seed, "fold": fold, "slug": slug, "truth": truth}
            for way, size in noise.items():
                part[way] = 2 * truth - 1 + size * draws.normal(size=films) + shift * fold
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def prices(**seconds: float) -> dict[str, real.Price]:
    return {way: real.Price(seconds=one, choosing=0.0, peak=1.0, torn=False) for way, one in seconds.items()}


CHEAP = prices(default=300.0, scratch=100.0, warm=50.0, plain=20.0)


def test_a_default_that_is_clearly_better_reaches_every_figure():
    rows = real.judge(answers({"default": 0.8, "warm": 1.2, "plain": 1.2}), WAYS)
    assert [row.slug for row in rows] == [*real.TARGETS, "mean"]
    assert rows[-1].auc["default"] == pytest.approx(np.mean([row.auc["default"] for row in rows[:-1]]))
    assert rows[-1].gap["default"].low > 0
    assert real.faults_of(rows, CHEAP) == []


def test_every_figure_that_is_missed_is_named():
    rows = real.judge(answers({"default": 3.0, "warm": 3.0, "plain": 0.5}), WAYS)
    faults = real.faults_of(rows, prices(default=300.0, scratch=100.0, warm=61.0, plain=20.0))
    assert sum("default behind plain" in one for one in faults) == len(real.TARGETS)
    for words in ("default minus plain", "pneumonia", "warm behind plain", "0.61 of the processor time"):
        assert any(words in one for one in faults), words


def test_a_default_as_good_as_the_rival_is_not_enough():
    rows = real.judge(answers({"default": 0.8, "warm": 0.8, "plain": 0.8}), WAYS)
    assert [one.partition(":")[0] for one in real.faults_of(rows, CHEAP)] == ["default minus plain, mean AUC"]


def test_a_way_that_was_not_measured_is_not_reached():
    rows = real.judge(answers({"default": 0.8, "plain": 1.2}), ("default", "plain"))
    assert real.faults_of(rows, prices(default=1.0, plain=1.0)) == [
        "scratch: not measured",
        "warm: not measured",
    ]


def test_the_scale_of_the_answers_from_fold_to_fold_plays_no_part():
    noise = {"default": 0.8, "plain": 1.2}
    level, shifted = (real.judge(answers(noise, shift=shift), tuple(noise)) for shift in (0.0, 50.0))
    assert level == shifted


def test_seeds_are_a_mean_of_areas_and_each_film_counts_once():
    one, three = (
        real.judge(answers({"default": 1.0, "plain": 1.0}, seeds=seeds), ("default", "plain")) for seeds in (1, 3)
    )
    assert [row.positives for row in one] == [row.positives for row in three]
    assert abs(three[-1].gap["default"].value) < 0.02


@pytest.fixture
def folder(tmp_path):
    """48 films of 24 patients, the ill ones lighter; the labels of the last 12 are not told."""
    draws = np.random.default_rng(1)
    label = np.repeat(draws.permutation(np.arange(24) % 2), 2)[:, None] * np.ones((1, 2))
    pixels = (60 + 80 * label[:, :1, None] + 20 * draws.random((48, 16, 16))).astype(np.uint8)
    label[36:] = np.nan
    patient = np.repeat([f"p{number}" for number in range(24)], 2)
    np.savez(tmp_path / "films.npz", label=label, patient=patient, side_16=pixels)
    return tmp_path


def rival_answer(folder, **settings):
    own = {"threads": 1, "folds": 2, "seed": 0, "side": 16}
    main(folder, own | settings)
    return json.loads((folder / "answer.json").read_text(encoding="utf-8"))


def test_both_rivals_answer_for_the_films_whose_labels_they_lack(folder):
    light = np.load(folder / "films.npz")["side_16"][36:].mean(axis=(1, 2)) > 100
    found = rival_answer(folder, way="pca", grid=[(2, 0.1), (5, 0.1)])
    assert found["rows"] == list(range(36, 48))
    assert mean_auc(np.array(found["scores"]), np.stack([light, light], axis=1)) == 1.0
    found = rival_answer(folder, way="plain", settings=[{"side": 16, "epochs": 1, "rate": 1e-3}])
    assert found["rows"] == list(range(36, 48))
    assert np.isfinite(found["scores"]).all()
    assert np.shape(found["scores"]) == (12, 2)


@pytest.mark.slow
def test_the_plain_rival_takes_the_setting_that_was_best_inside(folder):
    tried = [{"side": 16, "epochs": 1, "rate": rate} for rate in (1e-12, 3e-3)]
    found = rival_answer(folder, way="plain", settings=tried)
    areas = [one.pop("auc") for one in found["tried"]]
    assert found["tried"] == tried
    assert found["chosen"] == tried[int(np.argmax(areas))]
    assert found["choosing_s"] > found["learning_s"] > 0


def test_a_rival_chooses_on_whole_patients_that_do_not_teach(folder):
    with np.load(folder / "films.npz") as stored:
        films = Films(pixels={16: stored["side_16"]}, label=stored["label"], patient=stored["patient"])
    parts = inner_folds(films, 3)
    assert sorted(np.concatenate([ask for _, ask in parts])) == list(range(36))
    for teach, ask in parts:
        assert not set(films.patient[teach]) & set(films.patient[ask])
    assert Setting(side=16, epochs=1, rate=1e-3).side in films.pixels


def test_the_meter_counts_the_processes_that_nobody_waits_for(tmp_path):
    work = "import time; end = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    orphan = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {work!r}]); time.sleep(2)"
    cost = tmp_path / "costs" / "job.json"
    metered(cost, [sys.executable, "-c", orphan])
    found = read_json(cost)
    assert found["seconds"] > 0.4
    assert found["peak"] > 2**20
    assert not found["torn"]
    metered(cost, ["no-such-command"])  # what was run is not run again


def test_a_command_that_fails_says_so_and_is_torn_when_it_goes_on(tmp_path):
    cost = tmp_path / "job.json"
    with pytest.raises(SystemExit, match="a reason"):
        metered(cost, [sys.executable, "-c", "raise SystemExit('a reason')"])
    assert not cost.exists()
    metered(cost, [sys.executable, "-c", ""])
    assert read_json(cost)["torn"]


def test_a_folder_keeps_to_its_settings(tmp_path):
    first = real.parse(["--work", str(tmp_path), "--set", "epochs=1"])
    real.require_same_settings(first)
    real.require_same_settings(first)
    with pytest.raises(SystemExit, match="another --work"):
        real.require_same_settings(real.parse(["--work", str(tmp_path)]))
    with pytest.raises(SystemExit):
        real.parse(["--ways", "plane"])


def test_every_way_has_its_commands():
    assert {name for names in real.WAYS.values() for name in names} == set(real.COMMANDS)
