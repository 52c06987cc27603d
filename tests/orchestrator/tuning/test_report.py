"""What a search says of itself: fair to the defaults, silent about chance, one row per finding, one picture."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from models.files.layout import RunPaths, read_json, write_json
from models.training.selection import selection_rule
from orchestrator.datasets.labelled import read_material
from orchestrator.tuning import report
from orchestrator.tuning.report import (
    COLUMNS,
    compare,
    compare_all,
    importances,
    table_rows,
    trials_table,
    write_report,
)
from orchestrator.tuning.space import Dimension
from orchestrator.tuning.trials import SearchPaths, Trial, read_trials
from tests.small_data import make_dataset

SPACE = (
    Dimension(field="learning_rate", low=1e-4, high=1e-2, log=True, reason=""),
    Dimension(field="dropout", low=0.0, high=0.5, reason=""),
    Dimension(field="loss", choices=("bce", "focal"), reason=""),
)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return read_material(make_dataset(tmp_path_factory.mktemp("data") / "dataset", ("pneumonia",), films=720))


def make_search(root, material, noises, statuses=()):
    """A search by hand: trial i's logits are the truth of every film plus that much noise."""
    paths = SearchPaths(RunPaths(root), "pneumonia")
    draws = np.random.default_rng(0)
    truth = material.frame["pneumonia"].to_numpy()
    for number, noise in enumerate(noises):
        status = statuses[number] if statuses else "ok"
        config = {"learning_rate": 10 ** draws.uniform(-4, -2), "dropout": draws.uniform(0, 0.5),
                  "loss": ("bce", "focal")[number % 2]}  # fmt: skip
        trial = paths.trial(number)
        write_json(trial.config, {"config": config})
        logit = (truth + noise * draws.standard_normal(len(truth))).astype(np.float32)
        table = {"image_id": material.frame["image_id"], "part": material.parts, "logit": logit}
        if status == "ok":
            pd.DataFrame(table).to_parquet(trial.predictions)
        score = None if status == "nan" else 1 / (1 + noise)
        write_json(trial.outcome, {"status": status, "select_score": score, "best_epoch": 1, "epochs_trained": 2,
                                   "started": f"2026-01-01T10:{number:02d}:00+00:00",
                                   "ended": f"2026-01-01T10:{number:02d}:50+00:00"})  # fmt: skip
    rule = selection_rule(np.array([0, 1] * 30))
    request = SimpleNamespace(trials=len(noises))
    return SimpleNamespace(paths=paths, slug="pneumonia", material=material, space=SPACE, rule=rule, request=request)


def test_a_better_winner_is_shown_as_better_on_calibrate(material, tmp_path):
    seen = compare(make_search(tmp_path, material, [2.0, 0.2]))
    assert seen.verdict == "tuned is better"
    assert seen.difference == pytest.approx(seen.tuned - seen.default)
    assert 0 < seen.low <= seen.difference <= seen.high


def test_verdicts_of_many_findings_are_adjusted_for_their_number(material, tmp_path, monkeypatch):
    """A winner that is just better by itself is not among twenty like it; the figures stay."""
    search = make_search(tmp_path, material, [2.0, 0.2])
    alone = compare(search)
    monkeypatch.setattr(report, "compare", lambda one: dataclasses.replace(alone, p=0.01))
    many = compare_all({f"finding{number}": search for number in range(20)})
    assert {one.verdict for one in many.values()} == {"no difference shown"}
    assert {(one.difference, one.low) for one in many.values()} == {(alone.difference, alone.low)}
    assert compare_all({"pneumonia": search})["pneumonia"].verdict == "tuned is better"


def test_a_winner_that_loses_on_calibrate_is_shown_all_the_same(material, tmp_path):
    """Trial 1 won on `select` by luck; on `calibrate` it is noise."""
    search = make_search(tmp_path, material, [0.2, 5.0])
    lucky = search.paths.trial(1).outcome
    write_json(lucky, read_json(lucky) | {"select_score": 0.99})
    seen = compare(search)
    assert seen.verdict == "tuned is WORSE"
    assert seen.high < 0
    assert "tuned is WORSE" in table_rows({"pneumonia": search})[0]


def test_a_winner_like_the_defaults_is_not_called_better(material, tmp_path):
    assert compare(make_search(tmp_path / "a", material, [1.0, 0.99])).verdict == "no difference shown"
    same = compare(make_search(tmp_path / "b", material, [0.5, 1.0]))
    assert (same.verdict, same.difference) == ("the defaults stand", 0.0)


@pytest.mark.parametrize("statuses", [("nan", "ok"), ("ok", "nan"), ("nan", "nan")])
def test_failed_trials_leave_a_sentence_or_the_defaults(material, tmp_path, statuses):
    seen = compare(make_search(tmp_path, material, [1.0, 0.5], statuses))
    assert seen.verdict == ("the defaults stand" if statuses[0] == "ok" else
                            "no comparison without a finished trial of the defaults")  # fmt: skip


def trials_of(score, count=40, seed=1):
    draws = np.random.default_rng(seed)
    made = []
    for number in range(count):
        config = {"learning_rate": 10 ** draws.uniform(-4, -2), "dropout": draws.uniform(0, 0.5),
                  "loss": ("bce", "focal")[draws.integers(2)]}  # fmt: skip
        outcome = {"status": "ok", "select_score": score(config, draws)}
        made.append(Trial(slug="edema", number=number, paths=None, config=config, outcome=outcome))
    return made


def test_what_decides_the_score_comes_first_and_what_does_not_stays_within_chance():
    found = importances(trials_of(lambda c, _: c["learning_rate"]), SPACE)
    assert found[0].field == "learning_rate"
    assert found[0].share == pytest.approx(1.0)
    assert all(one.share < 0.2 for one in found[1:])
    choice = importances(trials_of(lambda c, draws: (c["loss"] == "focal") + 0.1 * draws.random()), SPACE)
    assert choice[0].field == "loss"
    assert choice[0].share > choice[0].chance


def test_scores_by_chance_make_nothing_matter_more_often_than_stated():
    beyond = 0
    for seed in range(20):
        found = importances(trials_of(lambda _, draws: draws.random(), 24, seed), SPACE)
        beyond += sum(one.share > one.chance for one in found)
    assert beyond <= 9  # 60 looks at a level of 5 %: 3 are expected, more than 9 come once in a thousand


def test_equal_scores_and_few_trials_say_nothing():
    assert importances(trials_of(lambda *_: 0.5), SPACE)[0].share == 0
    assert importances(trials_of(lambda c, _: c["dropout"], count=4), SPACE) == []


def test_table_and_pictures(material, tmp_path):
    search = make_search(tmp_path, material, [1.0, 0.5, 0.7, 3.0, 2.0, 0.9],
                         ("ok", "ok", "stopped", "nan", "ok", "ok"))  # fmt: skip
    searches = {"pneumonia": search}
    [row] = table_rows(searches)
    assert len(row) == len(COLUMNS)
    named = dict(zip(COLUMNS, row, strict=True))
    assert (named["trials"], named["ok"], named["stopped"], named["failed"]) == ("6", "4", "1", "1")
    assert named["trial"] == "1"
    written = write_report(searches)
    assert [path.name for path in written] == ["pneumonia.png", "trials.csv"]
    assert written[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = pd.read_csv(written[1])
    assert len(table) == len(trials_table(searches)) == len(read_trials(search.paths))
    assert table["learning_rate"].tolist() == [trial.config["learning_rate"] for trial in read_trials(search.paths)]


def test_a_finding_without_any_scored_trial_has_a_row_and_no_picture(material, tmp_path):
    search = make_search(tmp_path, material, [1.0], ("nan",))
    assert len(table_rows({"pneumonia": search})) == 1
    assert [path.name for path in write_report({"pneumonia": search})] == ["trials.csv"]
