"""models/training/heads.py, models/network/encoder.py: heads are what others fit, and a cut network is that network."""

import dataclasses

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression

from models.network.architecture import OWN, Architecture
from models.network.encoder import Encoder, EncoderWish, Head, build_encoder, open_encoder
from models.training import heads
from models.training.heads import Taught, fit_head

MANIFEST = {"size": 32, "pixel_mean": 0.4, "pixel_std": 0.2}


def taught(films: int = 240, features: int = 12, seed: int = 0) -> Taught:
    """The first two features tell it, the third is the same for every film, the last has a scale of its own."""
    draws = np.random.default_rng(seed)
    found = draws.normal(size=(films, features)).astype(np.float32)
    found[:, 2] = 7
    found[:, -1] *= 1000
    value = (found[:, 0] - found[:, 1] + draws.normal(size=films) > 0.3).astype(np.float32)
    return Taught(features=found, value=value, weight=np.ones(films), fold=(np.arange(films) // 2 % 5).astype(np.uint8))


def logits(head: Head, features: np.ndarray) -> np.ndarray:
    return head(torch.from_numpy(features)).numpy()


def test_a_linear_head_is_the_logistic_regression_of_another_library():
    """scikit-learn, on features standardised by hand; its C counts the sum of the films, ours is their mean."""
    data = taught()
    found = fit_head("linear", data, seed=0)
    spread = data.features.std(axis=0)
    points = (data.features - data.features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    other = LogisticRegression(C=1 / (found.strength * len(points)), tol=1e-8, max_iter=1000).fit(points, data.value)
    np.testing.assert_allclose(logits(found.head, data.features), other.decision_function(points), atol=2e-4)


def test_the_penalty_is_the_one_of_least_loss_on_films_left_out():
    """Computed once more by scikit-learn, which knows nothing of our folds, one penalty after the other."""
    data = taught()
    found = fit_head("linear", data, seed=0)
    points = data.features.astype(float) - data.features.mean(axis=0)
    points /= np.where(data.features.std(axis=0) > 0, data.features.std(axis=0), 1)
    for strength, loss in found.losses.items():
        total = 0.0
        for fold in range(5):
            out = data.fold == fold
            other = LogisticRegression(C=1 / (strength * (~out).sum()), tol=1e-8, max_iter=1000)
            logit = other.fit(points[~out], data.value[~out]).decision_function(points[out])
            total += float(np.sum(np.logaddexp(0, logit) - data.value[out] * logit))
        assert loss == pytest.approx(total / len(points), abs=1e-4), strength
    assert found.losses[found.strength] == min(found.losses.values())
    assert found.folds == 5


def test_a_hidden_layer_learns_what_a_line_cannot():
    data = taught(400)
    value = (data.features[:, 0] * data.features[:, 1] > 0).astype(np.float32)
    data = dataclasses.replace(data, value=value)
    line, hidden = (fit_head(kind, data, seed=0) for kind in ("linear", "hidden"))
    assert line.loss > 0.65
    assert hidden.loss < 0.45
    right = (logits(hidden.head, data.features) > 0) == (value > 0.5)
    assert right.mean() > 0.9


@pytest.mark.parametrize("kind", ["linear", "hidden"])
def test_noise_is_penalised_until_it_says_nothing(kind):
    """More features than films, and nothing to learn: without a penalty every film would be known by heart."""
    draws = np.random.default_rng(1)
    value = np.repeat([0.0, 1.0], 30).astype(np.float32)
    data = Taught(features=draws.normal(size=(60, 100)).astype(np.float32), value=value, weight=np.ones(60),
                  fold=(np.arange(60) % 5).astype(np.uint8))  # fmt: skip
    found = fit_head(kind, data, seed=0)
    assert found.strength >= max(heads.STRENGTHS[kind]) / 4
    assert np.abs(logits(found.head, data.features)).max() < 1.5


@pytest.mark.parametrize("kind", ["linear", "hidden"])
def test_the_same_films_give_the_same_head(kind):
    first, second = (fit_head(kind, taught(60), seed=3).head.state_dict() for _ in range(2))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)


def test_many_features_are_computed_with_in_single_precision_and_say_the_same(monkeypatch):
    double = fit_head("linear", taught(), seed=0)
    monkeypatch.setattr(heads, "DOUBLE", 0)
    single = fit_head("linear", taught(), seed=0)
    assert single.strength == double.strength
    features = taught().features
    np.testing.assert_allclose(logits(single.head, features), logits(double.head, features), atol=0.02)


def test_without_patients_to_leave_out_there_is_no_choice_and_it_is_said():
    data = dataclasses.replace(taught(40), fold=np.zeros(40, np.uint8))
    found = fit_head("linear", data, seed=0)
    assert (found.strength, found.folds, found.losses) == (heads.WITHOUT_CHOICE, 0, {})
    assert np.isnan(found.loss)


def test_a_weight_moves_the_intercept():
    data = taught()
    heavy = dataclasses.replace(data, weight=np.where(data.value > 0.5, 4.0, 1.0))
    plain, moved = (logits(fit_head("linear", one, seed=0).head, data.features) for one in (data, heavy))
    assert (moved - plain).mean() > 0.8


# -- the encoder


CUT = ["test_resnet", "test_vit", "densenet121", "tf_efficientnet_lite0", "convnext_atto", "mobilenetv3_small_100",
       "deit_tiny_distilled_patch16_224", "plain"]  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_a_network_cut_before_its_last_layer_is_that_network(name):
    """A linear head with the last layer's weights on the features answers as the whole network does."""
    torch.manual_seed(0)
    size = 224 if "224" in name else 160 if "vit" in name else 64
    kind = Architecture(name=name, args={})
    whole = kind.build(outputs=1).eval()
    encoder = Encoder(kind).eval()
    last = whole.get_classifier()
    last = last if isinstance(last, torch.nn.Linear) else last[0]
    missing, _ = encoder.backbone.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    film = torch.rand(2, 1, size, size)
    with torch.no_grad():
        features = encoder(film)
        if not name.startswith("deit"):  # two last layers, whose mean is the answer
            torch.testing.assert_close(last(features), whole(film), atol=1e-5, rtol=1e-4)
        assert features.shape == (2, last.in_features)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=5, in_chans=3).state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_an_encoder_takes_films_as_its_weights_were_made_with(weights):
    opened = open_encoder(EncoderWish(encoder="test_resnet", weights=weights), MANIFEST)
    facts = opened.facts
    assert (facts.size, facts.pixel_mean, facts.pixel_std, facts.features) == (160, 0.5, 0.5, 96)
    other = EncoderWish(encoder="test_resnet", weights=weights, size=64, normalisation="dataset")
    facts = open_encoder(other, MANIFEST).facts
    assert (facts.size, facts.pixel_mean, facts.pixel_std) == (64, 0.4, 0.2)
    numbers = dataclasses.replace(other, normalisation="0.5,0.00048828125")  # -1024 to 1024
    facts = open_encoder(numbers, MANIFEST).facts
    assert (facts.pixel_mean, facts.pixel_std) == (0.5, 1 / 2048)
    again = build_encoder(facts.architecture, facts.standardise)
    assert again.state_dict().keys() == opened.network.state_dict().keys()


def test_all_that_features_depend_on_is_in_the_digest(weights, tmp_path):
    def digest(**wish) -> str:
        return open_encoder(
            EncoderWish(**{"encoder": "test_resnet", "weights": weights, "size": 32} | wish), MANIFEST
        ).facts.digest

    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=5, in_chans=3).state_dict(), other)
    found = [digest(), digest(size=48), digest(normalisation="dataset"), digest(weights=other)]
    assert len(set(found)) == 4
    assert digest() == found[0]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"encoder": "resnet81"}, "Did you mean"),
        ({"encoder": "plain"}, "no ImageNet weights"),
        ({"normalisation": "theirs"}, "not one of: encoder, dataset"),
        ({"encoder": "test_vit", "size": 70}, "does not take films of 70 pixels.*Set another size"),
    ],
)
def test_what_cannot_be_an_encoder_is_a_sentence(wish, words, weights):
    with pytest.raises(ValueError, match=words):
        open_encoder(EncoderWish(**{"encoder": "test_resnet"} | wish), MANIFEST)


def test_our_own_network_is_cut_as_timms_are():
    assert OWN["plain"](num_classes=0)(torch.zeros(1, 1, 32, 32)).shape == (1, 256)
