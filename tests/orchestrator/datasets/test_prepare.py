"""orchestrator/datasets/prepare.py: a data set that is complete or resumed, the same bytes for the same input."""

import fcntl
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from models.data.images import load_image, try_load_image
from models.data.intensity import INTENSITY_CONTRACT, INTENSITY_CONTRACTS
from models.files.layout import DatasetPaths, write_json
from orchestrator.datasets import decoding
from orchestrator.datasets.dataset import load_dataset
from orchestrator.datasets.prepare import draw_patients, prepare
from orchestrator.datasets.request import PrepareRequest
from pathologies.errors import InputError
from tests.conftest import PROJECT
from tests.damage import unknown_type, whole_files
from tests.label_files import write
from tests.nih_like import write_nih_like
from tests.pathologies.sources.test_padchest import PADCHEST_HEADER, padchest_row

SIZE = 32


@pytest.fixture
def request_(tmp_path):
    labels = write_nih_like(tmp_path / "nih")
    return PrepareRequest(
        source="nih", labels=labels, images=labels.parent / "images", out=tmp_path / "out", size=SIZE, shard_images=5
    )


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are decoded from here on."""
    names = []

    def load(file, *how):
        names.append(file.name)
        return try_load_image(file, *how)

    monkeypatch.setattr(decoding, "try_load_image", load)
    return names


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def films(request):
    return sorted(request.images.iterdir())


def test_rows_images_and_parts_belong_together(request_):
    manifest = prepare(request_)
    paths = DatasetPaths(request_.out)
    assert sorted(content(request_.out)) == [
        "images.u8",
        "labels.parquet",
        "manifest.json",
        "rejected.csv",
        "split.csv",
    ]
    frame, split = pd.read_parquet(paths.labels), pd.read_csv(paths.split, dtype=str)
    images = np.fromfile(paths.images, np.uint8).reshape(-1, SIZE, SIZE)
    assert len(frame) == len(split) == len(images) == manifest["images"] == 48
    for row in (0, 17, 47):
        assert np.array_equal(images[row], load_image(request_.images / frame["path"][row], SIZE))
    assert frame["image_id"].tolist() == split["image_id"].tolist()
    assert (split.groupby("patient_id")["part"].nunique() == 1).all()
    train = (split["part"] == "train").to_numpy()
    assert manifest["pixel_mean"] == pytest.approx(images[train].mean() / 255)
    assert manifest["pixel_std"] == pytest.approx(images[train].std() / 255)
    for part, facts in manifest["parts"].items():
        rows = frame[split["part"] == part]
        assert facts["images"] == len(rows)
        assert facts["patients"] == rows["patient_id"].nunique()
        assert facts["positives"]["pneumonia"] == (rows["pneumonia"] == 1).sum()
    assert manifest["sources"] == {"nih": manifest["findings"]}
    assert manifest["intensity"] == INTENSITY_CONTRACT
    assert manifest["reference_contract"]["policies"]["pneumonia"] == {"uncertain": "ignore", "blank": "zero"}


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(request_, tmp_path):
    prepare(request_)
    shutil.copytree(request_.labels.parent, tmp_path / "elsewhere")
    moved = replace(
        request_,
        labels=tmp_path / "elsewhere" / request_.labels.name,
        images=tmp_path / "elsewhere" / "images",
        out=tmp_path / "again",
        workers=1,
        shard_images=512,
    )
    prepare(moved)
    assert content(request_.out) == content(moved.out)


def test_a_complete_data_set_is_not_touched(request_, decoded):
    first, events = prepare(request_), []
    before = content(request_.out)
    decoded.clear()
    assert prepare(replace(request_, workers=1, shard_images=9), events.append) == first
    assert [event["event"] for event in events] == ["complete"]
    with pytest.raises(ValueError, match="(?s)size: it has 32, asked for 16.*seed: it has 0, asked for 1"):
        prepare(replace(request_, size=16, seed=1))
    with pytest.raises(ValueError, match="'frontal': False.*'frontal': True"):
        prepare(replace(request_, frontal=True))
    with request_.labels.open("a") as file:
        file.write("00000099_000.png,Mass,0,99,58,M,PA,2500,2048,0.1,0.1,\n")
    with pytest.raises(ValueError, match="label_file_sha256"):
        prepare(request_)
    assert content(request_.out) == before
    assert decoded == []


def test_unknown_labels_are_kept_and_data_sets_of_before_are_read_as_they_were(tmp_path):
    lists = ["['unchanged', 'pneumonia']", *["['pneumonia']", "['normal']"] * 4]
    labels = write(tmp_path / "p.csv", PADCHEST_HEADER, *[padchest_row(2 * i, cell) for i, cell in enumerate(lists)])
    rng = np.random.default_rng(0)
    for number in range(0, 2 * len(lists), 2):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE), np.uint8)).save(tmp_path / "images" / f"i{number}.png")
    request = PrepareRequest(source="padchest", labels=labels, images=tmp_path / "images", out=tmp_path / "out",
                             size=SIZE, options={"allow_absent": True})  # fmt: skip
    manifest = prepare(request)
    assert manifest["label_codes"]["-2"].startswith("unknown")
    frame = load_dataset(request.out).read_labels_frame()
    assert frame["edema"].tolist() == [-2] + [0] * 8
    assert frame["edema"].dtype == np.float32
    del manifest["label_codes"], manifest["manifest_sha256"]
    write_json(DatasetPaths(request.out).manifest, manifest)
    events = []
    prepare(request, events.append)
    assert [event["event"] for event in events] == ["complete", "note"]
    assert "read as not mentioned" in events[1]["message"]
    assert load_dataset(request.out).manifest == manifest


def test_a_data_set_of_before_keeps_its_intensity_contract(request_):
    """The same command onto a complete one is a no-op for ever, and another asks for it by number."""
    first = prepare(replace(request_, intensity=1))
    assert first["intensity"] == INTENSITY_CONTRACTS[1]
    assert prepare(request_) == first
    with pytest.raises(InputError, match="intensity: it has"):
        prepare(replace(request_, intensity=2))
    with pytest.raises(InputError, match=r"version 3 of the intensity contract; known: 1, 2"):
        replace(request_, intensity=3)


def test_the_version_decides_how_films_are_decoded(request_):
    hot = films(request_)[0]
    deep = np.random.default_rng(0).integers(0, 4096, (48, 48)).astype(np.uint16)
    deep[5, 5] = 65535
    Image.fromarray(deep).save(hot)
    for version in (1, 2):
        out = request_.out.with_name(f"version{version}")
        prepare(replace(request_, out=out, intensity=version))
        images = np.fromfile(DatasetPaths(out).images, np.uint8).reshape(-1, SIZE, SIZE)
        row = pd.read_parquet(DatasetPaths(out).labels)["image_id"].tolist().index(hot.name)
        assert np.array_equal(images[row], load_image(hot, SIZE, version))
    assert load_image(hot, SIZE, 2).std() > 3 * load_image(hot, SIZE, 1).std()


def test_bad_files_are_named_and_the_rest_goes_on(request_):
    bad = films(request_)[3:8]
    bad[0].unlink()
    bad[1].write_bytes(bad[1].read_bytes()[:200])
    bad[2].write_text("no image")
    Image.new("L", (9, 9), 200).save(bad[3])
    bad[4].write_bytes(unknown_type(whole_files()["ExplicitVRLittleEndian.dcm"]))
    request_ = replace(request_, max_rejected=0.11)
    events = []
    manifest = prepare(request_, events.append)
    rejected = pd.read_csv(DatasetPaths(request_.out).rejected)
    assert dict(zip(rejected["image"], rejected["reason"], strict=True)) == {
        bad[0].name: "missing",
        bad[1].name: "truncated",
        bad[2].name: "not an image (PNG, JPEG or DICOM)",
        bad[3].name: "blank image",
        bad[4].name: "damaged DICOM",
    }
    assert sum(manifest["rejected"].values()) == 5
    assert manifest["images"] == 43
    frame = pd.read_parquet(DatasetPaths(request_.out).labels)
    images = np.fromfile(DatasetPaths(request_.out).images, np.uint8).reshape(-1, SIZE, SIZE)
    for row in (2, 3, 42):
        assert np.array_equal(images[row], load_image(request_.images / frame["path"][row], SIZE))
    progress = [event for event in events if event["event"] == "progress"]
    assert (progress[-1]["done"], progress[-1]["total"], progress[-1]["rejected"]) == (48, 48, 5)


def test_too_many_bad_files_stop_it_and_are_looked_at_again(request_, decoded):
    broken = {path: path.read_bytes() for path in films(request_)[2:4] + films(request_)[10:16]}
    for path in broken:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="at most 10% may be rejected") as error:
        prepare(request_)
    lines = [line for line in str(error.value).splitlines() if line.endswith(": empty")]
    assert [Path(line.strip().removesuffix(": empty")) for line in lines] == list(broken)[:5]
    assert not DatasetPaths(request_.out).manifest.exists()
    for path, data in broken.items():
        path.write_bytes(data)
    decoded.clear()
    assert prepare(request_)["rejected"] == {}
    assert {path.name for path in broken} <= set(decoded)
    assert films(request_)[5].name not in decoded  # its shard was finished and had nothing rejected


def test_the_share_of_rejected_is_an_option(request_):
    for path in films(request_)[10:18]:
        path.unlink()
    assert prepare(replace(request_, max_rejected=0.2))["rejected"] == {"missing": 8}


def test_filters_and_subsets_are_counted(request_):
    manifest = prepare(replace(request_, projections=("AP",), patients=15, first_studies=1))
    assert manifest["images"] == 15
    assert manifest["dropped"] == {"projections": 24, "first_studies": 0, "patients": 9}
    left_out = pd.read_csv(DatasetPaths(request_.out).rejected)["reason"].value_counts().to_dict()
    assert left_out == {"not chosen: projections": 24, "not chosen: patients": 9}
    assert manifest["images"] + 24 + 9 == 48
    assert manifest["filters"] == {"frontal": False, "first_studies": 1, "patients": 15, "projections": ["AP"]}


def test_the_drawn_patients_grow_with_the_number_and_change_with_the_seed():
    names = pd.Series([f"patient{number:05d}" for number in range(50)] * 2)
    ten, twenty = draw_patients(names, 10, 0), draw_patients(names[::-1], 20, 0)
    assert ten < twenty
    assert len(twenty) == 20
    assert ten != draw_patients(names, 10, 1)


def test_folds_test_every_film_once(request_, tmp_path):
    tested = []
    for number in (1, 2, 3):
        prepare(replace(request_, fold=(number, 3), out=tmp_path / str(number)))
        split = pd.read_csv(DatasetPaths(tmp_path / str(number)).split, dtype=str)
        tested += split.loc[split["part"] == "test", "image_id"].tolist()
    assert sorted(tested) == sorted(path.name for path in films(request_))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source": "nhi"}, ValueError, "Did you mean 'nih'"),
        ({"labels": Path("absent.csv")}, FileNotFoundError, "No label file at 'absent.csv'"),
        ({"images": Path("absent")}, FileNotFoundError, "No image folder at 'absent'"),
        ({"fractions": (0.5, 0.1, 0.1, 0.1)}, ValueError, "must add up to 1"),
        ({"fold": (6, 5)}, ValueError, "Fold 6/5"),
        ({"projections": ("LL",)}, ValueError, "No film has projection 'LL'"),
        ({"patients": 2}, ValueError, "2 patients cannot fill the 4 parts"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(request_, decoded, change, error, message):
    with pytest.raises(error, match=message):
        prepare(replace(request_, **change))
    assert not request_.out.exists()
    assert decoded == []


@pytest.mark.parametrize("change", [{"size": 8}, {"size": 9000}, {"patients": 0}, {"workers": 0}, {"max_rejected": 10}])
def test_an_impossible_request_is_refused(request_, change):
    with pytest.raises(ValueError, match=rf"{next(iter(change))} is {next(iter(change.values()))}\. Allowed"):
        replace(request_, **change)


def test_a_folder_of_other_things_is_refused(request_):
    request_.out.mkdir()
    (request_.out / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds thesis\.tex"):
        prepare(request_)
    with pytest.raises(ValueError, match="is a file"):
        prepare(replace(request_, out=request_.out / "thesis.tex"))
    assert [path.name for path in request_.out.iterdir()] == ["thesis.tex"]


def test_a_second_prepare_at_the_same_time_is_refused(request_):
    paths = DatasetPaths(request_.out)
    paths.shards.mkdir(parents=True)
    with paths.lock.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="Another prepare is writing"):
            prepare(request_)
    prepare(request_)


SLOW_PREPARE = """
import sys, time
from pathlib import Path
from orchestrator.datasets import decoding
from orchestrator.datasets.prepare import prepare
from orchestrator.datasets.request import PrepareRequest
load = decoding.try_load_image
def slowly(file, *how):
    time.sleep(0.02)
    return load(file, *how)
decoding.try_load_image = slowly
labels, out = Path(sys.argv[1]), Path(sys.argv[2])
prepare(PrepareRequest(source="nih", labels=labels, images=labels.parent / "images", out=out, size=32, shard_images=5))
"""


def test_a_killed_prepare_goes_on_from_its_finished_shards(request_, tmp_path, decoded):
    films(request_)[1].write_text("no image")
    paths = DatasetPaths(request_.out)
    command = [sys.executable, "-c", SLOW_PREPARE, str(request_.labels), str(request_.out)]
    child = subprocess.Popen(command, cwd=PROJECT)
    try:
        deadline = time.monotonic() + 30
        while len(list(paths.shards.glob("0*.npz"))) < 3:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    finished = len(list(paths.shards.glob("0*.npz")))
    assert 3 <= finished < 10
    (paths.shards / ".tmp-000000000000-left.npz").write_bytes(b"torn")
    events = []
    prepare(request_, events.append)
    assert {"event": "resumed", "message": f"{5 * finished} of 48 images were decoded before"} in events
    assert sorted(decoded) == [path.name for path in films(request_)[5 * finished :]]
    undisturbed = replace(request_, out=tmp_path / "undisturbed")
    prepare(undisturbed)
    assert content(request_.out) == content(undisturbed.out)


def test_shards_of_another_request_are_not_reused(request_, decoded, monkeypatch):
    monkeypatch.setattr("orchestrator.datasets.prepare.join_shards", lambda *paths: pytest.fail("stopped here"))
    with pytest.raises(pytest.fail.Exception):
        prepare(request_)
    monkeypatch.undo()
    monkeypatch.setattr(
        decoding, "try_load_image", lambda file, *how: decoded.append(file.name) or try_load_image(file, *how)
    )
    decoded.clear()
    prepare(replace(request_, size=16))
    assert len(decoded) == 48
    assert not DatasetPaths(request_.out).shards.exists()


def test_real_films(tmp_path, real_data):
    sample = real_data / "nih-sample"
    request = PrepareRequest(
        source="nih",
        labels=sample / "Data_Entry_2017.csv",
        images=sample / "images",
        out=tmp_path / "out",
        size=64,
        patients=60,
        fold=(2, 5),
    )
    manifest = prepare(request)
    assert manifest["rejected"] == {}
    assert sum(part["patients"] for part in manifest["parts"].values()) == 60
    assert 0.35 < manifest["pixel_mean"] < 0.7
    assert 0.15 < manifest["pixel_std"] < 0.35
