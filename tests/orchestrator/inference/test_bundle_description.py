"""orchestrator/inference/bundle_description.py: what a bundle says is checked before it is believed, and sealed."""

import copy
import hashlib
import json
import random
import shutil

import numpy as np
import pytest

from models.data.cache import open_images
from models.data.images import decode
from models.files.layout import read_json, write_json
from orchestrator.ensembling.adapt import AdaptRequest, adapt
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.ensembling.prior_shift import shift_entry
from orchestrator.ensembling.replace import ReplaceRequest, replace_findings
from orchestrator.inference.bundle import load_bundle
from orchestrator.inference.bundle_description import open_description
from orchestrator.inference.decisions import thresholds_of
from orchestrator.inference.predict import PredictRequest, predict
from pathologies.errors import InputError
from tests.small_run import write_films

FAST = 8  # changes of a kind that the fast set tries


@pytest.fixture
def bundle(house, tmp_path):
    return shutil.copytree(house / "bundle", tmp_path / "bundle")


@pytest.fixture(scope="module")
def films(house):
    return open_images(house / "dataset")[:4]


def as_before(folder, description=None):
    """The bundle as it was made before there were seals, with another description."""
    description = description or read_json(folder / "bundle.json")
    description.pop("seal", None)
    (folder / "bundle.sha256").unlink(missing_ok=True)
    write_json(folder / "bundle.json", description)
    return folder


def changed(folder, change):
    description = read_json(folder / "bundle.json")
    change(description)
    return as_before(folder, description)


def keys_below(value, path=()):
    """The path of every key and index, containers included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from keys_below(item, (*path, key))


def remove(above, key):
    del above[key]


def other_number(above, key):
    value = above[key]
    above[key] = -3 * value - 7 if isinstance(value, float) else value + 1


def other_type(above, key):
    value = above[key]
    above[key] = {"a": [1]} if isinstance(value, str | int | float | type(None)) else "text"


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def changes_of(description, change):
    """Every way to make one change, as (path, the changed description)."""
    for path in keys_below(description):
        altered = copy.deepcopy(description)
        above = altered
        for key in path[:-1]:
            above = above[key]
        if change is not other_number or is_number(above[path[-1]]):
            change(above, path[-1])
            yield path, altered


def told(folder, films):
    """All that commands ask of a bundle that loads: answers by finding, decisions, what a shift works on."""
    bundle = load_bundle(folder, "cpu")
    findings = bundle.description["findings"]
    thresholds = thresholds_of(findings)
    for entry in findings.values():
        shift_entry(entry, 0.3)
    probability = dict(zip(bundle.slugs, bundle.probabilities(films).T, strict=True))
    return probability, {
        slug: None if limit is None else probability[slug] >= limit for slug, limit in thresholds.items()
    }


@pytest.fixture(scope="module")
def small(house, tmp_path_factory):
    """A bundle of one finding and one network, so that many of its kind can be read."""
    out = tmp_path_factory.mktemp("small") / "bundle"
    build_bundle(EnsembleRequest(run=house / "run", out=out, targets=("edema",)))
    return out


def refusal(folder, film):
    """(the sentence, None) where a bundle is refused, else (None, what it tells)."""
    try:
        return None, told(folder, film)
    except InputError as error:
        return str(error), None


@pytest.mark.parametrize("some", [FAST, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("change", [remove, other_number, other_type])
def test_without_a_seal_a_change_is_a_sentence_or_no_matter(small, tmp_path, change, some):
    """Asked about the film of the self-test, whose answers are all that an unsealed bundle knows of itself."""
    folder = as_before(shutil.copytree(small, tmp_path / "bundle"))
    film = decode(folder / "selftest" / "input.png")[None]
    every = list(changes_of(read_json(folder / "bundle.json"), change))
    probability, calls = told(folder, film)
    sentences = []
    for path, altered in random.Random(3).sample(every, some or len(every)):
        (folder / "bundle.json").write_text(json.dumps(altered))
        sentence, found = refusal(folder, film)
        if sentence:
            sentences.append(sentence)
            continue
        np.testing.assert_allclose(found[0]["edema"], probability["edema"], atol=1e-4, err_msg=str(path))
        np.testing.assert_array_equal(found[1]["edema"], calls["edema"], err_msg=str(path))
    assert all(sentence.endswith(".") for sentence in sentences)
    assert some or 0 < len(sentences) < len(every)


@pytest.mark.parametrize("change", [remove, other_number, other_type])
def test_with_a_seal_every_change_is_refused(small, tmp_path, change):
    folder = shutil.copytree(small, tmp_path / "bundle")
    every = list(changes_of(read_json(folder / "bundle.json"), change))
    for path, altered in random.Random(0).sample(every, 60):
        (folder / "bundle.json").write_text(json.dumps(altered))
        message = "has format|has no 'format'" if path == ("format",) else "is not what its seal"
        with pytest.raises(InputError, match=message):
            open_description(folder)


def test_the_seal_is_what_sha256sum_writes(house, bundle):
    digest = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
    assert (bundle / "bundle.sha256").read_text() == f"{digest}  bundle.json\n"
    assert load_bundle(bundle, "cpu").identity == {"bundle": "bundle", "bundle_sha256": digest, "sealed": True}
    (bundle / "bundle.json").write_text((bundle / "bundle.json").read_text() + "\n")
    with pytest.raises(InputError, match="is not what its seal bundle.sha256 was made for"):
        load_bundle(bundle, "cpu")


def test_a_seal_that_is_gone_or_empty_is_noticed(bundle):
    (bundle / "bundle.sha256").write_text("")
    with pytest.raises(InputError, match="not nothing"):
        load_bundle(bundle, "cpu")
    (bundle / "bundle.sha256").unlink()
    with pytest.raises(InputError, match=r"lacks .*bundle\.sha256, its seal"):
        load_bundle(bundle, "cpu")


def test_a_bundle_of_before_is_read_and_says_that_it_has_no_seal(house, bundle, films):
    as_before(bundle)
    expected = read_json(bundle / "selftest" / "expected.json")
    expected.pop("decisions", None)
    write_json(bundle / "selftest" / "expected.json", expected)
    old = load_bundle(bundle, "cpu")
    assert not old.identity["sealed"]
    assert "before bundles carried a seal" in old.identity_note
    np.testing.assert_array_equal(old.probabilities(films), load_bundle(house / "bundle", "cpu").probabilities(films))


def test_another_calibration_does_not_pass_the_self_test(bundle):
    changed(bundle, lambda one: one["findings"]["edema"]["calibration"].update(intercept=2.0))
    with pytest.raises(ValueError, match="self-test fails: the probability of edema is off"):
        load_bundle(bundle, "cpu")


def test_another_threshold_or_zone_does_not_pass_the_self_test(bundle):
    original = read_json(bundle / "bundle.json")
    entry = original["findings"]["pneumonia"]
    rule = next(rule for rule, point in entry["operating_points"].items() if point["useful"])
    changed(bundle, lambda one: one["findings"]["pneumonia"]["operating_points"][rule].update(threshold=0.9999))
    with pytest.raises(ValueError, match="self-test fails: the decisions on pneumonia are others"):
        load_bundle(bundle, "cpu")
    as_before(bundle, original)
    load_bundle(bundle, "cpu")
    changed(bundle, lambda one: one["findings"]["pneumonia"]["conformal"].update(low=0.9999, high=0.9999))
    with pytest.raises(ValueError, match="self-test fails: the decisions on pneumonia are others"):
        load_bundle(bundle, "cpu")


def test_another_parent_does_not_pass_the_self_test(bundle):
    def raise_edema(description):
        description["consistency"] = True
        description["findings"]["pneumonia"]["parents"] = ["edema"]

    changed(bundle, raise_edema)
    with pytest.raises(ValueError, match="self-test fails: the probability of edema is off"):
        load_bundle(bundle, "cpu")


def test_another_size_of_the_films_does_not_pass_the_self_test(bundle):
    changed(bundle, lambda one: one["input"].update(size=40))
    with pytest.raises(ValueError, match="takes films of 40 pixels, its test film has 32"):
        load_bundle(bundle, "cpu")


@pytest.mark.parametrize("key", ["letterbox", "pixel_mean", "views"])
def test_what_is_missing_is_named(bundle, key):
    changed(bundle, lambda one: one["input"].pop(key))
    with pytest.raises(InputError, match=rf"bundle\.json: input has no '{key}'\. Copy the bundle again"):
        load_bundle(bundle, "cpu")


@pytest.mark.parametrize("how", ["absolute", "upwards", "link"])
def test_a_weight_file_outside_the_folder_is_refused(house, bundle, how):
    """The file is the right one, to the byte, and lies somewhere else."""
    outside = shutil.copy(bundle / "weights" / "edema-0.safetensors", bundle.parent / "edema.safetensors")
    file = {"absolute": str(outside), "upwards": "../edema.safetensors", "link": "weights/link.safetensors"}[how]
    (bundle / "weights" / "link.safetensors").symlink_to(outside)
    changed(bundle, lambda one: one["findings"]["edema"]["models"][0].update(file=file))
    with pytest.raises(InputError, match="leads out of the bundle's folder"):
        load_bundle(bundle, "cpu")
    request = {"run": house / "run", "bundle": bundle, "targets": ("pneumonia",), "out": bundle.parent / "new"}
    with pytest.raises(InputError, match="leads out of the bundle's folder"):
        replace_findings(ReplaceRequest(**request))
    with pytest.raises(InputError, match="leads out of the bundle's folder"):
        adapt(AdaptRequest(bundle=bundle, out=bundle.parent / "new", prevalence=("edema=0.2",), device="cpu"))
    assert not (bundle.parent / "new").exists()


def test_a_self_test_outside_the_folder_is_refused(bundle):
    outside = shutil.move(bundle / "selftest", bundle.parent / "selftest")
    (bundle / "selftest").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of the bundle's folder"):
        load_bundle(bundle, "cpu")


def test_a_table_of_predictions_comes_with_its_bundle(bundle, films, tmp_path):
    digest = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
    write_films(tmp_path / "films", films)
    out = tmp_path / "p.csv"
    result = predict(PredictRequest(bundle=bundle, inputs=(str(tmp_path / "films"),), out=out, device="cpu"))
    assert f"Bundle bundle, SHA-256 {digest}." in result.notes
    table = hashlib.sha256(out.read_bytes()).hexdigest()
    known = {"bundle": "bundle", "bundle_sha256": digest, "sealed": True, "table": "p.csv", "table_sha256": table}
    assert json.loads((tmp_path / "p.provenance.json").read_text()) == known
