"""The columns of a shared network as members of many findings: in a bundle, at prediction, in a replacement."""

import json
import shutil

import numpy as np
import pytest

from models.data.cache import open_images
from models.files.layout import RunPaths, read_json, write_json
from orchestrator.cli.app import app
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.ensembling.logit_tables import member_table
from orchestrator.ensembling.members import finished_targets
from orchestrator.ensembling.replace import ReplaceRequest, dependants_of, replace_findings
from orchestrator.inference.bundle import load_bundle, self_test
from tests.fake_run import QUICK, add_fake_shared, make_fake_dataset, make_logits, make_truth, write_fake_run
from tests.small_run import rewrite_bundle

PAIR = ("edema", "pneumothorax")


def logits_of(noise, seed, slugs=PAIR):
    return {slug: make_logits(make_truth()[slug], noise, seed + index) for index, slug in enumerate(slugs)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """run: single and shared of two findings; alone: one better single edema; bundle: all of run."""
    root = tmp_path_factory.mktemp("shared")
    dataset = make_fake_dataset(root / "dataset")
    write_fake_run(root / "run", dataset, {slug: [one] for slug, one in logits_of(1.5, 0).items()})
    add_fake_shared(root / "run", dataset, logits_of(1.5, 50, (*PAIR, "pneumonia")))
    write_fake_run(root / "alone", dataset, {"edema": [make_logits(make_truth()["edema"], 0.7, 77)]}, seed=500)
    build_bundle(EnsembleRequest(run=root / "run", out=root / "bundle", settings=QUICK))
    return root


def models_of(description):
    return {slug: [(model["file"].split("/")[1][:6], model["column"]) for model in entry["models"]]
            for slug, entry in description["findings"].items()}  # fmt: skip


def test_the_shared_columns_stand_beside_the_single_networks(place):
    trained, _ = finished_targets(RunPaths(place / "run"))
    assert {slug: [one.name for one in members] for slug, members in trained.items()} == {
        "edema": ["0", "shared/0"],
        "pneumothorax": ["0", "shared/0"],
        "pneumonia": ["shared/0"],
    }
    stored = logits_of(1.5, 50, (*PAIR, "pneumonia"))["pneumothorax"]
    column = member_table(trained["pneumothorax"], "calibrate")["shared/0"]
    assert set(column) <= set(stored)
    assert trained["pneumonia"][0].config["uncertain"] == "ignore"


@pytest.mark.parametrize(("use", "findings", "count"), [("single", 2, 1), ("shared", 3, 1), ("both", 3, 2)])
def test_which_networks_are_combined_can_be_chosen(place, tmp_path, use, findings, count):
    made = build_bundle(EnsembleRequest(run=place / "run", out=tmp_path / "b", settings=QUICK, use=use))
    assert len(made["findings"]) == findings
    assert len(made["findings"]["edema"]["models"]) == count
    assert load_bundle(tmp_path / "b", "cpu").slugs == list(made["findings"])


def test_an_unknown_choice_and_an_absent_kind(place, tmp_path):
    with pytest.raises(ValueError, match="Unknown choice of networks 'double'. Known: both, single, shared"):
        finished_targets(RunPaths(place / "run"), use="double")
    message = r"no finished training by a shared network of edema\. Train first: .* --shared`"
    with pytest.raises(ValueError, match=message):
        finished_targets(RunPaths(place / "alone"), ("edema",), use="shared")
    run = shutil.copytree(place / "run", tmp_path / "run")
    write_json(run / "shared" / "0" / "outcome.json", {"status": "nan", "error": "no number"})
    trained, left_out = finished_targets(RunPaths(run))
    assert list(trained) == list(PAIR)
    assert left_out == {"shared/0": "nan: no number"}


def test_one_weight_file_in_the_bundle_is_read_once_and_run_once_for_a_film(place):
    description = read_json(place / "bundle" / "bundle.json")
    assert models_of(description) == {
        "edema": [("edema-", 0), ("shared", 0)],
        "pneumonia": [("shared", 2)],
        "pneumothorax": [("pneumo", 0), ("shared", 1)],
    }
    files = sorted(path.name[:7] for path in (place / "bundle" / "weights").iterdir())
    assert files == ["edema-0", "pneumot", "shared-"]
    bundle = load_bundle(place / "bundle", "cpu")
    networks = {one.slug: one.members[-1].network for one in bundle.classifiers}
    assert len({id(network) for network in networks.values()}) == 1
    seen = []
    networks["edema"].register_forward_hook(lambda module, given, answer: seen.append(answer.shape))
    films = open_images(place / "dataset")[:40]
    columns = bundle.member_logits(films)
    assert [tuple(shape) for shape in seen] == [(32, 3), (8, 3)]
    alone = next(one for one in bundle.classifiers if one.slug == "pneumothorax")
    np.testing.assert_allclose(alone.columns(films), columns["pneumothorax"], atol=1e-5)
    assert np.abs(columns["edema"][:, 1] - columns["pneumothorax"][:, 1]).max() > 1e-3


def test_columns_taken_for_one_another_do_not_pass_the_self_test(place, tmp_path):
    bundle = shutil.copytree(place / "bundle", tmp_path / "bundle")
    description = read_json(bundle / "bundle.json")
    description["findings"]["edema"]["models"][1]["column"] = 1
    rewrite_bundle(bundle, description, test=False)
    with pytest.raises(ValueError, match="self-test fails here: edema"):
        load_bundle(bundle, "cpu")


def replaced(place, out, run, targets=("edema",), **changes):
    request = {"run": run, "bundle": place / "bundle", "targets": targets, "out": out, "settings": QUICK}
    return replace_findings(ReplaceRequest(**(request | changes)))


def test_a_finding_that_gives_up_the_shared_network_names_those_that_keep_it(place, tmp_path):
    message = r"depend on edema: .*pneumothorax \(by a shared network\).*--refit-dependents"
    with pytest.raises(ValueError, match=message):
        replaced(place, tmp_path / "new", place / "alone")
    assert not (tmp_path / "new").exists()
    description = replaced(place, tmp_path / "new", place / "alone", refit_dependents=True)
    assert description["replaced"]["findings"]["pneumothorax"]["role"] == "fitted again"
    old = read_json(place / "bundle" / "bundle.json")["findings"]
    new = read_json(tmp_path / "new" / "bundle.json")["findings"]
    assert new["pneumothorax"]["models"] == old["pneumothorax"]["models"]
    assert new["pneumothorax"]["cross_validated"] == old["pneumothorax"]["cross_validated"]
    assert new["edema"]["consumes"] == ["weights/edema-0.safetensors"]
    self_test(load_bundle(tmp_path / "new", "cpu"))


def test_a_finding_that_keeps_the_shared_network_leaves_the_others_as_they_were(place, tmp_path):
    """Only its own network was trained again, in the run that has the shared one."""
    run = shutil.copytree(place / "run", tmp_path / "run")
    for name in ("weights.safetensors", "predictions.parquet"):
        shutil.copyfile(place / "alone" / "edema" / "0" / name, run / "edema" / "0" / name)
    replaced(place, tmp_path / "new", run)
    old, new = (read_json(one / "bundle.json") for one in (place / "bundle", tmp_path / "new"))
    for slug in ("pneumonia", "pneumothorax"):
        assert json.dumps(new["findings"][slug], sort_keys=True) == json.dumps(old["findings"][slug], sort_keys=True)
    assert models_of(new)["edema"] == [("edema-", 0), ("shared", 0)]
    assert new["findings"]["edema"]["models"][0]["sha256"] != old["findings"]["edema"]["models"][0]["sha256"]
    assert len(list((tmp_path / "new" / "weights").glob("shared-*"))) == 1


def test_two_shared_networks_live_in_one_bundle(place, tmp_path):
    run = write_fake_run(tmp_path / "run", place / "dataset", {"edema": [make_logits(make_truth()["edema"], 1, 3)]})
    add_fake_shared(run, place / "dataset", logits_of(1, 30), seed=4)
    replaced(place, tmp_path / "new", run, refit_dependents=True)
    assert len(list((tmp_path / "new" / "weights").glob("shared-0-*"))) == 2
    self_test(load_bundle(tmp_path / "new", "cpu"))


def test_dependants_by_a_shared_network(place):
    description = read_json(place / "bundle" / "bundle.json")
    ways = dependants_of(description, ["edema"])
    assert ways["pneumothorax"] == "a shared network"
    kept = {model["sha256"] for model in description["findings"]["edema"]["models"]}
    assert not dependants_of(description, ["edema"], kept)


def test_the_command_takes_the_choice(place, tmp_path):
    words = ["ensemble", str(place / "run"), "--out", str(tmp_path / "b"), "--targets", "edema", "--use", "shared"]
    app(args=words, prog_name="hilum", standalone_mode=False)
    assert models_of(read_json(tmp_path / "b" / "bundle.json")) == {"edema": [("shared", 0)]}
