"""orchestrator/datasets/embed.py, models/data/features.py: features survive kills and damage and are not mixed up."""

import hashlib
import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from models.data import features as features_module
from models.data.features import open_features, read_block, read_description, write_block
from models.data.loading import normalise
from models.files.checksummed import load_weights
from models.files.layout import DatasetPaths, FeaturePaths
from models.network.encoder import EncoderWish, build_encoder
from orchestrator.datasets import embed as embed_module
from orchestrator.datasets.embed import EmbedRequest, embed
from tests.small_data import make_dataset
from tests.small_run import silent


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=5, in_chans=3).state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "BLOCK", 32)
    return make_dataset(tmp_path / "dataset", films=90)


def run(dataset, weights, on_event=silent, **wish):
    wish = EncoderWish(**{"encoder": "test_resnet", "weights": weights, "size": 32} | wish)
    found = embed(EmbedRequest(dataset=dataset, wish=wish, device="cpu", threads=1), on_event)
    return found, DatasetPaths(dataset).features(found["digest"])


def hash_of(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_row_i_is_what_the_encoder_says_about_film_i(dataset, weights):
    found, paths = run(dataset, weights)
    stored = open_features(paths, found)
    assert stored.shape == (90, 96)
    assert stored.dtype == np.float32
    network = build_encoder(found["encoder"]["architecture"], found["encoder"]["standardise"]).eval()
    network.load_state_dict(load_weights(paths.encoder))
    images = np.fromfile(DatasetPaths(dataset).images, np.uint8).reshape(90, 32, 32)
    with torch.inference_mode():
        for film in (0, 41, 89):
            said = network(normalise(torch.from_numpy(images[film : film + 1].copy()), 0.5, 0.5, 32))[0]
            np.testing.assert_allclose(stored[film], said.numpy(), atol=1e-4)
    assert hash_of(paths.features) == found["features_sha256"]
    assert hash_of(paths.encoder) == found["encoder"]["weights_sha256"]
    assert not paths.blocks.exists()


class Killed(Exception):
    pass


def test_after_a_kill_it_goes_on_from_whole_blocks_to_the_same_bytes(dataset, weights, tmp_path, monkeypatch):
    def kill(event):
        if event.get("done", 0) >= 64:
            raise Killed

    with pytest.raises(Killed):
        run(dataset, weights, kill)
    [folder] = DatasetPaths(dataset).all_features.iterdir()
    paths = FeaturePaths(folder)
    assert not paths.description.exists()
    first, second = sorted(paths.blocks.glob("*.npy"))
    torn = second.read_bytes()
    second.write_bytes(torn[:-8] + b"\0" * 8)  # a disk that damaged one of them
    computed, real = [], embed_module._features
    monkeypatch.setattr(
        embed_module, "_features", lambda net, films, *more: computed.append(len(films)) or real(net, films, *more)
    )
    run(dataset, weights)
    assert computed == [32, 26], "the damaged block and the one that was missing"
    whole = make_dataset(tmp_path / "another", films=90)
    found, other = run(whole, weights)
    assert paths.features.read_bytes() == other.features.read_bytes()
    assert json.loads(paths.description.read_text(encoding="utf-8"))["features_sha256"] == found["features_sha256"]


def test_a_second_time_nothing_is_computed(dataset, weights, monkeypatch):
    found, paths = run(dataset, weights)
    assert found["computed"]
    monkeypatch.setattr(embed_module, "_features", lambda *words: pytest.fail("computed again"))
    again, _ = run(dataset, weights)
    assert not again["computed"]
    assert again["features_sha256"] == found["features_sha256"]


def test_each_encoder_has_a_folder_of_its_own(dataset, weights):
    _, one = run(dataset, weights)
    _, two = run(dataset, weights, normalisation="dataset")
    assert one.root != two.root
    assert one.features.read_bytes() != two.features.read_bytes()


def test_damaged_features_are_a_sentence(dataset, weights):
    found, paths = run(dataset, weights)
    content = paths.features.read_bytes()
    paths.features.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"has 34556 bytes; 34560 make 90 films x 96 features"):
        open_features(paths, found)
    paths.features.write_bytes(b"\0" * len(content))
    with pytest.raises(ValueError, match="is not the features of these films"):
        run(dataset, weights)


def test_no_features_are_a_sentence_that_says_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="hilum embed DATASET"):
        read_description(FeaturePaths(tmp_path / "absent"))


def test_a_block_is_whole_or_not_there(tmp_path):
    paths, block = FeaturePaths(tmp_path), np.arange(12, dtype=np.float32).reshape(4, 3)
    write_block(paths, 0, block)
    np.testing.assert_array_equal(read_block(paths, 0, (4, 3)), block)
    assert read_block(paths, 1, (4, 3)) is None
    assert read_block(paths, 0, (5, 3)) is None, "of another shape"
    assert not list(paths.blocks.glob("*.npy")), "and is removed"


def test_weights_that_say_nothing_are_refused(dataset, tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=5, in_chans=3).state_dict()
    save_file({name: value * float("nan") if value.is_floating_point() else value for name, value in state.items()},
              tmp_path / "nan.safetensors")  # fmt: skip
    with pytest.raises(ValueError, match="no number"):
        run(dataset, tmp_path / "nan.safetensors")
