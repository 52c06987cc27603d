"""hilum compare: who is better, where, at what cost; only on the same films; readings of the test labels are logged."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from models.files.layout import RunPaths, append_json_line, read_json, read_json_lines, write_json
from models.statistics.bootstrap import Interval, PatientBootstrap, holm, p_value, paired_difference
from orchestrator.cli.app import app
from orchestrator.evaluation.compare_runs import CompareRequest, adjusted, compare_runs, comparison_rows
from orchestrator.evaluation.compare_runs_report import comparison_sentences
from orchestrator.evaluation.training_cost import compute_ratio
from orchestrator.storage.mirror import Mirror
from orchestrator.storage.object_store import Store
from tests.fake_run import FILMS, add_fake_shared, make_fake_dataset, make_logits, make_truth, write_fake_run
from tests.small_data import label_frame, make_targets, parts_of

SLUGS = ("edema", "pneumonia", "pneumothorax")


def logits_of(noise, seed):
    return {slug: make_logits(make_truth()[slug], one, seed + 7 * index)
            for index, (slug, one) in enumerate(zip(SLUGS, noise, strict=True))}  # fmt: skip


def add_costs(run, epochs=4, **config):
    """What a training leaves of its cost, in every folder of a made-up run."""
    for name in read_json(RunPaths(run).plan)["jobs"]:
        slug, member = name.split("/")
        paths = RunPaths(run).shared(0) if slug == "shared" else RunPaths(run).target(slug, int(member))
        make_targets(make_truth()["edema"]).save(paths.targets)
        write_json(paths.outcome, read_json(paths.outcome) | {"epochs_trained": epochs})
        payload = read_json(paths.config)
        write_json(paths.config, payload | {"config": payload["config"] | config})
        for epoch in range(epochs):
            append_json_line(paths.attempt(1).history, {"epoch": epoch + 1, "seconds": 2.0})
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """run: single networks that know pneumothorax better than the shared one; other: shared alone, twice as long."""
    root = tmp_path_factory.mktemp("compare")
    dataset = make_fake_dataset(root / "dataset")
    single = {slug: [one] for slug, one in logits_of((1.5, 1.5, 0.6), 0).items()}
    write_fake_run(root / "run", dataset, single)
    add_fake_shared(root / "run", dataset, logits_of((1.5, 1.4, 3.0), 50))
    add_costs(root / "run")
    write_fake_run(root / "other", dataset, {})
    add_fake_shared(root / "other", dataset, logits_of((1.0, 1.0, 0.6), 90))
    add_costs(root / "other", epochs=12)
    return root


def compared(place, **changes):
    request = {"run_a": place / "run", "run_b": place / "run", "use_a": "single", "use_b": "shared", "resamples": 300}
    return compare_runs(CompareRequest(**(request | changes)))


def test_each_finding_has_its_paired_difference(place):
    found = compared(place)
    rows = {row.slug: row for row in found.rows}
    assert rows["pneumothorax"].better == "single"
    assert rows["pneumothorax"].gap.low > 0
    assert rows["edema"].better == "no difference shown"
    frame = label_frame(make_truth())
    here = np.flatnonzero(parts_of(frame) == "calibrate")
    here = here[np.argsort(frame["image_id"].to_numpy(str)[here])]
    single, shared = logits_of((1.5, 1.5, 0.6), 0), logits_of((1.5, 1.4, 3.0), 50)
    bootstrap = PatientBootstrap(frame["patient_id"].to_numpy(str)[here], resamples=300)
    for slug, row in rows.items():
        gap = paired_difference(bootstrap, single[slug][here], shared[slug][here], make_truth()[slug][here])
        assert dataclasses.astuple(row.gap) == pytest.approx(dataclasses.astuple(gap))
        assert row.positives == make_truth()[slug][here].sum()
        truth = make_truth()[slug][here]
        one, other = (bootstrap.rank_scores(side[slug][here], truth)["auc"] for side in (single, shared))
        assert row.p == p_value(one - other)
    assert [row.p_holm for row in found.rows] == holm([row.p for row in found.rows]).tolist()
    assert found.mean_gap.value == pytest.approx(np.mean([row.gap.value for row in found.rows]))
    assert (found.films, found.patients) == (140, 70)


def test_a_dozen_intervals_are_no_dozen_verdicts(place):
    """Each of 12 findings is .03 by itself, and none once it is known that they are 12; one of .001 stays."""
    found = compared(place)
    like = dataclasses.replace(found.rows[0], gap=Interval(value=0.1, low=0.01, high=0.2), p=0.03, problem="")
    assert not any(row.better == "single" for row in adjusted([like] * 12, found.names))
    rows = adjusted([*[like] * 11, dataclasses.replace(like, slug="mass", p=0.001)], found.names)
    assert [row.slug for row in rows if row.better == "single"] == ["mass"]
    assert rows[-1].p_holm == pytest.approx(0.012)
    weak = adjusted([like, *[dataclasses.replace(like, problem="underpowered")] * 11], found.names)
    assert [row.better for row in weak] == ["single"] + ["no difference shown"] * 11  # what cannot be judged is no test
    said = comparison_sentences(dataclasses.replace(found, rows=tuple(rows)))
    assert any("adjusted after Holm for the 12 findings judged" in line for line in said)
    assert "worth 3.0 times the compute for mass; for the other 11" in said[-1]
    few = compared(place, resamples=50)
    assert any("50 resamples are too few" in line and "give --resamples 120." in line for line in few.notes)
    assert not any("too few" in line for line in found.notes)


def test_the_sides_may_change_places(place):
    first, second = compared(place), compared(place, use_a="shared", use_b="single")
    for one, other in zip(first.rows, second.rows, strict=True):
        assert one.gap.value == pytest.approx(-other.gap.value)
        assert one.gap.low == pytest.approx(-other.gap.high)
        assert one.better == other.better


def test_members_count_as_the_mean_of_their_logits(place, tmp_path):
    two = {"edema": [make_logits(make_truth()["edema"], 1.5, seed) for seed in (1, 2)]}
    mean = {"edema": [(two["edema"][0] + two["edema"][1]) / 2]}
    for name, logits in (("two", two), ("mean", mean)):
        add_costs(write_fake_run(tmp_path / name, place / "dataset", logits))
    found = compared(place, run_a=tmp_path / "two", run_b=tmp_path / "mean", use_b="single")
    assert found.rows[0].gap.value == pytest.approx(0)
    assert [cost.networks for cost in found.costs] == [2, 1]


def test_costs_are_of_networks_not_of_findings(place):
    found = compared(place)
    single, shared = found.costs
    films = 704  # 700 in train, filled up to whole batches of 32
    assert (single.networks, single.passes, single.seconds) == (3, 3 * 4 * films, 24.0)
    assert (shared.networks, shared.passes, shared.epochs) == (1, 4 * films, (4,))
    assert compute_ratio(single, shared)[0] == pytest.approx(3)
    slow = dataclasses.replace(single, backbones=("resnet34",))
    assert compute_ratio(slow, shared) == (3.0, "seconds, since the backbones differ")


def test_it_says_whether_epochs_or_compute_are_equal(place):
    equal_epochs = " ".join(comparison_sentences(compared(place)))
    assert "at equal epochs (4) and not at equal compute: single took 3.00 times" in equal_epochs
    assert "train shared with --set epochs=12" in equal_epochs
    equal_compute = " ".join(comparison_sentences(compared(place, run_b=place / "other")))
    assert "not at equal epochs and at equal compute: run took 1.00 times the compute of other" in equal_compute


def test_it_says_plainly_what_single_networks_are_worth(place):
    assert comparison_sentences(compared(place))[-1] == (
        "Networks of their own are worth 3.0 times the compute for pneumothorax; for the other 2 a shared network does "
        "as well or better (shared)."
    )
    found = compared(place, targets=("edema", "pneumonia"))
    assert "not worth it here: for none of the 2 findings" in comparison_sentences(found)[-1]
    weak = dataclasses.replace(
        found, rows=tuple(dataclasses.replace(row, problem="underpowered") for row in found.rows)
    )
    assert "cannot be said" in comparison_sentences(weak)[-1]
    assert "too few cases to judge edema, pneumonia" in comparison_sentences(weak)[-2]


def test_a_finding_with_few_cases_is_not_judged(tmp_path, place):
    dataset = shutil.copytree(place / "dataset", tmp_path / "dataset")
    import hashlib

    import pandas as pd

    frame = pd.read_parquet(dataset / "labels.parquet")
    frame.loc[frame.index[200:], ["edema", "pneumonia"]] = 0.0
    frame["lung_opacity"] = frame["edema"]
    frame.to_parquet(dataset / "labels.parquet", index=False)
    digest = hashlib.sha256((dataset / "labels.parquet").read_bytes()).hexdigest()
    write_json(dataset / "manifest.json", read_json(dataset / "manifest.json") | {"labels_sha256": digest})
    run = shutil.copytree(place / "run", tmp_path / "run")
    plan = read_json(run / "plan.json")
    write_json(run / "plan.json", plan | {"dataset": str(dataset), "data": plan["data"] | {"labels_sha256": digest}})
    rows = {row.slug: row for row in compared(place, run_a=run, run_b=run).rows}
    assert rows["edema"].problem == "underpowered"
    assert not rows["pneumothorax"].problem
    with pytest.raises(ValueError, match="cannot be compared: labels_sha256 differ"):
        compared(place, run_a=run)


def test_another_split_is_refused(place, tmp_path):
    run = shutil.copytree(place / "run", tmp_path / "run")
    plan = read_json(run / "plan.json")
    write_json(run / "plan.json", plan | {"data": plan["data"] | {"split_hash": "0"}})
    with pytest.raises(ValueError, match=r"cannot be compared: split_hash differ\. Only runs on the same data set"):
        compared(place, run_b=run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_b": "single"}, "Both sides are the same networks"),
        ({"part": "train"}, "on part calibrate, test, select; 'train' is none"),
        ({"use_a": "twelve"}, "Unknown choice of networks 'twelve'"),
        ({"targets": ("fracture",)}, "no finished training of its own of fracture"),
    ],
)
def test_wrong_requests(place, changes, message):
    with pytest.raises(ValueError, match=message):
        compared(place, **changes)


def test_a_reading_of_the_test_labels_is_logged_in_both_runs(place):
    compared(place)
    logs = [RunPaths(place / name).test_reads for name in ("run", "other")]
    assert not any(log.exists() for log in logs)
    found = compared(place, run_b=place / "other", part="test")
    assert found.films == FILMS // 9 * 2
    for log in logs:
        entry = read_json_lines(log)[-1]
        assert (entry["command"], entry["runs"], entry["use"]) == ("compare", ["run", "other"], ["single", "shared"])
        log.unlink()


def test_the_blend_stands_against_the_better_of_the_two(place):
    found = compared(place, blend=True)
    single, shared = logits_of((1.5, 1.5, 0.6), 0), logits_of((1.5, 1.4, 3.0), 50)
    frame = label_frame(make_truth())
    here = parts_of(frame) == "calibrate"
    bootstrap = PatientBootstrap(frame["patient_id"].to_numpy(str)[here], resamples=300)
    for row in found.rows:
        better = single if row.auc[0] >= row.auc[1] else shared
        mean = (single[row.slug] + shared[row.slug]) / 2
        gap = paired_difference(bootstrap, mean[here], better[row.slug][here], make_truth()[row.slug][here])
        assert row.blend_gap.value == pytest.approx(gap.value)
        assert (row.blend_gap.low, row.blend_gap.high) == pytest.approx((gap.low, gap.high))
    titles, lines = comparison_rows(found)
    assert titles[-2:] == ["AUC both blended", "against the better of the two"]
    assert {len(line) for line in lines} == {len(titles)}


def test_the_command_shows_a_table_or_json(place, capsys):
    words = ["compare", str(place / "run"), str(place / "run"), "--use-a", "single", "--use-b", "shared"]
    app(args=[*words, "--resamples", "50"], prog_name="hilum", standalone_mode=False)
    shown = capsys.readouterr().out
    assert "difference (95 % interval)" in shown
    assert "Judged on part calibrate: 140 films of 70 patients" in shown
    app(args=[*words, "--resamples", "50", "--json", "--blend"], prog_name="hilum", standalone_mode=False)
    data = json.loads(capsys.readouterr().out)
    assert [row["slug"] for row in data["rows"]] == list(SLUGS)
    assert data["sentences"]


def test_runs_and_their_data_set_may_lie_in_object_storage(place, storage, capsys):
    """The same figures as on this machine, under the runs' own names, and the reading is logged in the storage."""
    data, first, second = (f"{storage.uri}/{name}" for name in ("data", "run", "other"))
    for folder, uri in (("dataset", data), ("run", first), ("other", second)):
        Mirror(Store(uri), place / folder).push()
    words = ["--part", "test", "--resamples", "20", "--json"]
    app(["compare", first, second, "--dataset", data, *words], standalone_mode=False)
    away = json.loads(capsys.readouterr().out)
    before = read_json_lines(RunPaths(place / "run").test_reads)
    app(["compare", str(place / "run"), str(place / "other"), *words], standalone_mode=False)
    assert away == json.loads(capsys.readouterr().out)
    assert not any(path.endswith(".safetensors") for method, path in storage.requests if method == "GET")
    log = Store(first).read("test_reads.jsonl")[0].decode().splitlines()
    assert len(log) == len(before) + 1
    assert json.loads(log[-1])["runs"] == ["run", "other"]
    with pytest.raises(ValueError, match="Both sides are the same networks"):
        app(["compare", first, first, "--dataset", data], standalone_mode=False)
    app(["compare", first, first, "--dataset", data, "--use-a", "single", "--use-b", "shared", *words],
        standalone_mode=False)  # fmt: skip
    assert json.loads(capsys.readouterr().out)["names"] == ["single", "shared"]
    assert len(Store(first).read("test_reads.jsonl")[0].decode().splitlines()) == len(log) + 1
