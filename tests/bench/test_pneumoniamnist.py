"""The benchmark on PneumoniaMNIST: what chooses, what is judged, and that no label of the test part is within reach."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import pneumoniamnist as bench
from bench.pneumoniamnist import Choice, equal_error, judge, time_faults

CHOICE = Choice(candidate="plain", threshold=0.5, auc=0.99, accuracy=0.95)


@pytest.fixture
def options(tmp_path, monkeypatch):
    draws = np.random.default_rng(0)
    parts = {"train": 40, "val": 12, "test": 9}
    arrays = {f"{part}_images": draws.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in parts.items()}
    arrays |= {f"{part}_labels": draws.integers(0, 2, (n, 1)) for part, n in parts.items()}
    np.savez(tmp_path / "films.npz", **arrays)
    monkeypatch.setattr(bench, "DATA", tmp_path / "films.npz")
    return bench.parse(["--work", str(tmp_path / "work")])


def labels_of(dataset):
    return pd.read_parquet(dataset / "labels.parquet").set_index("image_id")["pneumonia"]


def parts_of(dataset):
    return pd.read_csv(dataset / "split.csv").set_index("image_id")["part"]


def test_a_network_learns_from_one_kind_and_is_asked_about_all_others(options):
    films = bench.write_films(options)
    parts = [parts_of(bench.kind_dataset(options, films, kind)) for kind in range(bench.KINDS)]
    unseen = pd.concat([part[part == "calibrate"] for part in parts]).index
    assert sorted(unseen) == sorted([*films.loc[films["split"] != "test", "path"]] * (bench.KINDS - 1))
    learnt = pd.concat([part[part != "calibrate"] for part in parts]).index
    assert sorted(learnt) == sorted(films.loc[films["split"] != "test", "path"])
    assert {"train", "select", "calibrate"} == set(pd.concat(parts))


def test_a_trial_takes_films_from_all_over_a_part(options):
    """The official parts are not shuffled everywhere: their first films may be of one class."""
    whole = bench.write_films(options)
    options.films = 10
    some = bench.write_films(options)
    assert some.groupby("split").size().to_dict() == {"train": 10, "val": 10, "test": 9}
    assert {"train/0000.png", "train/0039.png", "val/0011.png"} <= set(some["path"])
    known = whole.set_index("path")["pneumonia"]
    assert (known[some["path"]].to_numpy() == some["pneumonia"]).all()


def test_a_kind_holds_films_of_like_appearance(options):
    """The films' brightness comes in three steps, beside a larger one of the ill: a kind is one of the three."""
    draws = np.random.default_rng(3)
    names, truth, step = [], draws.integers(0, 2, 60), np.arange(60) % 3
    for number in range(60):
        film = draws.normal(40 + 30 * step[number] + 120 * truth[number], 4, (28, 28)).clip(0, 255).astype(np.uint8)
        names.append(f"train/{number:04d}.png")
        path = options.work / "films" / names[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(film).save(path)
    kinds = bench.appearance(options, pd.DataFrame({"path": names, "pneumonia": truth}))
    assert pd.crosstab(kinds, step).gt(0).sum().sum() == bench.KINDS
    assert set(kinds) == set(range(bench.KINDS))


def test_single_networks_are_of_one_kind_and_groups_alike(options):
    single = [number for number, own in enumerate(bench.MEMBERS) if not own]
    assert len(single) >= bench.SINGLES
    films, logits = members(2.5)
    logits[[number for number in range(len(logits)) if number not in single]] *= -1  # the other kind is always wrong
    _, faults = judge(films, logits, CHOICE)
    assert not [text for text in faults if text.startswith("single")]
    assert [text for text in faults if text.startswith("ensemble")]


def test_the_labels_of_the_test_part_are_not_prepared(options):
    films = bench.write_films(options)
    dataset = bench.final_dataset(options, films)
    parts = parts_of(dataset)
    official = films.set_index("path")["split"].map({"train": "train", "val": "select", "test": "test"})
    assert parts.to_dict() == official.to_dict()
    known = labels_of(dataset).notna()
    assert (known[parts.index] == (parts != "test")).all()


def test_the_threshold_does_not_follow_the_share_of_the_ill():
    draws = np.random.default_rng(1)
    ill, well = draws.beta(5, 2, 400), draws.beta(2, 5, 400)
    few = equal_error(np.concatenate([ill, well]), np.repeat([1.0, 0.0], 400))
    many = equal_error(np.concatenate([np.repeat(ill, 9), well]), np.repeat([1.0, 0.0], [3600, 400]))
    assert few == pytest.approx(many, abs=0.01)
    assert np.mean(ill >= few) == pytest.approx(np.mean(well < few), abs=0.01)


def members(noise):
    """Films and the logits of all members: the truth and noise of each member's own."""
    draws = np.random.default_rng(2)
    truth = np.repeat([0, 1], 150)
    films = pd.DataFrame({"path": [f"test/{k:04d}.png" for k in range(300)], "split": "test", "pneumonia": truth})
    return films, 4.0 * (2 * truth - 1) + draws.normal(0, noise, (len(bench.MEMBERS), 300))


def test_good_networks_reach_what_is_stated_and_noise_does_not():
    rows, faults = judge(*members(2.5), CHOICE)
    assert not faults
    assert float(rows[1][1].split()[0]) > float(rows[0][1].split()[0]), "the mean of members is above one of them"
    _, faults = judge(*members(40.0), CHOICE)
    assert [text.split(",")[0][:12] for text in faults] == ["single mean ", "single mean ", "ensemble AUC"]


def test_the_accuracy_that_counts_is_at_the_threshold_that_was_named():
    """A threshold that was chosen badly is not made good by one half, whose accuracy is above what is stated."""
    films, logits = members(2.5)
    rows, faults = judge(films, logits, replace(CHOICE, threshold=0.9999))
    assert float(rows[0][2]) > bench.SINGLE_ACCURACY > float(rows[0][3])
    assert [text for text in faults if "at the chosen threshold" in text]


def test_an_ensemble_of_the_same_network_is_not_above_it():
    films, logits = members(2.5)
    _, faults = judge(films, np.repeat(logits[:1], len(bench.MEMBERS), axis=0), CHOICE)
    assert faults[-1:] == ["the ensemble is not above the single networks"]


def test_the_time_is_judged_only_where_all_of_it_was_seen():
    assert not time_faults(bench.MINUTES, resumed=False)
    assert "at most 90" in time_faults(bench.MINUTES + 1, resumed=False)[0]
    assert "not known" in time_faults(1, resumed=True)[0]


def test_networks_train_half_as_long_without_bf16_unless_told_otherwise(monkeypatch):
    epochs = {}
    for here in ("bf16", "fp32"):
        monkeypatch.setattr(bench, "cpu_precision", lambda here=here: here)
        words = [[], ["--set", "precision=fp32"], ["--set", "precision=auto"], ["--set", "epochs=3"]]
        epochs[here] = [int(bench.common(bench.parse(one))["epochs"]) for one in words]
    assert epochs == {"bf16": [24, 12, 24, 3], "fp32": [12, 12, 12, 3]}
