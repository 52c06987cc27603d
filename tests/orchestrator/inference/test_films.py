"""orchestrator/inference/films.py, Bundle.predict and predict_proba: arrays and data sets answer as their files do."""

import logging

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from models.data.cache import open_images
from models.data.images import decode, film_of_array
from orchestrator.inference.bundle import load_bundle
from orchestrator.inference.films import named_films
from orchestrator.inference.predict import PredictRequest, predict
from pathologies.errors import InputError
from tests.coded_films import make
from tests.small_run import write_films


@pytest.fixture(scope="module")
def bundle(house):
    return load_bundle(house / "bundle", "cpu")


@pytest.fixture(scope="module")
def films(house):
    return np.array(open_images(house / "dataset")[:5])


@pytest.fixture(scope="module")
def paths(films, tmp_path_factory):
    return write_films(tmp_path_factory.mktemp("films"), films)


def told(house, out, *inputs, **request):
    """The table of `hilum predict`."""
    words = tuple(map(str, inputs))
    return predict(PredictRequest(bundle=house / "bundle", inputs=words, out=out, device="cpu", **request)).predictions


def assert_alike(table, other):
    """All but the names; a film in a batch of another size differs by rounding."""
    pd.testing.assert_frame_equal(table.drop(columns="path"), other.drop(columns="path"), rtol=0, atol=1e-6)


def test_paths_are_answered_as_the_command_answers_them(house, bundle, paths, tmp_path):
    table = told(house, tmp_path / "p.csv", *paths)
    pd.testing.assert_frame_equal(bundle.predict(paths), table, check_exact=True)
    pd.testing.assert_frame_equal(bundle.predict(paths[0].parent), table, check_exact=True)
    pd.testing.assert_frame_equal(bundle.predict(pd.Series(list(map(str, paths)))), table, check_exact=True)
    assert_alike(bundle.predict(str(paths[0])), table[:1])


def test_thresholds_and_zones_are_those_of_the_command(house, bundle, paths, tmp_path):
    table = told(house, tmp_path / "p.csv", *paths, operating_point="youden", thresholds=("edema=0.3",), conformal=True)
    found = bundle.predict(paths, operating_point="youden", threshold={"edema": 0.3}, conformal=True)
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    with pytest.raises(InputError, match="stores no such operating point"):
        bundle.predict(paths, operating_point="best")
    with pytest.raises(InputError, match="no finding 'edma'"):
        bundle.predict(paths, threshold={"edma": 0.3})


def test_arrays_are_answered_as_their_files(house, bundle, films, paths, tmp_path):
    table = told(house, tmp_path / "p.csv", *paths)
    for given in (films, list(films), films / 255, (films / 255).astype(np.float32)):
        found = bundle.predict(given)
        assert found["path"].tolist() == ["0", "1", "2", "3", "4"]
        assert_alike(found, table)
    assert_alike(bundle.predict(films[0]), table[:1])


def test_probabilities_have_a_row_per_film_and_a_column_per_finding(house, bundle, films, paths, tmp_path):
    found = bundle.predict_proba(films)
    assert found.shape == (5, len(bundle.slugs))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, told(house, tmp_path / "p.csv", *paths)[bundle.slugs].to_numpy())
    assert bundle.predict_proba(films[0]).shape == (1, len(bundle.slugs))


def test_films_of_any_shape_are_letterboxed_as_files_are(house, bundle, tmp_path):
    draws = np.random.default_rng(0)
    films = [draws.integers(0, 255, shape, np.uint8) for shape in ((40, 61), (100, 20), (32, 32))]
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, film in zip(paths, films, strict=True):
        Image.fromarray(film).save(path)
    assert_alike(bundle.predict(films), told(house, tmp_path / "p.csv", *paths))


def test_sixteen_bits_are_shown_by_the_bundles_contract(house, bundle, tmp_path):
    values = np.random.default_rng(1).integers(100, 4000, (50, 40)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    table = told(house, tmp_path / "p.csv", tmp_path / "deep.png")
    assert_alike(bundle.predict(values), table)
    assert_alike(bundle.predict([values.astype(np.int32)]), table)
    hot = values.copy()
    hot[0, 0] = 65535
    assert (film_of_array(hot, 32, 1) != film_of_array(hot, 32, 2)).any()


def test_data_sets_are_answered_as_their_files(house, bundle, tmp_path):
    data = make(np.random.default_rng(2).integers(0, 4000, (48, 40)).astype(np.uint16))
    (tmp_path / "film.dcm").write_bytes(data)
    table = told(house, tmp_path / "p.csv", tmp_path / "film.dcm")
    dataset = pydicom.dcmread(tmp_path / "film.dcm")
    before = dataset.to_json()
    found = bundle.predict([dataset, dataset])
    assert_alike(found, pd.concat([table, table], ignore_index=True))
    assert found["path"][0] == str(dataset.get("SOPInstanceUID") or 0)
    assert dataset.to_json() == before
    np.testing.assert_array_equal(bundle.predict_proba(dataset), table[bundle.slugs].to_numpy())
    bare = pydicom.Dataset(dataset)  # without a preamble
    bare.file_meta = dataset.file_meta
    assert_alike(bundle.predict(bare), table)


@pytest.mark.parametrize(
    ("film", "reason"),
    [
        (np.zeros((8, 8), np.uint8), "blank image"),
        (np.linspace(0, 255, 64).reshape(8, 8), "floats from 0 to 255; floats are shares of white"),
        (np.full((8, 8), np.nan), "floats from nan"),
        (np.eye(8, dtype=bool), "an array of bool"),
        (np.zeros((8, 8, 3), np.uint8)[None], "shape"),
        (np.array([["a", "b"]]), "an array of <U1"),
    ],
)
def test_what_is_no_film_is_refused_with_its_number(bundle, films, film, reason):
    with pytest.raises(InputError, match=f"Film 1: .*{reason}"):
        bundle.predict_proba([films[0], film])


def test_the_table_leaves_out_what_cannot_be_used_and_says_so(bundle, films, paths, tmp_path, caplog):
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        table = bundle.predict([broken, *paths])
    assert table["path"].tolist() == [str(path) for path in paths]
    assert table.attrs["rejected"] == {str(broken): "truncated"}
    assert "1 films could not be used" in caplog.text
    assert bundle.predict([np.zeros((8, 8), np.uint8), films[0]])["path"].tolist() == ["1"]
    unwritable = pydicom.Dataset()
    unwritable.PatientID = "1"
    assert "pydicom cannot write" in bundle.predict([unwritable]).attrs["rejected"]["0"]


@pytest.mark.parametrize("films", [[], [3], None, ["film.png", np.zeros((8, 8))]])
def test_nothing_other_things_and_mixtures_are_refused(films):
    with pytest.raises(InputError, match="of one kind; got"):
        named_films(films)


def test_no_batch_changes_an_answer(bundle, films):
    many = np.concatenate([films] * 9)
    np.testing.assert_allclose(bundle.predict_proba(many)[:5], bundle.predict_proba(films), atol=1e-6)


def test_an_array_is_what_decoding_gives(paths, films):
    np.testing.assert_array_equal(film_of_array(decode(paths[0]), 32), films[0])
