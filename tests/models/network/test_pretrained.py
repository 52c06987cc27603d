"""models/network/pretrained.py, architecture.py, suitability.py: weight files of others, transformers, folders,
the hub.
"""

import argparse
import json
import math

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.config import TrainConfig
from models.network.architecture import Architecture, architecture
from models.network.builder import build_network, initial_network, last_layers
from models.network.suitability import require_films
from orchestrator.ensembling.build import EnsembleRequest, build_bundle
from orchestrator.inference.bundle import load_bundle, self_test
from orchestrator.planning.backbones import require_films as require_films_elsewhere
from orchestrator.planning.initial_weights import START
from orchestrator.planning.plan import TrainRequest, plan_run
from tests.fake_run import QUICK
from tests.small_data import make_dataset
from tests.small_run import train_inline

SMALL = {"embed_dim": 24, "depth": 1, "num_heads": 3}  # of a distilled transformer
DISTILLED = "deit_tiny_distilled_patch16_224"


@pytest.fixture
def colour():
    """Somebody else's network: three channels, five classes."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=5, in_chans=3).eval()


def started(path, backbone="test_resnet", size=32, **settings):
    torch.manual_seed(1)
    return initial_network(TrainConfig(backbone=backbone, pretrained=str(path), **settings), 0.2, size).eval()


def before(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def zeros(state):
    return {name: value * 0 for name, value in state.items()}


LAYOUTS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "state_dict": lambda state: {"state_dict": before("module.", state), "optimizer": {"state": {}}},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "net": lambda state: {"net": before("module.encoder.", state), "acc": 0.9},
    "backbone": lambda state: before("backbone.", state),
    "lightning": lambda state: {"state_dict": before("model.", state) | {"loss.weight": torch.ones(2)}},
    "averages": lambda state: {"state_dict": zeros(state), "state_dict_ema": state},
    "teacher": lambda state: {"student": before("module.backbone.", zeros(state)),
                              "teacher": before("module.backbone.", state)},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_found_in_every_usual_layout(layout, colour, tmp_path):
    """The same answer to a grey film as the three-channel network has to the film in all its channels."""
    torch.save(LAYOUTS[layout](dict(colour.state_dict())), tmp_path / "theirs.pth")
    network = started(tmp_path / "theirs.pth")
    film = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        theirs = colour.forward_features(film.expand(-1, 3, -1, -1))
        torch.testing.assert_close(network.backbone.forward_features(film), theirs, atol=1e-5, rtol=1e-5)
    assert network(film).shape == (2,)
    assert "Started from theirs.pth" in network.initial_weights
    assert "not used: fc.weight, fc.bias" in network.initial_weights
    assert "timm's configuration names 160 pixels, mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)" in network.initial_weights


def test_what_was_loaded_and_from_where_is_said(colour, tmp_path, caplog):
    torch.save({"net": before("module.encoder.", colour.state_dict()) | {"queue": torch.ones(3)}}, tmp_path / "w.pth")
    said = started(tmp_path / "w.pth").initial_weights
    assert "Started from w.pth under 'net', names without 'module.encoder.': " in said
    assert "resized or folded: conv1.0.weight" in said
    assert "further tensors beside them: 1" in said
    torch.save(before("_", colour.state_dict()), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="Is it the weight file of another"):
        started(tmp_path / "other.pth")
    assert not caplog.messages, "timm's line of all the names"


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        started(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, {"model": [1, 2]}, [torch.ones(2)], {"a.b": torch.ones(2)}])
def test_a_file_without_this_networks_weights_is_a_sentence(content, tmp_path):
    torch.save(content, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="cannot be read as weights|does not fit the backbone"):
        started(tmp_path / "none.pth")


def test_half_of_the_weights_are_not_enough(colour, tmp_path):
    state = dict(colour.state_dict())
    save_file({name: value for name, value in state.items() if "layer4" not in name}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"tensors are missing.*'layer4"):
        started(tmp_path / "half.safetensors")


def test_the_last_layer_starts_as_without_a_file(colour, tmp_path):
    """The network's own draws: a start from a file changes nothing else, so that old trainings can be repeated."""
    torch.save(colour.state_dict(), tmp_path / "w.pth")
    network = started(tmp_path / "w.pth")
    torch.manual_seed(1)
    plain, after = build_network("test_resnet"), torch.rand(3)
    torch.testing.assert_close(network.backbone.fc.weight, plain.backbone.fc.weight, rtol=0, atol=0)
    torch.manual_seed(1)
    initial_network(TrainConfig(backbone="test_resnet", pretrained=str(tmp_path / "w.pth")), 0.2, 32)
    torch.testing.assert_close(torch.rand(3), after, rtol=0, atol=0)


# -- transformers


def test_a_transformer_is_built_for_the_films_and_its_positions_are_resized(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=7, in_chans=3)
    torch.save({"model": theirs.state_dict()}, tmp_path / "w.pth")
    network = started(tmp_path / "w.pth", "test_vit", size=64)
    assert network.backbone.pos_embed.shape[1] == 1 + 16
    assert theirs.pos_embed.shape[1] == 1 + 100
    assert "pos_embed" in network.initial_weights
    torch.testing.assert_close(network.backbone.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)
    folded = theirs.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(network.backbone.patch_embed.proj.weight, folded)
    torch.testing.assert_close(network.backbone.pos_embed[:, 0], theirs.pos_embed[:, 0])  # the class token has no place
    assert network(torch.rand(2, 1, 64, 64)).shape == (2,)


def test_both_heads_of_a_distilled_transformer_start_at_the_prevalence(distilled):
    network = initial_network(TrainConfig(backbone=f"local-dir:{distilled}"), 0.2, 32)
    assert len(last_layers(network.backbone)) == 2
    for layer in last_layers(network.backbone):
        assert layer.bias.item() == pytest.approx(math.log(0.2 / 0.8), rel=1e-5)
    assert network.train()(torch.rand(2, 1, 32, 32)).shape == (2,)


@pytest.mark.parametrize(
    ("settings", "size", "refusal"),
    [
        ({"backbone": "test_vit3"}, 64, None),
        ({"backbone": "swin_tiny_patch4_window7_224"}, 64, None),
        ({"backbone": "test_vit3"}, 70, r"patches of 16 pixels.*last 6 would not be seen.*image_size=64 or 80"),
        ({"backbone": "test_vit"}, 70, r"does not take films of 70 .*divisible.*made for 160.*image_size"),
        ({"backbone": "test_vit3", "image_size": 64}, 70, None),
        ({"backbone": "test_vit3", "start_size": 0.5}, 64, r"films of one size.*start_size=0.5.*start_size=1"),
        ({"backbone": "inception_v3"}, 32, r"does not take films of 32 pixels"),
        ({"backbone": "plain"}, 33, None),
    ],
)  # fmt: skip
def test_films_that_a_backbone_does_not_take_are_refused(settings, size, refusal):
    config = TrainConfig(**settings)
    if refusal is None:
        require_films(config, size)
    else:
        with pytest.raises(ValueError, match=refusal):
            require_films(config, size)


@pytest.mark.slow
def test_they_are_refused_before_a_process_starts_and_before_anything_is_written(tmp_path):
    dataset, settings = make_dataset(tmp_path / "dataset", films=36), {"backbone": "test_vit", "image_size": 40}
    request = TrainRequest(dataset=dataset, out=tmp_path / "run", inline=True, settings=settings)
    with pytest.raises(ValueError, match="does not take films of 40 pixels"):
        plan_run(request, "cpu")
    assert not (tmp_path / "run").exists()


# -- folders and the hub


@pytest.fixture
def distilled(tmp_path):
    """A folder as timm's own tools write it: a small distilled transformer for five classes and colour films."""
    torch.manual_seed(0)
    folder = tmp_path / "net"
    folder.mkdir()
    config = {"architecture": DISTILLED, "num_classes": 5, "model_args": SMALL,
              "pretrained_cfg": {"input_size": [3, 224, 224], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
                                 "num_classes": 5, "first_conv": "patch_embed.proj",
                                 "classifier": ["head", "head_dist"]}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    theirs = timm.create_model(DISTILLED, num_classes=5, **SMALL)
    save_file(theirs.state_dict(), folder / "model.safetensors")
    return folder


@pytest.mark.slow
def test_a_folder_is_trained_from_and_its_bundle_needs_it_no_more(distilled, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", films=60)
    settings = {"backbone": f"local-dir:{distilled}", "pretrained": "true", "epochs": 1}
    [outcome] = train_inline(dataset, tmp_path / "run", settings=settings)
    assert outcome["status"] == "ok", outcome
    assert outcome["architecture"] == {"name": DISTILLED, "args": SMALL | {"img_size": 32}}
    assert "timm's configuration names 224 pixels, mean (0.5, 0.5, 0.5), std (0.25, 0.25, 0.25)" in outcome["start"]
    assert START in json.loads((tmp_path / "run" / "pneumonia" / "0" / "config.json").read_text(encoding="utf-8"))
    for path in distilled.iterdir():
        path.unlink()
    description = build_bundle(EnsembleRequest(run=tmp_path / "run", out=tmp_path / "bundle", settings=QUICK))
    [model] = description["findings"]["pneumonia"]["models"]
    assert (model["backbone"], model["backbone_args"]) == (DISTILLED, SMALL | {"img_size": 32})
    assert self_test(load_bundle(tmp_path / "bundle", "cpu")) < 1e-4


def test_the_weights_of_a_folder_are_folded_and_resized(distilled):
    network = initial_network(TrainConfig(backbone=f"local-dir:{distilled}", pretrained="true"), 0.2, 32)
    theirs = timm.create_model(f"local-dir:{distilled}", pretrained=True)
    torch.testing.assert_close(
        network.backbone.patch_embed.proj.weight, theirs.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    )
    assert network.backbone.pos_embed.shape[1] == 2 + 4
    torch.testing.assert_close(network.backbone.dist_token, theirs.dist_token)


def test_a_folder_or_a_hub_that_does_not_answer_is_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"local-dir:.*cannot be had here.*config.json"):
        architecture(f"local-dir:{tmp_path / 'absent'}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"hf-hub:timm/none cannot be had here.*Without a network.*local-dir:"):
        architecture("hf-hub:timm/none")


@pytest.mark.slow
def test_the_driver_says_so_before_anything_starts(tmp_path):
    config = TrainConfig(backbone=f"local-dir:{tmp_path / 'absent'}")
    with pytest.raises(ValueError, match="cannot be had here"):
        require_films_elsewhere(config, 32)
    require_films_elsewhere(config, 32, here=False)  # another machine may have it


@pytest.mark.parametrize("args", [{"pretrained": True}, {"checkpoint_path": "/x"}, {"pretrained_cfg": {"file": "/x"}}])
def test_a_bundle_cannot_have_files_opened_through_its_networks_arguments(args):
    with pytest.raises(ValueError, match="is not built with"):
        build_network("test_resnet", args=args)
    with pytest.raises(ValueError, match="Unknown backbone"):
        build_network("hf-hub:timm/resnet18")


def test_networks_of_before_are_built_as_before():
    """Bundles and runs without arguments have the size that timm gives a network by itself."""
    assert build_network("test_vit").backbone.pos_embed.shape[1] == 1 + 100
    assert architecture("resnet18", 64) == Architecture(name="resnet18")
