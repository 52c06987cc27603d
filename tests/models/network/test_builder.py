import math

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from models.config import TrainConfig
from models.network.architecture import Architecture
from models.network.builder import build_network, initial_network
from models.network.pretrained import load_own

TINY = "test_resnet"


def test_one_channel_in_one_logit_out():
    network = build_network(TINY)
    assert network(torch.zeros(3, 1, 32, 32)).shape == (3,)


def test_an_unknown_backbone_gives_near_names():
    with pytest.raises(ValueError, match=r"'resnet81'.*resnet"):
        build_network("resnet81")


@pytest.mark.parametrize("backbone", ["resnet10t", "densenet121", "convnext_atto", "efficientnet_b0"])
def test_backbones_of_the_field_build(backbone):
    assert build_network(backbone)(torch.zeros(2, 1, 64, 64)).shape == (2,)


def test_the_last_bias_starts_at_the_prevalence():
    network = initial_network(TrainConfig(backbone=TINY), prevalence=0.2)
    assert network.backbone.get_classifier().bias.item() == pytest.approx(math.log(0.2 / 0.8), rel=1e-5)


def test_three_channel_weights_fold_to_one(tmp_path):
    """A grey film through the folded network gives what the same film in three channels gives the original."""
    torch.manual_seed(0)
    colour = timm.create_model(TINY, num_classes=5, in_chans=3).eval()
    save_file(colour.state_dict(), tmp_path / "colour.safetensors")
    config = TrainConfig(backbone=TINY, pretrained=str(tmp_path / "colour.safetensors"))
    network = initial_network(config, 0.5).eval()
    grey = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        ours = network.backbone.forward_features(grey)
        theirs = colour.forward_features(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_start_from_a_trained_target(tmp_path):
    torch.manual_seed(1)
    trained = build_network(TINY)
    (tmp_path / "pneumonia" / "0").mkdir(parents=True)
    save_file(trained.state_dict(), tmp_path / "pneumonia" / "0" / "weights.safetensors")
    network = initial_network(TrainConfig(backbone=TINY, init=str(tmp_path / "pneumonia")), 0.3)
    name = next(name for name in trained.state_dict() if "conv" in name)
    torch.testing.assert_close(network.state_dict()[name], trained.state_dict()[name])
    assert network.backbone.get_classifier().bias.item() == pytest.approx(math.log(0.3 / 0.7), rel=1e-5)


def test_weights_that_cannot_be_had_are_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="No weight file"):
        initial_network(TrainConfig(backbone=TINY, pretrained=str(tmp_path / "absent.safetensors")), 0.5)
    save_file(build_network("resnet10t").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="another backbone"):
        initial_network(TrainConfig(backbone=TINY, pretrained=str(tmp_path / "other.safetensors")), 0.5)
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        initial_network(TrainConfig(backbone=TINY, pretrained=str(tmp_path / "broken.safetensors")), 0.5)

    def refuse(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ValueError, match="ImageNet weights of 'test_resnet' cannot be had"):
        load_own(torch.nn.Identity(), Architecture(name=TINY), TINY)


def test_a_shared_network_has_an_output_and_a_prevalence_for_each_target():
    network = initial_network(TrainConfig(backbone=TINY), np.array([0.2, 0.5, 0.0]))
    assert network(torch.zeros(4, 1, 32, 32)).shape == (4, 3)
    assert build_network(TINY, outputs=1)(torch.zeros(4, 1, 32, 32)).shape == (4, 1)
    expected = [math.log(share / (1 - share)) for share in (0.2, 0.5, 0.001)]
    np.testing.assert_allclose(network.backbone.get_classifier().bias.detach(), expected, rtol=1e-5)
