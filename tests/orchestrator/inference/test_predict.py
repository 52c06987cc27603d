"""orchestrator/inference/predict.py: image files in, a table of probabilities out; what cannot be read is listed."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from models.data.cache import open_images
from models.data.images import load_image
from models.data.intensity import INTENSITY_CONTRACTS
from models.files.layout import read_json
from orchestrator.inference.bundle import load_bundle
from orchestrator.inference.films import collect_paths
from orchestrator.inference.predict import PredictRequest, predict
from pathologies.errors import InputError
from tests.coded_films import make
from tests.damage import damaged, unknown_type, whole_files
from tests.small_run import rewrite_bundle, write_films

COLUMNS = ["path", "edema", "pneumonia", "edema_positive", "pneumonia_positive"]


@pytest.fixture(scope="module")
def folder(house, tmp_path_factory):
    """Five films of the data set as PNG files, two of them below a folder of their own."""
    root = tmp_path_factory.mktemp("films")
    films = open_images(house / "dataset")
    write_films(root, films[:3])
    write_films(root / "deeper", films[3:5])
    return root


def run(house, out, *inputs, **request):
    return predict(PredictRequest(bundle=house / "bundle", inputs=tuple(map(str, inputs)), out=out, device="cpu",
                                  **request))  # fmt: skip


def test_the_table_is_what_the_bundle_says_of_the_cache(house, folder, tmp_path):
    """The same pixels, whether they come from a file or from the prepared data set."""
    result = run(house, tmp_path / "p.csv", folder)
    table = pd.read_csv(tmp_path / "p.csv")
    assert table.columns.tolist() == COLUMNS
    assert [path.rpartition("/")[2] for path in table["path"]] == [
        "film000.png", "film001.png", "film000.png", "film001.png", "film002.png"
    ]  # fmt: skip
    bundle = load_bundle(house / "bundle", "cpu")
    expected = bundle.probabilities(open_images(house / "dataset")[[3, 4, 0, 1, 2]])
    np.testing.assert_allclose(table[bundle.slugs], expected, atol=1e-4)
    threshold = bundle.classifiers[1].threshold
    np.testing.assert_array_equal(table["pneumonia_positive"], (expected[:, 1] >= threshold).astype(int))
    assert not (tmp_path / "p.rejected.csv").exists()
    assert len(result.rejected) == 0


def test_files_folders_and_globs_each_image_once(folder):
    names = [path.name for path in collect_paths([str(folder / "film002.png"), str(folder / "film00[01].png")])]
    assert names == ["film002.png", "film000.png", "film001.png"]
    assert len(collect_paths([str(folder), str(folder / "film000.png"), str(folder / "**" / "*.png")])) == 5


def test_a_file_whose_name_looks_like_a_glob_is_a_file(folder, tmp_path):
    strange = tmp_path / "film[1].png"
    shutil.copy(folder / "film000.png", strange)
    assert collect_paths([str(strange)]) == [strange]


def test_a_csv_with_a_path_column(folder, tmp_path):
    pd.DataFrame({"age": [50, 60], "Path": ["film001.png", "deeper/film000.png"]}).to_csv(folder / "list.csv")
    assert collect_paths([str(folder / "list.csv")]) == [folder / "film001.png", folder / "deeper" / "film000.png"]


def test_names_in_a_csv_stay_as_they_are(tmp_path):
    (tmp_path / "list.csv").write_text("path\n00000001\nNA\n")
    assert [path.name for path in collect_paths([str(tmp_path / "list.csv")])] == ["00000001", "NA"]


def test_a_csv_without_a_path_column_is_told_apart(tmp_path):
    (tmp_path / "list.csv").write_text("age,sex\n50,F\n")
    with pytest.raises(ValueError, match=r"no path column\. It has: age, sex\. One of these is wanted: path"):
        collect_paths([str(tmp_path / "list.csv")])


@pytest.mark.parametrize(
    ("name", "error"), [("nowhere", "no file or folder"), ("none*.png", "No file matches"), ("", "No image below")]
)
def test_inputs_that_lead_nowhere(tmp_path, name, error):
    with pytest.raises(FileNotFoundError, match=error):
        collect_paths([str(tmp_path / name)])


def test_nothing_asked_for():
    with pytest.raises(ValueError, match="Nothing to predict"):
        collect_paths([])


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(house, folder, tmp_path):
    whole = (folder / "film000.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    Image.new("L", (32, 32), 7).save(tmp_path / "blank.png")
    shutil.copy(folder / "film000.png", tmp_path / "good.png")
    (tmp_path / "list.csv").write_text("path\ngood.png\nabsent.png\n")
    result = run(house, tmp_path / "out" / "p.csv", tmp_path / "list.csv", tmp_path)
    rejected = pd.read_csv(tmp_path / "out" / "p.rejected.csv").set_index("path")["reason"]
    reasons = {path.rpartition("/")[2]: reason for path, reason in rejected.items()}
    assert reasons["cut.png"] == "truncated"
    assert reasons["empty.jpg"] == "empty"
    assert reasons["blank.png"] == "blank image"
    assert reasons["absent.png"] == "missing"
    assert "not an image" in reasons["text.png"]
    assert result.predictions["path"].tolist() == [str(tmp_path / "good.png")]
    run(house, tmp_path / "out" / "p.csv", tmp_path / "good.png")
    assert not (tmp_path / "out" / "p.rejected.csv").exists()


def test_damaged_files_of_every_kind_end_nobody_elses_prediction(house, folder, tmp_path):
    files = whole_files()
    broken = {f"{seed:02d}-{name}": damaged(data, seed) for seed, (name, data) in enumerate(sorted(files.items()))}
    broken |= {"late.dcm": unknown_type(files["ExplicitVRLittleEndian.dcm"])}
    for name, data in broken.items():
        (tmp_path / "films" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "films" / name).write_bytes(data)
    shutil.copy(folder / "film000.png", tmp_path / "films" / "05-good.png")
    result = run(house, tmp_path / "p.csv", tmp_path / "films")
    answered = [path.rpartition("/")[2] for path in result.predictions["path"]]
    rejected = {path.rpartition("/")[2]: reason for path, reason in result.rejected.itertuples(index=False)}
    assert sorted([*answered, *rejected]) == sorted([*broken, "05-good.png"])
    assert "05-good.png" in answered
    assert rejected["late.dcm"] == "damaged DICOM"
    assert len(pd.read_csv(tmp_path / "p.rejected.csv")) == len(rejected) > 5


def test_all_unreadable_gives_an_empty_table_with_its_columns(house, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    result = run(house, tmp_path / "p.csv", tmp_path / "text.png")
    assert len(result.predictions) == 0
    assert pd.read_csv(tmp_path / "p.csv").columns.tolist() == COLUMNS


def test_parquet_holds_the_same(house, folder, tmp_path):
    run(house, tmp_path / "p.csv", folder)
    run(house, tmp_path / "p.parquet", folder)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert table.columns.tolist() == COLUMNS
    assert table["edema_positive"].dtype == "Int8"
    np.testing.assert_allclose(table[COLUMNS[1:3]], pd.read_csv(tmp_path / "p.csv")[COLUMNS[1:3]], atol=1e-6)


def test_another_table_is_refused_before_the_work(house, folder, tmp_path):
    with pytest.raises(ValueError, match=r"p\.txt: the table is written as \.csv or \.parquet"):
        run(house, tmp_path / "p.txt", folder)


def test_a_dicom_film_is_read(house, tmp_path):
    film = open_images(house / "dataset")[0]
    (tmp_path / "film.dcm").write_bytes(make(film.astype(np.uint16) * 16))
    result = run(house, tmp_path / "p.csv", tmp_path / "film.dcm")
    assert len(result.predictions) == 1
    stretched = film.astype(float) - film.min()
    prepared = np.rint(stretched / stretched.max() * 255).astype(np.uint8)
    expected = load_bundle(house / "bundle", "cpu").probabilities(prepared[None])
    np.testing.assert_allclose(result.predictions[["edema", "pneumonia"]], expected, atol=1e-3)


def test_a_bundle_of_before_keeps_its_way_to_decode(house, tmp_path):
    """One hot pixel: by the first version of the intensity contract the film is all but black."""
    film = open_images(house / "dataset")[0].astype(np.uint16) * 16
    film[3, 4] = 65535
    (tmp_path / "film.dcm").write_bytes(make(film, bits=16))
    bundle = shutil.copytree(house / "bundle", tmp_path / "bundle")
    description = read_json(bundle / "bundle.json")
    found = {}
    for version, contract in INTENSITY_CONTRACTS.items():
        description["input"]["intensity"] = dict(contract)
        rewrite_bundle(bundle, description)
        request = PredictRequest(bundle=bundle, inputs=(str(tmp_path / "film.dcm"),), out=tmp_path / "p.csv",
                                 device="cpu")  # fmt: skip
        found[version] = predict(request).predictions[["edema", "pneumonia"]].to_numpy()
        expected = load_bundle(bundle, "cpu").probabilities(load_image(tmp_path / "film.dcm", 32, version)[None])
        np.testing.assert_allclose(found[version], expected, atol=1e-6)
    assert np.abs(found[1] - found[2]).max() > 1e-3
    description["input"]["intensity"]["version"] = 9
    rewrite_bundle(bundle, description, test=False)
    with pytest.raises(InputError, match=r"version 9 of the intensity contract; known: 1, 2\. Update hilum"):
        load_bundle(bundle, "cpu")


def test_without_a_useful_threshold_there_is_no_call(house, folder, tmp_path):
    bundle = shutil.copytree(house / "bundle", tmp_path / "bundle")
    description = read_json(bundle / "bundle.json")
    entry = description["findings"]["pneumonia"]
    entry["operating_points"][entry["operating_point"]]["useful"] = False
    rewrite_bundle(bundle, description)
    request = PredictRequest(bundle=bundle, inputs=(str(folder),), out=tmp_path / "p.csv", device="cpu")
    result = predict(request)
    assert "pneumonia" in result.without_threshold
    table = pd.read_csv(tmp_path / "p.csv")
    assert table["pneumonia_positive"].isna().all()
    assert table["pneumonia"].notna().all()


def test_more_films_than_a_batch_keep_their_order(house, tmp_path):
    films = open_images(house / "dataset")[:150]
    paths = write_films(tmp_path / "films", films)
    seen = []
    request = PredictRequest(
        bundle=house / "bundle", inputs=(str(tmp_path / "films"),), out=tmp_path / "p.csv", device="cpu", workers=3
    )
    result = predict(request, lambda done, total: seen.append((done, total)))
    assert result.predictions["path"].tolist() == list(map(str, paths))
    expected = load_bundle(house / "bundle", "cpu").probabilities(films)
    np.testing.assert_allclose(result.predictions[["edema", "pneumonia"]], expected, atol=1e-4)
    assert seen[-1] == (150, 150)
