import numpy as np
import pytest
import torch

from models.config import TrainConfig
from models.network.losses import make_loss, positive_weight

LOGIT = torch.tensor([2.0, -1.0, 0.5, -3.0])
TRUTH = torch.tensor([1.0, 0.0, 0.0, 1.0])


def loss_of(**settings):
    return make_loss(TrainConfig(device="cpu", **settings), TRUTH.numpy())(LOGIT, TRUTH).item()


def test_binary_cross_entropy_by_hand():
    probability = torch.sigmoid(LOGIT)
    expected = -(TRUTH * probability.log() + (1 - TRUTH) * (1 - probability).log()).mean().item()
    assert loss_of() == pytest.approx(expected, abs=1e-6)


def test_the_positive_weight_counts_positives_more():
    per_film = torch.nn.functional.binary_cross_entropy_with_logits(LOGIT, TRUTH, reduction="none")
    assert loss_of(positive_weight="3") == pytest.approx((per_film * (1 + 2 * TRUTH)).mean().item(), abs=1e-6)
    value = np.array([1.0] + [0.0] * 9)
    assert positive_weight(TrainConfig(positive_weight="balanced"), value) == 9
    assert positive_weight(TrainConfig(), value) == 1


def test_smoothing_pulls_targets_to_the_middle():
    smooth = TRUTH * 0.8 + 0.1
    expected = torch.nn.functional.binary_cross_entropy_with_logits(LOGIT, smooth).item()
    assert loss_of(label_smoothing=0.2) == pytest.approx(expected, abs=1e-6)


def test_focal_loss_counts_sure_films_less():
    """(1 - p_t)^2 times the cross-entropy, Lin et al. 2017, equation 4."""
    probability = torch.sigmoid(LOGIT)
    right = TRUTH * probability + (1 - TRUTH) * (1 - probability)
    assert loss_of(loss="focal") == pytest.approx(((1 - right) ** 2 * -right.log()).mean().item(), abs=1e-6)


def test_asymmetric_loss_forgets_easy_negatives():
    """Ridnik et al. 2021: positives (1 - p) log p, negatives p_m^4 log(1 - p_m) with p_m = max(p - 0.05, 0)."""
    probability = torch.sigmoid(LOGIT)
    shifted = (probability - 0.05).clamp(min=0)
    by_hand = torch.where(TRUTH == 1, -(1 - probability) * probability.log(), -(shifted**4) * (1 - shifted).log())
    assert loss_of(loss="asymmetric") == pytest.approx(by_hand.mean().item(), abs=1e-6)
    easy = torch.tensor([-4.0])
    assert make_loss(TrainConfig(device="cpu", loss="asymmetric"), np.zeros(1))(easy, torch.zeros(1)).item() == 0


TABLE = torch.tensor([[2.0, -1.0, 0.3], [0.5, -3.0, 1.0], [-0.2, 0.4, 2.0]])
KNOWN = torch.tensor([[1.0, 0.0, np.nan], [np.nan, 1.0, np.nan], [0.0, 0.0, np.nan]])


def shared_loss(logit, **settings):
    return make_loss(TrainConfig(device="cpu", **settings), KNOWN.numpy())(logit, KNOWN)


@pytest.mark.parametrize("loss", ["bce", "focal", "asymmetric"])
def test_a_shared_loss_is_that_of_each_target_on_its_known_films(loss):
    """The third target is known nowhere: it counts neither in the mean nor in the sum, and sends nothing back."""
    each = []
    for column, rows in ((0, [0, 2]), (1, [0, 1, 2])):
        truth = KNOWN[rows, column]
        single = make_loss(TrainConfig(device="cpu", loss=loss, label_smoothing=0.1, positive_weight="balanced"),
                           truth.numpy())  # fmt: skip
        each.append(single(TABLE[rows, column], truth).item())
    settings = {"loss": loss, "label_smoothing": 0.1, "positive_weight": "balanced"}
    assert shared_loss(TABLE, **settings).item() == pytest.approx(np.mean(each), abs=1e-6)
    logit = TABLE.clone().requires_grad_()
    total = shared_loss(logit, **settings, reduction="sum")
    assert total.item() == pytest.approx(np.sum(each), abs=1e-6)
    total.backward()
    assert torch.isfinite(logit.grad).all()
    assert (logit.grad[torch.isnan(KNOWN)] == 0).all()
    assert (logit.grad[~torch.isnan(KNOWN)] != 0).all()


def test_the_balanced_weight_is_each_targets_own():
    weights = positive_weight(TrainConfig(positive_weight="balanced"), KNOWN.numpy()[:, :2])
    np.testing.assert_allclose(weights, [1, 2])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batches_of_a_group_add_up_to_its_loss(reduction):
    """The first film alone, the other two together: the unknown answers lie unevenly."""
    loss = make_loss(TrainConfig(device="cpu", reduction=reduction), KNOWN.numpy())
    parts = [loss(TABLE[rows], KNOWN[rows], KNOWN) for rows in (slice(1), slice(1, 3))]
    assert sum(parts).item() == pytest.approx(loss(TABLE, KNOWN).item(), abs=1e-6)
    apart = loss(TABLE[:1], KNOWN[:1]) + loss(TABLE[1:], KNOWN[1:])
    assert apart.item() / 2 != pytest.approx(loss(TABLE, KNOWN).item(), abs=1e-2)


def own_loss(logit=TABLE, known=KNOWN, own=1, **settings):
    return make_loss(TrainConfig(device="cpu", **settings), known.numpy(), own)(logit, known).item()


@pytest.mark.parametrize("settings", [{}, {"loss": "focal", "label_smoothing": 0.1, "positive_weight": "balanced"}])
def test_beside_others_the_own_target_counts_one_and_each_other_its_share(settings):
    """The own one is known of every film, another of two of three, the last of none."""
    own, other = (
        make_loss(TrainConfig(device="cpu", **settings), KNOWN[rows, column].numpy())(
            TABLE[rows, column], KNOWN[rows, column]
        ).item()
        for column, rows in ((1, [0, 1, 2]), (0, [0, 2]))
    )
    for share in (0.0, 0.3, 1.0):
        expected = (own + share * other) / (1 + share)
        assert own_loss(others_weight=share, **settings) == pytest.approx(expected, abs=1e-6)
        total = own_loss(others_weight=share, reduction="sum", **settings)
        assert total == pytest.approx(own + share * other, abs=1e-6)
    assert own_loss(others_weight=1.0, **settings) == shared_loss(TABLE, **settings).item()
    alone = own_loss(TABLE[:, [1]], KNOWN[:, [1]], own=0, others_weight=0.3, **settings)
    assert alone == pytest.approx(own, abs=1e-6), "with one finding it is that one's loss"


def test_beside_others_batches_of_a_group_add_up_to_its_loss():
    loss = make_loss(TrainConfig(device="cpu", others_weight=0.3), KNOWN.numpy(), 1)
    parts = [loss(TABLE[rows], KNOWN[rows], KNOWN) for rows in (slice(1), slice(1, 3))]
    assert sum(parts).item() == pytest.approx(loss(TABLE, KNOWN).item(), abs=1e-6)
