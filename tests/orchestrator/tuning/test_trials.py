"""Trials as files: how they end, which is best, what is kept; and the halving that is told of them."""

import json
from types import SimpleNamespace

from models.files.layout import RunPaths, TargetPaths, read_json, write_json
from orchestrator.tuning.trials import SearchPaths, bury_trial, drop_checkpoints, ranked, read_trials, stop_trial


def finished_trial(paths: TargetPaths, rows=(), **outcome):
    """A trial's folder by hand."""
    attempt = paths.new_attempt()
    attempt.history.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in (attempt.checkpoint, attempt.best, paths.weights):
        file.write_bytes(b"x")
    write_json(paths.config, {"config": {}})
    if outcome:
        write_json(paths.outcome, outcome)


def row(epoch, score):
    return {"epoch": epoch, "select_score": score}


def test_a_stopped_trial_keeps_its_epoch_and_its_best_score(tmp_path):
    search = SearchPaths(RunPaths(tmp_path), "edema")
    finished_trial(search.trial(0), [row(1, 0.6), row(2, 0.8), row(3, 0.7)])
    stop_trial(search.trial(0))
    outcome = read_json(search.trial(0).outcome)
    assert (outcome["status"], outcome["attempt"]) == ("stopped", 1)
    assert (outcome["best_epoch"], outcome["select_score"], outcome["epochs_trained"]) == (2, 0.8, 3)
    assert ranked(read_trials(search)) == []  # nothing to combine or predict with


def test_a_death_does_not_overwrite_an_outcome(tmp_path):
    search = SearchPaths(RunPaths(tmp_path), "edema")
    finished_trial(search.trial(0), status="ok", select_score=0.7)
    bury_trial(search.trial(0), "gone")
    assert read_json(search.trial(0).outcome)["status"] == "ok"
    finished_trial(search.trial(1))
    bury_trial(search.trial(1), "gone")
    assert read_json(search.trial(1).outcome)["error"] == "gone"


def test_of_equal_scores_the_earlier_trial_is_the_better(tmp_path):
    search = SearchPaths(RunPaths(tmp_path), "edema")
    for number, score in enumerate((0.7, 0.8, 0.8, None)):
        finished_trial(search.trial(number), status="ok" if score else "nan", select_score=score)
    assert [trial.number for trial in ranked(read_trials(search))] == [1, 2, 0]


def test_a_running_trial_keeps_its_checkpoint_whatever_the_others_do(tmp_path):
    search = SearchPaths(RunPaths(tmp_path), "edema")
    for number, score in enumerate((0.7, 0.9, None)):
        finished_trial(search.trial(number), **({"status": "ok", "select_score": score} if score else {}))
    drop_checkpoints(read_trials(search), keep=1)
    assert [search.trial(number).weights.exists() for number in range(3)] == [False, True, True]
    assert [search.trial(number).attempt(1).checkpoint.exists() for number in range(3)] == [False, False, True]


def halving_over(tmp_path, epochs=6):
    from orchestrator.tuning.executors import Halving

    search = SearchPaths(RunPaths(tmp_path), "edema")
    halving = Halving(SimpleNamespace(paths=search), epochs)
    for number in range(1, 5):
        halving.follow(number)
    return halving


def test_halving_stops_the_worse_half_at_a_rung_but_not_the_defaults_nor_the_last_epoch(tmp_path):
    halving = halving_over(tmp_path)  # rungs at epochs 2 and 4
    for number, score in zip(range(1, 5), (0.9, 0.8, 0.7, 0.6), strict=True):
        for epoch in range(1, 7):
            assert not halving.worse(number, epoch, score)  # too few peers
    for number in (0, 5, 6, 7):
        halving.follow(number)
    assert not halving.worse(5, 1, 0.1)
    assert halving.worse(5, 2, 0.1)
    assert not halving.worse(0, 2, 0.1)
    assert not halving.worse(6, 2, 0.95)
    assert halving.worse(6, 4, 0.1)
    assert not halving.worse(7, 6, 0.1)  # it has done its work already


def test_halving_knows_the_finished_trials_of_an_earlier_command(tmp_path):
    search = SearchPaths(RunPaths(tmp_path), "edema")
    for number in range(4):
        finished_trial(search.trial(number), [row(1, 0.7), row(2, 0.8)], status="ok", select_score=0.8)
    halving = halving_over(tmp_path)
    halving.follow(9)
    assert halving.worse(9, 2, 0.5)
