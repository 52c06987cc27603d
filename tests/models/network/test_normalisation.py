"""models/network/normalisation.py: what of a film's exposure and shading still reaches the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.config import TrainConfig
from models.data.loading import normalise
from models.network.builder import build_network
from models.network.normalisation import EMPTY_FILM, EMPTY_PART, INSIDE, WINDOW, film_area, standardised, with_film_area
from models.training.augment import augment

OWN = ("film", "local", *INSIDE)


def make_films(count: int = 4, height: int = 40, width: int = 40) -> torch.Tensor:
    """Films with structure (a disc) and grain, in units of the data set."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    disc = ((x**2 + y**2) < 0.25).float()
    return disc + 0.5 * torch.randn(count, 1, height, width)


def test_by_the_data_set_nothing_is_changed():
    films = make_films()
    assert standardised(films, "dataset") is films


@pytest.mark.parametrize("how", OWN)
def test_exposure_does_not_reach_the_network(how):
    films = make_films()
    brighter = 2.5 * films + 1.2
    assert (brighter - films).abs().mean() > 1
    changed = standardised(brighter, how) - standardised(films, how)
    assert changed.abs().max() < 0.1 * standardised(films, how).std()


def test_shading_reaches_it_by_film_but_not_by_surroundings():
    films = make_films()
    across = torch.linspace(-2, 2, 40).expand(40, 40)  # a film that is darker on one side
    inside = (..., slice(8, -8), slice(8, -8))  # near the border a slope is seen from one side only
    left = {how: standardised(films + across, how)[inside].mean((0, 1, 2)) for how in OWN}
    slope = {how: np.polyfit(np.arange(24), profile.numpy(), 1)[0] for how, profile in left.items()}
    assert slope["film"] == pytest.approx(slope["film_inside"])
    assert slope["film"] > 0.04
    assert abs(slope["local"]) < 0.01
    assert abs(slope["local_inside"]) < 0.01


@pytest.mark.parametrize(("height", "width"), [(24, 24), (18, 30)])
def test_the_surroundings_are_a_gaussian_window_in_each_direction(height, width):
    """Against the sum over all pixels, one by one, in double precision."""
    film = make_films(1, height, width)[0, 0].double().numpy()
    film = (film - film.mean()) / (film.std() + EMPTY_FILM)
    y, x = np.mgrid[:height, :width]

    def around(values: np.ndarray) -> np.ndarray:
        found = np.empty_like(values)
        for row, column in np.ndindex(values.shape):
            distance = ((y - row) / (WINDOW * height)) ** 2 + ((x - column) / (WINDOW * width)) ** 2
            found[row, column] = np.average(values, weights=np.exp(-distance / 2))
        return found

    centred = film - around(film)
    expected = centred / (np.sqrt(around(centred**2)) + EMPTY_PART)
    ours = standardised(make_films(1, height, width), "local")[0, 0]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("how", OWN)
def test_a_film_is_the_same_alone_and_beside_others(how):
    films = make_films()
    torch.testing.assert_close(standardised(films[2:3], how), standardised(films, how)[2:3])


@pytest.mark.parametrize("how", OWN)
def test_an_empty_film_stays_empty(how):
    """A film of one grey has no spread to divide by."""
    films = torch.full((2, 1, 32, 32), 1.7)
    assert standardised(films, how).abs().max() < 1e-3


@pytest.mark.parametrize("how", OWN)
def test_lower_precision_adds_no_steps_of_grey(how):
    films = make_films()
    with torch.autocast("cpu", torch.bfloat16):
        found = standardised(films, how)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, standardised(films, how), rtol=0, atol=0)


@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("how", OWN)
def test_it_is_the_first_step_of_every_network(how, outputs):
    films = make_films()
    torch.manual_seed(0)
    plain = build_network("test_resnet", outputs=outputs).eval()
    network = build_network("test_resnet", outputs=outputs, standardise=how).eval()
    network.load_state_dict(plain.state_dict())  # it has no weights of its own
    with torch.no_grad():
        torch.testing.assert_close(network(films), plain(standardised(films, how)))
        assert not torch.allclose(network(films), plain(films))


BLACK = -2.0  # of the letterbox, in units of the data set


def boxed(films, left=7, right=9):
    """Films in a letterbox, columns of black to their left and right."""
    return torch.nn.functional.pad(films, (left, right), value=BLACK)


@pytest.mark.parametrize("how", INSIDE)
def test_the_letterbox_has_no_say(how):
    """Neither in the scale of the film nor, at its black, in what the network sees of the exposure."""
    films = make_films(width=24).clamp(min=BLACK + 0.1)
    alone, inside = standardised(films, how), standardised(boxed(films), how)
    assert (inside[..., :7] == 0).all()
    assert (inside[..., -9:] == 0).all()
    if how == "film_inside":  # a Gaussian window is a share of the side, which the letterbox makes longer
        torch.testing.assert_close(inside[..., 7:-9], alone, rtol=1e-4, atol=1e-5)
    moved = {way: standardised(boxed(2.5 * films + 4), way) - standardised(boxed(films), way)
             for way in (how, how.removesuffix("_inside"))}  # fmt: skip
    now, before = (found.abs().max() for found in moved.values())
    assert now < 0.12
    assert before > 2 * now


def test_how_much_letterbox_there_is_does_not_move_the_film():
    films = make_films(width=24).clamp(min=BLACK + 0.1)
    narrow, wide = standardised(boxed(films, 2, 2), "film_inside"), standardised(boxed(films, 20, 20), "film_inside")
    torch.testing.assert_close(narrow[..., 2:-2], wide[..., 20:-20], rtol=1e-4, atol=1e-5)


def test_the_letterbox_is_whole_rows_or_columns_of_black_from_an_edge():
    film = make_films(1, 20, 20).clamp(min=BLACK + 0.1)
    film[..., 8:12, 3:15] = BLACK  # black within a film is film
    film[..., 0, 5:] = BLACK  # and so is a row that has anything in it
    assert (film_area(film) == 1).all()
    for pads in ((3, 4, 0, 0), (0, 0, 5, 2), (1, 0, 0, 0), (2, 3, 4, 5)):
        area = film_area(torch.nn.functional.pad(film, pads, value=BLACK))
        left, right, top, bottom = pads
        expected = torch.nn.functional.pad(torch.ones(1, 1, 20, 20), (left, right, top, bottom))
        assert torch.equal(area, expected)
    assert (film_area(torch.full((2, 1, 8, 8), BLACK)) == 1).all()


def test_it_is_found_at_every_size_of_a_prepared_film():
    films = np.zeros((2, 64, 64), np.uint8)
    films[:, :, 9:55] = np.random.default_rng(0).integers(30, 255, (2, 64, 46))
    for size, share in ((64, 46 / 64), (48, 46 / 64), (96, 46 / 64)):
        area = film_area(normalise(torch.from_numpy(films), 0.5, 0.25, size))
        assert area.mean().item() == pytest.approx(share, abs=0.04)


def test_in_training_it_is_turned_with_its_film():
    """A letterbox that is not straight any more is not to be found: what is film is found before."""
    films = boxed(make_films(16, width=24).clamp(min=BLACK + 0.1))
    config = TrainConfig(rotation=20, noise=0.5, augment_probability=1.0)
    known = augment(with_film_area(films, "film_inside"), config, (0, 0, 0))
    assert known.shape == (16, 2, 40, 40)
    torch.testing.assert_close(known[:, :1], augment(films, config, (0, 0, 0)))
    still = augment(with_film_area(films, "film_inside"), replace(config, noise=0, brightness=0, contrast=0), (0, 0, 0))
    pixels, area = still.split(1, dim=1)
    assert (pixels[area == 0] - BLACK).abs().max() < 1e-4
    assert area.mean() < 0.9
    assert with_film_area(films, "film") is films
    seen = standardised(known, "film_inside")
    assert (seen[known[:, 1:] == 0] == 0).all()


def test_networks_of_before_answer_as_they_did():
    """To the last bit: their pixels, letterbox and all, by the formula of before."""
    films = boxed(make_films(width=24))
    centred = films - films.mean((2, 3), keepdim=True)
    expected = centred / (centred.square().mean((2, 3), keepdim=True).sqrt() + EMPTY_FILM)
    assert torch.equal(standardised(films, "film"), expected)


def test_a_misspelt_way_is_refused():
    with pytest.raises(
        ValueError, match="standardise='films' is not one of: dataset, film_inside, local_inside, film, local"
    ):
        TrainConfig(standardise="films")
    with pytest.raises(
        ValueError,
        match="standardise='later' is not one of: dataset, film_inside, local_inside, film, local. Update hilum",
    ):
        build_network("test_resnet", standardise="later")
