"""orchestrator/progress.py, and the Board of cli/console.py: a table on a terminal, a line per event elsewhere."""

import io

import pytest
from rich.console import Console

from orchestrator.cli.console import Board
from orchestrator.progress import COLUMNS

ROW = {"epoch": 2, "train_loss": 0.5, "select_auc": 0.75, "images_per_second": 123.4, "seconds": 40.0}
DONE = {"status": "ok", "best_epoch": 3, "selection_rule": "auc"}


def planned(job="edema/0", finished=False, outcome=None):
    return {"event": "planned", "job": job, "finished": finished, "epochs": 5, "outcome": outcome}


def board_of(*events):
    said = []
    board = Board(Console(file=io.StringIO()), said.append)
    for event in events:
        board.on_event(event)
    return board, said


def drawn(board):
    """The table as text, a list of lines."""
    console = Console(file=io.StringIO(), width=200)
    console.print(board.table())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_one_line_per_event_without_a_terminal():
    _, said = board_of(
        planned(),
        {"event": "started", "job": "edema/0", "attempt": 1},
        {"event": "epoch", "job": "edema/0", "row": ROW, "epochs": 5},
        {"event": "finished", "job": "edema/0", "outcome": DONE},
    )
    assert said == [
        "edema: waiting",
        "edema: training",
        "edema: epoch 2/5, loss 0.500, select AUC 0.750, 123 images/s, 2:00 to go",
        "edema: ok (best epoch 3)",
    ]


def test_the_table_shows_every_targets_state():
    board, _ = board_of(
        planned("edema/0"),
        planned("edema/1"),
        planned("fracture/0", finished=True, outcome=DONE),
        {"event": "started", "job": "edema/1", "attempt": 2},
        {"event": "epoch", "job": "edema/1", "row": ROW, "epochs": 5},
    )
    lines = drawn(board)
    assert all(title in lines[0] for title in COLUMNS)
    assert [line.split()[:2] for line in lines[1:]] == [
        ["edema", "waiting"],
        ["edema/1", "training"],
        ["fracture", "ok"],
    ]
    assert lines[2].split()[2:] == ["2/5", "0.500", "0.750", "123", "2:00", "attempt", "2"]
    assert "was finished already" in lines[3]


def test_a_failure_shows_its_reason_and_brackets_are_no_markup():
    error = "ValueError: wrong [/red] in the [training] table of [bold]edema.toml"
    board, said = board_of(
        planned(), {"event": "finished", "job": "edema/0", "outcome": {"status": "failed", "error": error}}
    )
    assert said[-1] == f"edema: failed ({error})"
    assert error in drawn(board)[1]


@pytest.mark.parametrize("auc", [None, float("nan")])
def test_an_auc_that_does_not_exist_stays_empty(auc):
    _, said = board_of(planned(), {"event": "epoch", "job": "edema/0", "row": ROW | {"select_auc": auc}, "epochs": 5})
    assert said[-1] == "edema: epoch 2/5, loss 0.500, 123 images/s, 2:00 to go"


def test_another_rule_than_auc_is_told():
    _, said = board_of(
        planned(), {"event": "finished", "job": "edema/0", "outcome": DONE | {"selection_rule": "log_loss"}}
    )
    assert said[-1] == "edema: ok (best epoch 3, by log_loss)"


def test_on_a_terminal_the_table_is_drawn_and_nothing_said():
    said = []
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Board(console, said.append) as board:
        board.on_event(planned())
    assert not said
    assert "edema" in console.file.getvalue()


def test_a_last_epoch_that_nobody_chose_is_no_best_one():
    _, said = board_of(
        planned(), {"event": "finished", "job": "edema/0", "outcome": DONE | {"selection_rule": "last_epoch"}}
    )
    assert said[-1] == "edema: ok (the last epoch, 3)"


def test_the_folds_of_a_finding_are_one_line():
    jobs = [f"{slug}/{fold}" for slug in ("shared", "edema", "fracture") for fold in range(3)]
    board, _ = board_of(
        *(planned(job) | {"folds": 3} for job in jobs),
        *({"event": "finished", "job": f"shared/{fold}", "outcome": DONE} for fold in range(3)),
        {"event": "finished", "job": "edema/0", "outcome": DONE},
        {"event": "started", "job": "edema/1", "attempt": 1},
        {"event": "epoch", "job": "edema/1", "row": ROW | {"select_auc": None}, "epochs": 5},
        {"event": "started", "job": "edema/2", "attempt": 1},
        {"event": "epoch", "job": "edema/2", "row": ROW | {"train_loss": 0.7, "epoch": 1}, "epochs": 5},
        {"event": "finished", "job": "fracture/1", "outcome": {"status": "nan", "error": "no number"}},
    )
    lines = [line.split() for line in drawn(board)[1:]]
    assert lines == [
        ["shared", "ok", "3", "of", "3", "done", "best", "epoch", "3"],
        ["edema", "training", "1", "of", "3", "done", "0.600", "0.750", "247", "2:40"],
        ["fracture", "1", "failed", "1", "of", "3", "done", "no", "number"],
    ]


def test_the_recipe_is_told_on_its_own_line():
    _, said = board_of({"event": "recipe", "text": "Recipe: [5] folds"})
    assert said == ["Recipe: [5] folds"]
