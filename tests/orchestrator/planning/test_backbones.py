"""orchestrator/planning/backbones.py and models/network/architecture.py: names refused before the launch, and a network
to read.
"""

import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.config import TrainConfig
from models.network.architecture import OWN, WIDTHS, Plain
from models.network.builder import build_network, initial_network
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.inference.bundle import load_bundle, self_test
from orchestrator.planning import backbones
from orchestrator.planning.backbones import WELL_KNOWN, require_backbone
from orchestrator.planning.plan import TrainRequest
from orchestrator.training.launch import train_run
from tests.fake_run import QUICK
from tests.small_data import make_dataset
from tests.small_run import silent, train_inline


def test_every_well_known_name_is_ours_or_timms():
    assert set(OWN) <= set(WELL_KNOWN)
    assert [name for name in WELL_KNOWN if name not in OWN and not timm.is_model(name)] == []
    assert len(set(WELL_KNOWN)) == len(WELL_KNOWN)
    assert not [name for name in OWN if timm.is_model(name)]  # a name of timm's would mean two things


def test_a_well_known_name_costs_no_process(monkeypatch):
    monkeypatch.setattr(backbones, "_timm_names", lambda: pytest.fail("timm was asked"))
    for name in ("resnet18", "plain"):
        require_backbone(name)


@pytest.mark.slow
def test_an_unknown_backbone_is_refused_before_anything_is_written(tmp_path):
    """timm is really asked, in a process of its own; the names that it has are taken, with those of their weights."""
    dataset = make_dataset(tmp_path / "dataset", films=36)
    request = TrainRequest(dataset=dataset, out=tmp_path / "run", inline=True, settings={"backbone": "resnet81"})
    with pytest.raises(ValueError, match=r"Unknown backbone 'resnet81'. Did you mean: resnet18, "):
        train_run(request, silent)
    assert not (tmp_path / "run" / "plan.json").exists()
    for name in ("test_convnext", "test_vit.r160_in1k"):
        require_backbone(name)


def test_a_timm_that_does_not_start_is_said(monkeypatch):
    backbones._timm_names.cache_clear()
    monkeypatch.setattr(backbones, "ASK", "import no_such_package")
    with pytest.raises(ValueError, match="timm cannot be asked.*no_such_package"):
        require_backbone("rare")


def test_a_driver_with_a_usual_backbone_loads_no_timm():
    import subprocess

    from tests.conftest import PROJECT

    code = "import sys, orchestrator.training.launch, orchestrator.planning.plan; "
    code += "print('timm' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("side", [16, 33, 64])
def test_the_plain_network_takes_films_of_any_size(side):
    network = build_network("plain", 0.1).eval()
    assert network(torch.randn(3, 1, side, side)).shape == (3,)
    assert network.backbone.forward_features(torch.randn(1, 1, 64, 64)).shape == (1, WIDTHS[-1], 4, 4)


def test_the_plain_network_starts_as_the_others_do(tmp_path):
    network = initial_network(TrainConfig(backbone="plain"), 0.2)
    assert network.backbone.head.bias.item() == pytest.approx(-1.386, abs=1e-3)
    colour = Plain(num_classes=3, in_chans=3).eval()
    save_file(colour.state_dict(), tmp_path / "colour.safetensors")
    config = TrainConfig(backbone="plain", pretrained=str(tmp_path / "colour.safetensors"))
    grey, film = initial_network(config, 0.5).eval(), torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        theirs = colour.forward_features(film.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey.backbone.forward_features(film), theirs, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="no ImageNet weights of backbone=plain"):
        initial_network(TrainConfig(backbone="plain", pretrained="true"), 0.5)


def test_the_plain_network_learns_and_becomes_a_bundle(tmp_path):
    dataset = make_dataset(tmp_path / "dataset")
    settings = {"backbone": "plain", "epochs": 6}
    outcome = train_inline(dataset, tmp_path / "run", settings=settings)[0]
    assert outcome["status"] == "ok"
    description = build_bundle(EnsembleRequest(run=tmp_path / "run", out=tmp_path / "bundle", settings=QUICK))
    assert description["findings"]["pneumonia"]["cross_validated"]["auc"] > 0.7
    assert self_test(load_bundle(tmp_path / "bundle", "cpu")) < 1e-4


@pytest.mark.parametrize("backbone", ["densenet121", "convnext_tiny", "efficientnet_b0"])
def test_folding_sums_the_first_convolution(backbone, tmp_path):
    """One input channel, one logit; three-channel weights of the first convolution are summed, the rest taken over."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in timm.create_model(backbone, in_chans=3).state_dict().items()}
    torch.manual_seed(0)
    colour = {name: torch.randn(shape) if len(shape) > 1 else torch.zeros(shape) for name, shape in shapes.items()}
    save_file(colour, tmp_path / "colour.safetensors")
    config = TrainConfig(backbone=backbone, pretrained=str(tmp_path / "colour.safetensors"))
    network = initial_network(config, 0.5)
    first = timm.get_pretrained_cfg(backbone).first_conv + ".weight"
    folded = network.backbone.state_dict()[first]
    assert (colour[first].shape[1], folded.shape[1]) == (3, 1)
    torch.testing.assert_close(folded, colour[first].sum(dim=1, keepdim=True))
    second = [name for name, shape in shapes.items() if len(shape) == 4 and name != first][0]
    torch.testing.assert_close(network.backbone.state_dict()[second], colour[second])
    assert network.backbone.get_classifier().out_features == 1
    assert network.eval()(torch.zeros(2, 1, 32, 32)).shape == (2,)
