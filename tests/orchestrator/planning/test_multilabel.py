"""`hilum train --shared`: what a shared network is taught, how a run holds it, and what is refused."""

import numpy as np
import pytest

from models.data.targets import Targets
from models.files.layout import RunPaths, read_json, read_json_lines, write_json
from orchestrator.cli.app import app
from orchestrator.planning.plan import TrainRequest, plan_run
from tests.small_data import disc_films, make_dataset, write_dataset
from tests.small_run import SETTINGS, train_inline

FILMS = 180
PAIR = ("edema", "pneumonia")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Edema and pneumonia with every kind of label; no fracture in train."""
    draws = np.random.default_rng(3)
    truth = {slug: draws.choice([1.0, 0.0, -1.0, np.nan], FILMS) for slug in PAIR} | {"fracture": np.zeros(FILMS)}
    return write_dataset(tmp_path_factory.mktemp("data") / "d", truth, disc_films(truth["edema"]))


def plan(dataset, out, **request):
    return plan_run(TrainRequest(dataset=dataset, out=out, **request), "cpu")


def test_its_columns_are_what_the_single_networks_are_taught(dataset, tmp_path):
    """With each finding's own policy, and with one that the user sets for all."""
    for name, settings in (("own", {}), ("set", {"uncertain": "soft(0.5,0.9)", "blank": "ignore"})):
        run = RunPaths(tmp_path / name)
        plan(dataset, run.root, targets=PAIR, shared=True, settings=settings)
        plan(dataset, run.root, targets=PAIR, settings=settings)
        shared = Targets.load(run.shared(0).targets)
        assert shared.slugs.astype(str).tolist() == list(PAIR)
        for column, slug in enumerate(PAIR):
            single, own = Targets.load(run.target(slug, 0).targets), shared.only(column)
            for field in ("row", "part", "value", "weight", "draw", "image_id"):
                np.testing.assert_array_equal(getattr(single, field), getattr(own, field), err_msg=f"{slug} {field}")
            config = read_json(run.target(slug, 0).config)["config"]
            policy = {"uncertain": config["uncertain"], "blank": config["blank"]}
            assert read_json(run.shared(0).config)["policies"][slug] == policy
    assert np.isnan(shared.value[shared.all_of("test")]).all()


def test_a_run_holds_both_kinds(dataset, tmp_path):
    jobs = plan(dataset, tmp_path, targets=PAIR, shared=True, members=2, settings={"seed": 5})
    assert [(job.name, job.config.seed) for job in jobs] == [("shared/0", 5), ("shared/1", 6)]
    assert jobs[1].paths.root == tmp_path / "shared" / "1"
    plan(dataset, tmp_path, targets=PAIR)
    assert set(read_json(RunPaths(tmp_path).plan)["jobs"]) == {"shared/0", "shared/1", "edema/0", "pneumonia/0"}


def test_a_finished_shared_network_is_fixed(dataset, tmp_path):
    job = plan(dataset, tmp_path, targets=PAIR, shared=True)[0]
    write_json(job.paths.outcome, {"status": "ok"})
    assert plan(dataset, tmp_path, targets=PAIR, shared=True)[0].finished
    with pytest.raises(ValueError, match=r"shared/0 is trained already.*targets: \['edema', 'pneumonia'\]"):
        plan(dataset, tmp_path, targets=("edema",), shared=True)
    with pytest.raises(ValueError, match=r"reduction: 'mean' -> 'sum'"):
        plan(dataset, tmp_path, targets=PAIR, shared=True, settings={"reduction": "sum"})
    assert not plan(dataset, tmp_path, targets=("edema",), shared=True, force=True)[0].finished


def test_what_cannot_be_taught_is_left_out_and_told(dataset, tmp_path):
    job = plan(dataset, tmp_path, targets=("edema", "fracture"), shared=True)[0]
    assert list(job.shared.policies) == ["edema"]
    assert "1 findings: edema" in job.note
    assert "not in it: fracture (0 positives and 100 negatives in train)" in job.note
    with pytest.raises(ValueError, match="Nothing for a shared network to learn: fracture"):
        plan(dataset, tmp_path / "other", targets=("fracture",), shared=True)


def test_a_findings_own_training_settings_are_left_aside_and_told(dataset, tmp_path):
    from pathologies.findings.catalog import load_catalog

    folder, source = tmp_path / "findings", load_catalog()["edema"]
    folder.mkdir()
    text = f'name = "Own one"\ndefinition = "{source.definition[:20]}"\nsign = "s"\ncitation = "c"\n'
    text += '[names]\ntable = ["edema"]\n[policy]\nuncertain = "ignore"\nblank = "zero"\nreason = "r"\n'
    text += "[training]\nepochs = 3\n"
    (folder / "own_one.toml").write_text(text)
    frame = make_dataset(tmp_path / "d", ("own_one", "edema"), films=90)
    request = {"targets": ("own_one", "edema"), "findings": folder, "settings": {"batch_size": 8}}
    job = plan(frame, tmp_path / "run", shared=True, **request)[0]
    assert "without the [training] table of own_one" in job.note
    assert (job.config.epochs, job.config.batch_size) == (12, 8)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"settings": {"sampler": "balanced"}}, "sampler=label_vector"),
        ({"settings": {"snapshots": 2}}, "keeps none"),
        ({"tuned": "run"}, "--tuned has the settings of single findings"),
    ],
)
def test_settings_of_single_networks_are_refused(dataset, tmp_path, request_, message, monkeypatch):
    monkeypatch.setattr("orchestrator.planning.plan.tuned_settings", lambda *_: {})
    with pytest.raises(ValueError, match=message):
        plan(dataset, tmp_path, targets=PAIR, shared=True, **request_)


def test_the_label_vector_sampler_works(dataset, tmp_path):
    plan(dataset, tmp_path, targets=PAIR, shared=True, settings={"sampler": "label_vector", "sampler_minimum": 30})
    targets = Targets.load(RunPaths(tmp_path).shared(0).targets)
    assert len(np.unique(targets.draw[targets.all_of("train")])) > 1


def test_the_command_trains_it_and_tells(dataset, tmp_path, capsys):
    words = ["train", str(dataset), "--out", str(tmp_path), "--targets", "edema,pneumonia,fracture", "--shared"]
    words += ["--from-scratch", "--folds", "1"]
    words += [f"--set={name}={value}" for name, value in (SETTINGS | {"epochs": 1}).items()]
    app(args=[*words, "--inline"], prog_name="hilum", standalone_mode=False)
    shown = capsys.readouterr()
    assert "not in it: fracture" in shown.err
    assert shown.out.splitlines()[1].split()[:2] == ["shared", "ok"]
    run = RunPaths(tmp_path)
    assert run.shared(0).predictions.exists()
    finished = [event for event in read_json_lines(run.ledger) if event["event"] == "finished"]
    assert [(event["job"], event["status"]) for event in finished] == [("shared/0", "ok")]
    before = run.shared(0).weights.read_bytes()
    app(args=[*words, "--inline"], prog_name="hilum", standalone_mode=False)
    assert run.shared(0).weights.read_bytes() == before
    assert len(list(run.shared(0).attempts.iterdir())) == 1


@pytest.mark.ray
def test_under_ray_it_is_the_same_to_the_byte(dataset, tmp_path):
    from orchestrator.training.launch import train_run

    settings = SETTINGS | {"epochs": 1}
    train_inline(dataset, tmp_path / "inline", targets=PAIR, shared=True, settings=settings)
    request = TrainRequest(dataset=dataset, out=tmp_path / "ray", targets=PAIR, shared=True, settings=settings)
    outcome = train_run(request, lambda event: None)[0]
    assert (outcome["job"], outcome["status"]) == ("shared/0", "ok")
    paths = [RunPaths(tmp_path / name).shared(0).weights for name in ("inline", "ray")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
