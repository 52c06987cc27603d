"""models/standardise.py: what of a film's exposure and shading still reaches the network."""

import numpy as np
import pytest
import torch

from models.config import TrainConfig
from models.network import build_network
from models.standardise import EMPTY_FILM, EMPTY_PART, WINDOW, standardised

OWN = ("film", "local")


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
    assert slope["film"] > 0.04
    assert abs(slope["local"]) < 0.01


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


def test_a_misspelt_way_is_refused():
    with pytest.raises(ValueError, match="standardise='films' is not one of: dataset, film, local"):
        TrainConfig(standardise="films")
    with pytest.raises(ValueError, match="standardise='later' is not one of: dataset, film, local. Update hilum"):
        build_network("test_resnet", standardise="later")
