import pytest
import torch

from models.config import TrainConfig
from models.training.augment import augment, mixup

STILL = {"rotation": 0.0, "translation": 0.0, "scaling": 0.0, "brightness": 0.0, "contrast": 0.0}


def films(n=8, size=24):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0))


def test_the_place_alone_decides():
    batch, config = films(), TrainConfig()
    assert torch.equal(augment(batch, config, (0, 1, 2)), augment(batch, config, (0, 1, 2)))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(augment(batch, config, (0, 1, 2)), augment(batch, config, other))


def test_films_of_one_batch_differ():
    batch = films(1).expand(8, 1, 24, 24)
    changed = augment(batch, TrainConfig(augment_probability=1.0), (0, 0, 0))
    assert len({tuple(film.flatten().tolist()) for film in changed}) == 8


def test_no_change_where_none_is_asked_for():
    batch = films()
    torch.testing.assert_close(augment(batch, TrainConfig(**STILL), (0, 0, 0)), batch, atol=1e-5, rtol=1e-5)
    unchosen = augment(batch, TrainConfig(augment_probability=0.0), (0, 0, 0))
    torch.testing.assert_close(unchosen, batch, atol=1e-5, rtol=1e-5)


def test_the_heart_stays_on_its_side():
    """A bright left half stays left in every draw: there is no mirror image and no turn that would pass for one."""
    batch = torch.zeros(64, 1, 24, 24)
    batch[..., :12] = 1
    for step in range(5):
        changed = augment(batch, TrainConfig(augment_probability=1.0), (0, 0, step))
        assert (changed[..., :8].mean((1, 2, 3)) > changed[..., 16:].mean((1, 2, 3))).all()


def blob(n, row, column, size=64):
    """A bright spot of a few pixels around (row, column)."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    spot = torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 8.0)
    return spot.expand(n, 1, size, size).contiguous()


def places(films):
    """(x to the right, y downwards) of the spot's centre of mass, in pixels from the middle of the film."""
    middle = (films.shape[-1] - 1) / 2
    weight = films[:, 0] / films.sum((2, 3))[:, :, None]
    axis = torch.arange(films.shape[-1]) - middle
    return (weight.sum(1) * axis).sum(1), (weight.sum(2) * axis).sum(1)


def change_of(place, **strength):
    """x and y of the spot in 400 films that are changed by one setting alone."""
    films = blob(400, *place)
    return places(augment(films, TrainConfig(**{**STILL, **strength}, augment_probability=1.0), (0, 0, 0)))


def assert_uniform(values, bound, slack):
    """Within the bound, up to it, on both sides, as evenly as uniform draws."""
    assert values.abs().max() <= bound + slack
    assert values.max() > 0.97 * bound - slack
    assert values.min() < -0.97 * bound + slack
    assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_a_turn_has_the_angle_that_was_asked_for():
    x, y = change_of((32, 52), rotation=20.0)
    start = torch.atan2(torch.tensor(0.5), torch.tensor(20.5))
    assert_uniform(torch.rad2deg(torch.atan2(y, x) - start), 20.0, 0.3)
    assert torch.hypot(x, y).std() < 0.1, "it turns around the middle"


def test_a_size_changes_by_what_was_asked_for():
    x, y = change_of((45, 49), scaling=0.2)
    factor = torch.hypot(x, y) / torch.hypot(torch.tensor(13.5), torch.tensor(17.5))
    assert_uniform(factor - 1, 0.2, 0.01)
    assert torch.atan2(y, x).std() < 0.01


def test_a_shift_moves_by_what_was_asked_for_in_both_directions():
    x, y = change_of((32, 32), translation=0.25)
    for moved in (x - 0.5, y - 0.5):
        assert_uniform(moved, 0.25 * 64, 0.3)
    assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) < 0.2


def test_contrast_is_a_factor_within_its_bounds():
    config = TrainConfig(**{**STILL, "contrast": 0.3}, augment_probability=1.0)
    batch = torch.ones(400, 1, 8, 8)
    assert_uniform(augment(batch, config, (0, 0, 0)).mean((1, 2, 3)) - 1, 0.3, 1e-4)


def test_brightness_is_a_shift_within_its_bounds():
    config = TrainConfig(**{**STILL, "brightness": 0.15}, augment_probability=1.0)
    batch = torch.zeros(400, 1, 8, 8)
    assert_uniform(augment(batch, config, (0, 0, 0)).mean((1, 2, 3)), 0.15, 1e-4)


@pytest.mark.parametrize(("name", "bound"), [("rotation", 7.0), ("scaling", 0.1), ("translation", 0.06)])
def test_the_usual_strength_is_mild(name, bound):
    """Turned further, or sized and shifted more, a film is no longer one that a machine might have taken."""
    assert getattr(TrainConfig(), name) == bound


def test_intensity_changes_are_per_film_and_bounded():
    config = TrainConfig(**{**STILL, "brightness": 0.3}, augment_probability=1.0)
    shift = (augment(films(64), config, (0, 0, 0)) - films(64)).mean((1, 2, 3))
    assert shift.abs().max() <= 0.3 + 1e-5
    assert shift.std() > 0.1


def test_noise_is_per_film_and_as_strong_as_asked():
    config = TrainConfig(**STILL, noise=0.5, augment_probability=1.0)
    added = augment(films(64), config, (0, 0, 0)) - films(64)
    level = added.std((1, 2, 3))
    assert 0 < level.min() < 0.1
    assert 0.4 < level.max() < 0.55
    assert torch.equal(augment(films(64), config, (0, 0, 0)) - films(64), added)


def test_erasing_blanks_one_rectangle_of_some_films():
    config = TrainConfig(**STILL, erasing=0.5, augment_probability=1.0)
    ones = torch.ones(400, 1, 40, 40)
    blank = (augment(ones, config, (0, 0, 0)) == 0).float()
    share = blank.mean((1, 2, 3))
    assert 0.4 < (share > 0).float().mean() < 0.6
    assert share.max() <= 0.25
    film = blank[share.argmax()][0]
    assert torch.equal(film, film.any(1, keepdim=True) * film.any(0, keepdim=True))


@pytest.mark.parametrize(
    ("kind", "strength"),
    [("affine", {"translation": 0.3}), ("intensity", {"contrast": 0.5}), ("noise", {"noise": 0.5})],
)
def test_each_kind_of_change_has_its_share_of_the_films(kind, strength):
    config = TrainConfig(**{**STILL, **strength}, augment_probability=0.5, **{f"{kind}_probability": 0.4})
    batch = films(2000, 8)
    changed = ((augment(batch, config, (0, 0, 0)) - batch).abs().amax((1, 2, 3)) > 1e-3).float()
    assert 0.16 < changed.mean() < 0.24, "a share of those that are augmented at all"
    assert torch.equal(augment(batch, config, (0, 0, 0)), augment(batch, config, (0, 0, 0)))


def test_a_kind_that_is_left_out_leaves_the_draws_of_the_others():
    with_noise = TrainConfig(noise=0.5, noise_probability=0.0, affine_probability=0.5)
    torch.testing.assert_close(
        augment(films(), with_noise, (0, 0, 0)), augment(films(), TrainConfig(affine_probability=0.5), (0, 0, 0))
    )


def test_kinds_are_drawn_apart():
    shares = {"augment_probability": 1.0, "affine_probability": 0.5, "intensity_probability": 0.5}
    moved, brighter = (
        (augment(films(400), TrainConfig(**{**STILL, name: 0.3}, **shares), (0, 0, 0)) - films(400)).abs()
        .amax((1, 2, 3)) > 1e-3
        for name in ("translation", "brightness")
    )  # fmt: skip
    assert 0.2 < (moved & brighter).float().mean() < 0.3


def test_mixup_has_its_share_of_the_batches():
    batch, truth, config = films(2), torch.tensor([1.0, 0]), TrainConfig(mixup=0.4, mixup_probability=0.3)
    blended = [mixup(batch, truth, config, (0, 0, step))[0] is not batch for step in range(1000)]
    assert 250 < sum(blended) < 350
    step = blended.index(True)
    always = mixup(batch, truth, TrainConfig(mixup=0.4), (0, 0, step))[0]
    assert torch.equal(mixup(batch, truth, config, (0, 0, step))[0], always)


def test_mixup_blends_films_and_targets_alike():
    batch, truth = films(8), torch.tensor([1.0, 0, 0, 1, 0, 1, 0, 0])
    mixed, targets = mixup(batch, truth, TrainConfig(mixup=0.4), (0, 0, 3))
    assert not torch.equal(mixed, batch)
    assert ((targets >= 0) & (targets <= 1)).all()
    assert targets.sum() == pytest.approx(truth.sum().item(), abs=1e-5)
    torch.testing.assert_close(mixed.sum(0), batch.sum(0), atol=1e-4, rtol=1e-4)
    # a film that tells its own target: the share of its partner is the same in both
    telling, targets = mixup(truth[:, None, None, None].expand(-1, 1, 4, 4), truth, TrainConfig(mixup=0.4), (0, 0, 3))
    torch.testing.assert_close(telling[:, 0, 0, 0], targets)
    assert mixup(batch, truth, TrainConfig(), (0, 0, 3))[0] is batch
