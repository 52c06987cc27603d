"""bench/scale.py and bench/overhead.py: their arithmetic, and the scale bench once on the smallest size."""

import pytest

from bench import overhead, scale
from models.files.layout import read_json


def measured(jobs: int, seconds: float) -> scale.Measured:
    return scale.Measured(jobs=jobs, plan=seconds / 2, dispatch=seconds / 2)


def test_linear_growth_passes_and_quadratic_growth_does_not():
    assert not scale.too_steep([measured(12, 3), measured(120, 2), measured(1200, 20), measured(12000, 220)])
    plan, dispatch = scale.too_steep([measured(12, 3), measured(120, 2), measured(1200, 200)])
    assert "From 120 to 1,200 jobs, plan costs 10.00 times as much a job" in plan
    assert "dispatch costs 10.00 times" in dispatch


def test_the_rate_counts_dispatch_alone():
    row = scale.Measured(jobs=120, plan=10, dispatch=4, ledger=0.5, lines=122, memory=2**21)
    assert row.cells() == ["120", "10.00", "4.00", "30", "0.500", "122", "2", "116.7"]


def test_no_operation_leaves_a_whole_outcome(tmp_path):
    assert scale.no_operation("", str(tmp_path)) == "ok"
    assert read_json(tmp_path / "outcome.json")["status"] == "ok"


@pytest.mark.parametrize("words", [["--help"], ["--jobs", "13"]])
def test_the_command_line(words, capsys):
    with pytest.raises(SystemExit) as end:
        scale.main(words)
    assert end.value.code == (0 if words == ["--help"] else 2)
    with pytest.raises(SystemExit):
        overhead.main(["--help"])


def test_the_middle_of_three_rounds():
    rows = [overhead.Timing(wall=x, start=1, imports=1, training=x, write=0, dispatch=0) for x in (5.0, 1.0, 3.0)]
    assert overhead.middle(rows).wall == 3.0


@pytest.mark.ray
def test_twelve_jobs_on_a_simulated_node(capsys):
    assert scale.main(["--jobs", "12", "--nodes", "1", "--check"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[1].split()[0] == "12"
    assert "No worse than linear." in said
