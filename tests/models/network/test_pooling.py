"""models/network/pooling.py: what each pooling makes of a map, in networks of timm and ours, and in a bundle."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from models.config import CHOICES, TrainConfig
from models.network.architecture import Architecture, architecture_of
from models.network.builder import build_network, initial_network
from models.network.pooling import SHARPNESS, Pool
from models.network.suitability import require_films
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.inference.bundle import load_bundle, self_test
from orchestrator.planning.backbones import require_films as require_films_elsewhere
from orchestrator.planning.memory import film_bytes
from tests.fake_run import QUICK
from tests.small_data import make_dataset
from tests.small_run import train_inline

OTHERS = [how for how in CHOICES["pooling"] if how != "avg"]
# the pooling lies in the network, in its head, behind a map whose channels come last, before a further layer
SWIN = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "img_size": 224}
NETWORKS = {"test_resnet": {}, "plain": {}, "densenet121": {}, "convnext_atto": {}, "mobilenetv3_small_100": {},
            "regnety_004": {}, "swin_tiny_patch4_window7_224": SWIN}  # fmt: skip


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(3, 5, 4, 6)


def test_each_pooling_is_its_formula(features):
    places = features.flatten(2).double()
    expected = {
        "max": places.amax(-1),
        "lse": torch.log(torch.exp(SHARPNESS * places).mean(-1)) / SHARPNESS,
        "attention": places.mean(-1),  # as it begins
    }
    for how in OTHERS:
        found = Pool(how, 5, flat=True)(features)
        torch.testing.assert_close(found.double(), expected[how], atol=1e-5, rtol=1e-5)
        last = Pool(how, 5, channel=3)(features.movedim(1, -1))
        assert last.shape == (3, 1, 1, 5)
        torch.testing.assert_close(last.flatten(1), found)


def test_a_small_sign_is_lost_in_the_mean_and_in_no_other_pooling_that_has_learnt():
    """One place of 64 says 3, the others nothing: what reaches the last layer."""
    film, empty = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    film[0, 0, 2, 5] = 3.0
    seen = {"avg": float((film - empty).mean((2, 3))[0, 0])}
    for how in OTHERS:
        pool = Pool(how, 2, flat=True)
        if how == "attention":
            pool.score.weight.data[:] = torch.tensor([[2.0, 0.0]])
        with torch.no_grad():
            seen[how] = float((pool(film) - pool(empty))[0, 0])
    assert seen["avg"] < 0.05
    assert min(seen[how] for how in OTHERS) > 2


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", OTHERS)
def test_it_takes_the_place_of_the_mean_in_a_network(name, how):
    size = 224 if "224" in name else 64
    torch.manual_seed(0)
    network = Architecture(name=name, args=NETWORKS[name] | {"pooling": how}).build(outputs=2).eval()
    torch.manual_seed(0)
    plain = Architecture(name=name, args=NETWORKS[name]).build(outputs=2).eval()
    network.load_state_dict(plain.state_dict(), strict=False)
    film = 100 * torch.rand(2, 1, size, size)
    with torch.no_grad():
        found, mean = network(film), plain(film)
    assert found.shape == (2, 2)
    if how == "attention":  # begins as the mean
        torch.testing.assert_close(found, mean, atol=1e-4, rtol=1e-4)
    else:
        assert (found - mean).abs().max() > 1e-4


def test_attention_learns_where_to_look():
    network = build_network("test_resnet", args={"pooling": "attention"}).train()
    network(torch.rand(4, 1, 96, 96)).sum().backward()
    [name] = [name for name, _ in network.named_parameters() if "score" in name]
    assert network.get_parameter(name).grad.abs().sum() > 0


def test_a_transformer_keeps_its_own_and_another_is_a_sentence():
    build_network("test_vit", args={"pooling": "avg"})
    with pytest.raises(ValueError, match="backbone=test_vit has no mean.*pooling=max.*Leave pooling=avg"):
        build_network("test_vit", args={"pooling": "max"})
    with pytest.raises(ValueError, match="pooling='median' is not one of.*Update hilum"):
        build_network("test_resnet", args={"pooling": "median"})
    with pytest.raises(ValueError, match="has no mean over a map"):
        require_films(TrainConfig(backbone="test_vit3", pooling="lse"), 64)


def test_defaults_leave_the_architecture_and_its_bytes_alone():
    assert architecture_of(TrainConfig(backbone="test_resnet"), 64) == Architecture(name="test_resnet")
    torch.manual_seed(0)
    ours = build_network("plain").eval()
    film = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        by_hand = ours.backbone.head(ours.backbone.forward_features(film).mean(dim=(2, 3)))[:, 0]
        assert torch.equal(ours(film), by_hand), "to the bit: bundles of before"
    assert not [name for name in ours.state_dict() if "pool" in name]


@pytest.mark.parametrize(("stride", "side"), [(None, 2), (16, 4), (8, 8)])
def test_output_stride_makes_the_last_map_finer_without_other_weights(stride, side):
    kind = architecture_of(TrainConfig(backbone="test_resnet", output_stride=stride))
    network = kind.build()
    assert network.forward_features(torch.zeros(1, 1, 64, 64)).shape[2:] == (side, side)
    network.load_state_dict(Architecture(name="test_resnet").build().state_dict())


@pytest.mark.parametrize("name", ["densenet121", "plain", "test_vit3"])
def test_a_backbone_without_such_strides_is_a_sentence(name):
    with pytest.raises(ValueError, match="output_stride"):
        require_films(TrainConfig(backbone=name, output_stride=16), 64)


@pytest.mark.slow
def test_it_is_said_before_anything_starts():
    with pytest.raises(ValueError, match="densenet121 cannot be built with output_stride=16"):
        require_films_elsewhere(TrainConfig(backbone="densenet121", output_stride=16), 64)


def test_a_finer_map_is_known_to_take_memory():
    plain, finer = (film_bytes(TrainConfig(output_stride=stride), 224) for stride in (None, 8))
    assert finer > 2 * plain


def test_weights_of_others_and_of_a_training_with_attention_are_started_from(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=5, in_chans=3)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    settings = {"backbone": "test_resnet", "pooling": "attention"}
    network = initial_network(TrainConfig(**settings, pretrained=str(tmp_path / "theirs.safetensors")), 0.2, 32)
    torch.testing.assert_close(network.backbone.layer4[0].conv1.weight, theirs.layer4[0].conv1.weight)
    score = network.get_parameter("backbone.global_pool.pool.score.weight")
    assert not score.any()
    score.data[:] = 0.5
    save_file(network.state_dict(), tmp_path / "ours.safetensors")
    again = initial_network(TrainConfig(**settings, init=str(tmp_path / "ours.safetensors")), 0.2, 32)
    assert (again.get_parameter("backbone.global_pool.pool.score.weight") == 0.5).all()
    assert "score" not in again.initial_weights.partition("not used")[2]
    plain = initial_network(TrainConfig(backbone="test_resnet", init=str(tmp_path / "ours.safetensors")), 0.2, 32)
    assert "score" in plain.initial_weights.partition("not used")[2]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lse", "attention"])
def test_a_bundle_builds_the_network_again(how, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", films=60)
    settings = {"pooling": how, "output_stride": 16, "epochs": 1}
    [outcome] = train_inline(dataset, tmp_path / "run", settings=settings)
    assert outcome["status"] == "ok", outcome
    assert outcome["architecture"] == {"name": "test_resnet", "args": {"pooling": how, "output_stride": 16}}
    description = build_bundle(EnsembleRequest(run=tmp_path / "run", out=tmp_path / "bundle", settings=QUICK))
    [model] = description["findings"]["pneumonia"]["models"]
    assert model["backbone_args"] == {"pooling": how, "output_stride": 16}
    bundle = load_bundle(tmp_path / "bundle", "cpu")
    assert self_test(bundle) < 1e-4
    assert np.isfinite(bundle.logits(np.zeros((2, 32, 32), np.uint8))).all()
