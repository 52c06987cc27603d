"""orchestrator/planning/heads.py, models/process/head_job.py: heads are jobs and members as networks are."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from models.data.targets import PARTS, Targets
from models.files.layout import BundlePaths, DatasetPaths, RunPaths, read_json
from models.network.encoder import EncoderWish
from models.process.job import run_job
from orchestrator.datasets.dataset import load_dataset
from orchestrator.datasets.embed import EmbedRequest, embed
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.ensembling.logit_tables import held_out_films
from orchestrator.ensembling.members import copy_head, finished_targets
from orchestrator.ensembling.replace import ReplaceRequest, replace_findings
from orchestrator.evaluation.compare_runs import CompareRequest, compare_runs
from orchestrator.inference.bundle import load_bundle, self_test
from orchestrator.inference.bundle_description import check_description
from orchestrator.planning.plan import TrainRequest
from orchestrator.training.launch import train_run
from pathologies.findings.catalog import load_catalog
from tests.fake_run import QUICK
from tests.small_data import make_dataset
from tests.small_run import FINDINGS, silent, train_inline

KINDS = ("linear", "hidden")


def fit(dataset, out, settings=None, **request):
    request = {"heads": ("linear",), "targets": FINDINGS} | request
    return train_run(TrainRequest(dataset=dataset, out=out, settings=settings or {}, inline=True, **request), silent)


def embedded(root, name="w.safetensors", seed=0, **wish):
    """The features of an untrained network, which stands for one that others trained."""
    torch.manual_seed(seed)
    save_file(timm.create_model("test_resnet", num_classes=5, in_chans=3).state_dict(), root / name)
    wish = EncoderWish(**{"encoder": "test_resnet", "weights": root / name, "size": 48} | wish)
    return embed(EmbedRequest(dataset=root / "dataset", wish=wish, device="cpu", threads=1), silent)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """root/dataset with features, root/run with heads of both kinds of two findings, root/bundle of them."""
    root = tmp_path_factory.mktemp("heads")
    make_dataset(root / "dataset", FINDINGS, films=180)
    embedded(root)
    outcomes = fit(root / "dataset", root / "run", heads=KINDS)
    assert [one["status"] for one in outcomes] == ["ok"] * 4, outcomes
    build_bundle(EnsembleRequest(run=root / "run", out=root / "bundle", settings=QUICK))
    return root


def folder_of(heads, kind="linear"):
    [digest] = [path.name for path in DatasetPaths(heads / "dataset").all_features.iterdir()]
    return f"{digest}-{kind}"


def test_each_head_has_a_folder_a_contract_and_an_outcome(heads):
    run = RunPaths(heads / "run")
    jobs = read_json(run.plan)["jobs"]
    assert sorted(jobs) == sorted(f"heads/{slug}/{folder_of(heads, kind)}" for slug in FINDINGS for kind in KINDS)
    paths = run.head("pneumonia", folder_of(heads))
    payload, outcome = read_json(paths.config), read_json(paths.outcome)
    assert payload["head"] == {"kind": "linear"}
    policy = load_catalog()["pneumonia"].policy
    assert (payload["config"]["uncertain"], payload["config"]["blank"]) == (policy.uncertain, policy.blank)
    assert outcome["selection_rule"] == "left_out_patients"
    assert "each left out in turn" in outcome["selection_reason"]
    assert outcome["head"]["penalty"] in [float(one) for one in outcome["head"]["losses"]]
    assert paths.weights.stat().st_size < 2000, "its encoder is not in it"


def test_it_learns_from_train_and_select_and_never_sees_the_other_labels(heads):
    paths = RunPaths(heads / "run").head("pneumonia", folder_of(heads))
    targets, dataset = Targets.load(paths.targets), load_dataset(heads / "dataset")
    parts, frame = dataset.parts(), dataset.read_labels_frame()
    assert len(targets.usable("train")) == np.isin(parts, ("train", "select")).sum()
    assert not len(targets.all_of("select"))
    hidden = np.isin(np.array(PARTS)[targets.part], ("calibrate", "test"))
    assert np.isnan(targets.value[hidden]).all()
    folds = pd.DataFrame({"patient": frame["patient_id"][targets.row], "fold": targets.fold})[~hidden]
    assert (folds.groupby("patient")["fold"].nunique() == 1).all()
    assert sorted(folds["fold"].unique()) == [0, 1, 2, 3, 4]
    stored = pd.read_parquet(paths.predictions)
    assert sorted(stored["part"].unique()) == ["calibrate", "test"]


def test_stored_answers_are_what_encoder_and_head_say_about_the_films(heads):
    """Through the bundle: the film is decoded, brought to the encoder, and its features to the head."""
    bundle, dataset = load_bundle(heads / "bundle", "cpu"), load_dataset(heads / "dataset")
    parts = dataset.parts()
    rows = np.flatnonzero(parts == "test")[:9]
    said = bundle.member_logits(dataset.images()[rows])
    for slug in FINDINGS:
        models = bundle.description["findings"][slug]["models"]
        for column, model in enumerate(models):
            stored = pd.read_parquet(RunPaths(heads / "run").head(slug, model["head"]["name"]).predictions)
            ids = dataset.read_labels_frame()["image_id"][rows]
            expected = stored.set_index("image_id")["logit"].loc[ids]
            np.testing.assert_allclose(said[slug][:, column], expected, atol=1e-4)


def test_a_bundle_carries_the_encoder_once_and_asks_it_once(heads):
    bundle = load_bundle(heads / "bundle", "cpu")
    files = sorted(path.name for path in (heads / "bundle" / "weights").iterdir())
    assert len(files) == 5
    assert sum(name.startswith("encoder-") for name in files) == 1
    assert len({id(one.network) for entry in bundle.classifiers for one in entry.members}) == 1
    encoder, asked = bundle.classifiers[0].members[0].network, []
    encoder.register_forward_hook(lambda network, films, answer: asked.append(len(films[0])))
    bundle.logits(np.zeros((3, 32, 32), np.uint8))
    assert asked == [3]
    assert self_test(bundle) < 1e-4
    assert bundle.description["format"] == "hilum-bundle/2"
    consumed = bundle.description["findings"]["edema"]["consumes"]
    assert any("encoder-" in file for file in consumed)


def test_a_bundle_of_heads_needs_neither_data_set_nor_run(heads, tmp_path):
    shutil.copytree(heads / "bundle", tmp_path / "bundle")
    assert self_test(load_bundle(tmp_path / "bundle", "cpu")) < 1e-4
    [encoder] = (tmp_path / "bundle" / "weights").glob("encoder-*")
    content = encoder.read_bytes()
    encoder.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="is not the file that the bundle was made with"):
        load_bundle(tmp_path / "bundle", "cpu")
    encoder.unlink()
    with pytest.raises(FileNotFoundError, match="lacks .*encoder-"):
        load_bundle(tmp_path / "bundle", "cpu")


def test_a_description_whose_head_has_no_encoder_or_leads_out_is_refused(heads):
    description = read_json(BundlePaths(heads / "bundle").bundle)

    def changed(**model):
        again = json.loads(json.dumps(description))
        again["findings"]["edema"]["models"][0] |= model
        return again

    root = heads / "bundle"
    check_description(description, root, "bundle.json")
    encoder = description["findings"]["edema"]["models"][0]["encoder"]
    outside = changed(encoder=encoder | {"file": "../../w.safetensors"})
    with pytest.raises(ValueError, match="leads out of the bundle"):
        check_description(outside, root, "bundle.json")
    alone = changed()
    del alone["findings"]["edema"]["models"][0]["encoder"]
    with pytest.raises(ValueError, match="a head or an encoder without the other"):
        check_description(alone, root, "bundle.json")
    with pytest.raises(ValueError, match="which 'hilum-bundle/1' does not know"):
        check_description(description | {"format": "hilum-bundle/1"}, root, "bundle.json")


def test_the_same_command_does_nothing_and_a_killed_fit_gives_the_same_bytes(heads, tmp_path):
    shutil.copytree(heads / "run", tmp_path / "run")
    run = RunPaths(tmp_path / "run")
    paths = run.head("edema", folder_of(heads, "hidden"))
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*.safetensors")}
    fit(heads / "dataset", run.root, heads=KINDS)
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*.safetensors")} == before
    stored = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (paths.weights, paths.predictions)]
    for path in (paths.outcome, paths.weights, paths.predictions):
        path.unlink()
    fit(heads / "dataset", run.root, heads=KINDS)
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in (paths.weights, paths.predictions)] == stored
    assert read_json(paths.outcome)["attempt"] == 2


def test_another_contract_is_another_head_and_is_not_fitted_over_the_old_one_unasked(heads, tmp_path):
    shutil.copytree(heads / "run", tmp_path / "run")
    with pytest.raises(ValueError, match=r"trained already, with another configuration \(positive_weight"):
        fit(heads / "dataset", tmp_path / "run", {"positive_weight": "balanced"}, targets=("edema",))
    [outcome] = fit(heads / "dataset", tmp_path / "run", {"positive_weight": "3"}, targets=("edema",), force=True)
    assert outcome["status"] == "ok"


def test_heads_and_networks_of_a_run_are_told_apart_compared_and_blended(heads, tmp_path):
    shutil.copytree(heads / "run", tmp_path / "run")
    dataset, run = heads / "dataset", tmp_path / "run"
    train_inline(dataset, run, targets=("pneumonia",), settings={"epochs": 1})
    names = {use: [one.name for one in finished_targets(RunPaths(run), ("pneumonia",), use=use)[0]["pneumonia"]]
             for use in ("both", "heads", "single")}  # fmt: skip
    linear, hidden = f"heads/{folder_of(heads)}", f"heads/{folder_of(heads, 'hidden')}"
    assert names == {"both": ["0", hidden, linear], "heads": [hidden, linear], "single": ["0"]}
    found = compare_runs(CompareRequest(run_a=run, run_b=run, use_a="heads", use_b="single", resamples=50))
    assert found.kinds == ("heads", "single")
    assert found.costs[0].passes == 0
    assert found.costs[0].seconds > 0
    with pytest.raises(ValueError, match="Heads learn from part select too"):
        compare_runs(CompareRequest(run_a=run, run_b=run, use_a="heads", use_b="single", part="select"))
    description = build_bundle(EnsembleRequest(run=run, out=tmp_path / "bundle", settings=QUICK, tta=True))
    assert len(description["findings"]["pneumonia"]["models"]) == 6
    assert self_test(load_bundle(tmp_path / "bundle", "cpu")) < 1e-4


def test_heads_in_folds_answer_for_what_they_have_not_seen_and_are_one_column(heads, tmp_path):
    """Each film of train, select and calibrate is answered once; the bundle asks the mean of the folds' heads."""
    run, dataset = RunPaths(tmp_path / "run"), load_dataset(heads / "dataset")
    outcomes = fit(heads / "dataset", run.root, folds=3)
    assert [one["status"] for one in outcomes] == ["ok"] * 6, outcomes
    members = finished_targets(run, ("pneumonia",))[0]["pneumonia"]
    assert [one.fold for one in members] == [(0, 3), (1, 3), (2, 3)]
    answered = [film for one in members for film in held_out_films(one)]
    frame, parts = dataset.read_labels_frame(), dataset.parts()
    assert sorted(answered) == sorted(frame["image_id"][parts != "test"])
    for one in members:
        targets = Targets.load(one.paths.targets)
        learnt = targets.image_id[targets.usable("train")].astype(str)
        assert not set(learnt) & set(held_out_films(one))
    description = build_bundle(EnsembleRequest(run=run.root, out=tmp_path / "bundle", settings=QUICK, tta=True))
    models = description["findings"]["pneumonia"]["models"]
    assert [model["group"] for model in models] == [0, 0, 0, 1, 1, 1]
    assert len(list((tmp_path / "bundle" / "weights").iterdir())) == 7
    bundle = load_bundle(tmp_path / "bundle", "cpu")
    assert self_test(bundle) < 1e-4
    rows = np.flatnonzero(parts == "test")[:5]
    stored = [pd.read_parquet(one.paths.predictions).set_index("image_id")["logit"] for one in members]
    ids = frame["image_id"][rows]
    expected = np.mean([one.loc[ids] for one in stored], axis=0)
    np.testing.assert_allclose(bundle.member_logits(dataset.images()[rows])["pneumonia"][:, 0], expected, atol=1e-4)
    run.head("edema", members[1].head).outcome.unlink()
    left_out = finished_targets(run)[1]
    assert any(f"heads/edema/{members[1].head}" in reason for reason in left_out.values()), left_out


def test_a_finding_of_a_bundle_of_heads_is_replaced_and_the_others_keep_their_encoder(heads, tmp_path):
    shutil.copytree(heads / "run", tmp_path / "run")
    fit(heads / "dataset", tmp_path / "run", {"positive_weight": "3"}, targets=("edema",), force=True)
    request = ReplaceRequest(run=tmp_path / "run", bundle=heads / "bundle", targets=("edema",), out=tmp_path / "new",
                             dataset=heads / "dataset", settings=QUICK)  # fmt: skip
    old, new = load_bundle(heads / "bundle", "cpu").description, replace_findings(request)
    assert new["findings"]["pneumonia"] == old["findings"]["pneumonia"]
    assert self_test(load_bundle(tmp_path / "new", "cpu")) < 1e-4


def test_an_encoder_that_is_gone_from_the_run_is_a_sentence_and_comes_back(heads, tmp_path):
    shutil.copytree(heads / "run", tmp_path / "run")
    run = RunPaths(tmp_path / "run")
    encoder = run.encoder(folder_of(heads).partition("-")[0])
    encoder.write_bytes(b"damaged")
    one = finished_targets(run, ("edema",))[0]["edema"][0]
    with pytest.raises(ValueError, match="missing or damaged"):
        copy_head(one, BundlePaths(tmp_path / "bundle"))
    fit(heads / "dataset", run.root)
    assert copy_head(one, BundlePaths(tmp_path / "bundle"))["encoder"]["sha256"]


def test_changed_features_are_an_outcome_that_says_so(heads, tmp_path):
    for name in ("dataset", "run"):
        shutil.copytree(heads / name, tmp_path / name)
    [folder] = DatasetPaths(tmp_path / "dataset").all_features.iterdir()
    content = bytearray((folder / "features.f32").read_bytes())
    content[5] ^= 1
    (folder / "features.f32").write_bytes(content)
    paths = RunPaths(tmp_path / "run").head("edema", folder_of(heads))
    outcome = run_job(tmp_path / "dataset", paths.root, watch_parent=False)
    assert outcome["status"] == "failed"
    assert "was changed after it was made" in outcome["error"]
    assert "hilum embed" in outcome["error"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"settings": {"learning_rate": 0.1}}, "--set learning_rate: a head has no such setting"),
        ({"shared": True}, "--shared is for networks"),
        ({"members": 3}, "--members is for networks"),
        ({"heads": ("cubic",)}, "Unknown kind of head 'cubic'. Known: linear, hidden"),
        ({"encoder": "zz"}, "has no features 'zz', but: .*test_resnet"),
    ],
)
def test_what_heads_cannot_be_asked_for_is_a_sentence(request_, words, heads, tmp_path):
    with pytest.raises(ValueError, match=words):
        fit(heads / "dataset", tmp_path / "run", **request_)


def test_without_features_or_with_several_it_says_which_there_are(heads, tmp_path):
    make_dataset(tmp_path / "dataset", FINDINGS, films=60)
    with pytest.raises(ValueError, match="has no features of an encoder.*hilum embed"):
        fit(tmp_path / "dataset", tmp_path / "run")
    one, two = embedded(tmp_path), embedded(tmp_path, normalisation="dataset")
    with pytest.raises(ValueError, match="features of several encoders.*Say which with --encoder"):
        fit(tmp_path / "dataset", tmp_path / "run")
    [outcome] = fit(tmp_path / "dataset", tmp_path / "run", encoder=two["digest"][:6], targets=("pneumonia",))
    assert outcome["encoder"] == two["digest"] != one["digest"]


def test_a_trained_network_of_a_run_is_an_encoder_too(heads, tmp_path):
    make_dataset(tmp_path / "dataset", FINDINGS, films=90)
    train_inline(
        tmp_path / "dataset", tmp_path / "run", settings={"epochs": 1, "standardise": "film_inside"}, shared=True
    )
    wish = EncoderWish(encoder=str(tmp_path / "run" / "shared"))
    found = embed(EmbedRequest(dataset=tmp_path / "dataset", wish=wish, device="cpu", threads=1), silent)
    assert (found["encoder"]["size"], found["encoder"]["standardise"]) == (32, "film_inside")
    with safe_open(RunPaths(tmp_path / "run").shared(0).weights, "pt") as trained:
        weight = trained.get_tensor("backbone.conv1.0.weight")
    paths = DatasetPaths(tmp_path / "dataset").features(found["digest"])
    with safe_open(paths.encoder, "pt") as cut:
        torch.testing.assert_close(cut.get_tensor("backbone.conv1.0.weight"), weight, rtol=0, atol=0)
    outcomes = fit(tmp_path / "dataset", tmp_path / "run")
    assert [one["status"] for one in outcomes] == ["ok", "ok"]
    description = build_bundle(
        EnsembleRequest(run=tmp_path / "run", out=tmp_path / "bundle", use="heads", settings=QUICK)
    )
    assert description["findings"]["edema"]["models"][0]["standardise"] == "film_inside"
    assert self_test(load_bundle(tmp_path / "bundle", "cpu")) < 1e-4
    wrong = dataclasses.replace(
        wish, encoder=str(RunPaths(tmp_path / "run").head("edema", f"{found['digest']}-linear").root)
    )
    with pytest.raises(ValueError, match="is a head on an encoder"):
        embed(EmbedRequest(dataset=tmp_path / "dataset", wish=wrong, device="cpu"), silent)
