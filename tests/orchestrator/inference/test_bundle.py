"""orchestrator/inference/bundle.py: a bundle that is whole answers as it did; anything else is refused with its
reason.
"""

import shutil

import numpy as np
import pytest

from models.data.cache import open_images
from models.files.layout import read_json, write_json
from orchestrator.inference.bundle import BATCH, load_bundle, self_test
from orchestrator.inference.bundle import test_pattern as pattern  # pytest would take the name for a test
from tests.small_run import rewrite_bundle


@pytest.fixture
def copy(house, tmp_path):
    return shutil.copytree(house / "bundle", tmp_path / "bundle")


def change(path, **entries):
    write_json(path, read_json(path) | entries)


def test_it_answers_for_every_finding_with_probabilities(house):
    bundle = load_bundle(house / "bundle", "cpu")
    films = open_images(house / "dataset")[: BATCH + 3]
    probability = bundle.probabilities(films)
    assert bundle.slugs == ["edema", "pneumonia"]
    assert probability.shape == (BATCH + 3, 2)
    assert ((probability > 0) & (probability < 1)).all()
    np.testing.assert_allclose(probability, bundle.calibrate(bundle.logits(films)))
    assert bundle.probabilities(films[:0]).shape == (0, 2)


def test_batches_do_not_show_in_the_answers(house):
    bundle = load_bundle(house / "bundle", "cpu")
    films = open_images(house / "dataset")[: BATCH + 3]
    alone = np.concatenate([bundle.logits(films[at : at + 1]) for at in (0, BATCH - 1, BATCH, BATCH + 2)])
    np.testing.assert_allclose(bundle.logits(films)[[0, BATCH - 1, BATCH, BATCH + 2]], alone, atol=1e-4)


def test_members_come_with_their_finding(house):
    bundle = load_bundle(house / "bundle", "cpu")
    columns = bundle.member_logits(open_images(house / "dataset")[:4])
    assert {slug: column.shape for slug, column in columns.items()} == {"edema": (4, 1), "pneumonia": (4, 2)}


def test_the_self_test_passes_where_it_was_made_and_after_a_copy(house, copy):
    assert self_test(load_bundle(house / "bundle", "cpu", check=False)) < 1e-4
    assert self_test(load_bundle(copy, "cpu", check=False)) < 1e-4


def test_the_test_film_is_no_patients_picture():
    film = pattern(64)
    assert (film.dtype, film.shape) == (np.uint8, (64, 64))
    assert film.std() > 20
    np.testing.assert_array_equal(film, pattern(64))


@pytest.mark.parametrize("off", [1.0, float("nan")])
def test_other_answers_than_expected_are_refused(copy, off):
    path = copy / "selftest" / "expected.json"
    logits = read_json(path)["logits"]
    change(path, logits=logits | {"pneumonia": logits["pneumonia"] + off} if off == 1.0 else {"edema": logits["edema"]})
    with pytest.raises(ValueError, match=r"self-test fails here: pneumonia is off.*torch"):
        load_bundle(copy, "cpu")
    assert load_bundle(copy, "cpu", check=False).slugs == ["edema", "pneumonia"]


def test_networks_swapped_between_findings_do_not_pass(copy):
    """Each file is whole and its hash fits; only the answers tell."""
    description = read_json(copy / "bundle.json")
    first, second = (description["findings"][slug]["models"] for slug in ("edema", "pneumonia"))
    first[0], second[0] = second[0], first[0]
    rewrite_bundle(copy, description, test=False)
    with pytest.raises(ValueError, match="self-test fails here"):
        load_bundle(copy, "cpu")


def test_tampered_weights_are_refused_by_name(copy):
    file = copy / "weights" / "edema-0.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"edema-0\.safetensors is not the file that the bundle was made with"):
        load_bundle(copy, "cpu")


def test_another_test_film_is_refused(copy):
    from PIL import Image

    Image.fromarray(255 - pattern(32)).save(copy / "selftest" / "input.png")
    with pytest.raises(ValueError, match=r"input\.png does not decode to what was stored"):
        load_bundle(copy, "cpu")


@pytest.mark.parametrize("name", ["weights/pneumonia-1.safetensors", "selftest/input.png", "selftest/expected.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.rpartition("/")[2]):
        load_bundle(copy, "cpu")


def test_a_run_or_any_other_folder_is_no_bundle(house, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a bundle: it has no bundle\.json\. It is a run.*hilum ensemble"):
        load_bundle(house / "run")
    with pytest.raises(FileNotFoundError, match=r"not a bundle: it has no bundle\.json\.$"):
        load_bundle(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a bundle"):
        load_bundle(tmp_path / "nowhere")


def test_another_format_is_refused(copy):
    change(copy / "bundle.json", format="hilum-bundle/99")
    with pytest.raises(
        ValueError, match="format 'hilum-bundle/99'; this hilum reads 'hilum-bundle/1' and 'hilum-bundle/2'"
    ):
        load_bundle(copy)


def test_a_device_that_is_not_there_is_refused(house):
    with pytest.raises(ValueError, match="Unknown device 'gpu'"):
        load_bundle(house / "bundle", "gpu")
