"""bench/twelve_or_one.py: the judgement on a made-up table; the training behind it is that of `hilum train`."""

import numpy as np
import pandas as pd
import pytest

from bench.twelve_or_one import IN_DOMAIN, Row, judge, own, parse
from bench.twelve_or_one import table as shown
from models.files.layout import RunPaths
from orchestrator.evaluation.compare_runs import BLEND


def pooled(noises: dict[str, tuple[float, float]], films: int = 400, share: float = 0.4) -> pd.DataFrame:
    """Scores with these noises (single, shared); the blend is their mean."""
    draws, parts = np.random.default_rng(0), []
    for slug, noise in noises.items():
        truth = (draws.random(films) < share).astype(float)
        single, shared = (2 * truth - 1 + one * draws.normal(size=films) for one in noise)
        table = {"patient_id": [f"p{number // 2}" for number in range(films)], "slug": slug, "truth": truth}
        table |= {"single": single, "shared": shared, BLEND: (single + shared) / 2}
        parts.append(pd.DataFrame(table))
    return pd.concat(parts, ignore_index=True)


def rows_of(*args, **words) -> dict[str, Row]:
    return {row.slug: row for row in judge(pooled(*args, **words))}


def test_a_blend_with_a_useless_partner_fails_and_one_of_equals_does_not():
    rows = rows_of({"edema": (2.0, 2.0), "pneumonia": (0.5, 8.0)})
    assert not rows["edema"].failed
    assert rows["edema"].blend_gap.value > 0
    assert rows["pneumonia"].failed
    assert rows["pneumonia"].gap.low > 0
    titles, lines = shown(list(rows.values()))
    assert [line[-1] for line in lines] == ["", "WORSE"]
    assert {len(line) for line in lines} == {len(titles)}


def test_a_finding_with_few_cases_cannot_fail():
    row = rows_of({"pneumonia": (0.5, 8.0)}, share=0.03)["pneumonia"]
    assert row.blend_gap.value < 0
    assert row.problem == "underpowered"
    assert not row.failed


def test_what_can_be_asked_of_it():
    options = parse(["--folds", "2", "--set", "epochs=1", "--shared-set", "epochs=5"])
    assert (options.folds, options.set, options.shared_set) == (2, ["epochs=1"], ["epochs=5"])
    with pytest.raises(SystemExit):
        parse(["--folds", "6"])


def test_a_findings_own_network_starts_from_the_shared_one_unless_told_not_to(tmp_path):
    run = RunPaths(tmp_path / "run")
    start = f"init={run.root / 'shared' / '0'}"
    assert own(parse(["--single-set", "epochs=2"]), run) == [*IN_DOMAIN, start, "epochs=2"]
    assert own(parse(["--from-scratch", "--single-set", "epochs=2"]), run) == ["epochs=2"]
