"""models/data/images.py: every pixel format gives the same film, and what cannot be used says why."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from models.data import decode_guard
from models.data.images import decode, letterbox, load_image

SIZE = 32


@pytest.fixture
def film():
    """A smooth 24 x 32 film with no symmetry, from 5 to 250."""
    rows, columns = np.mgrid[0:24, 0:32]
    return np.rint(5 + 245 * (0.7 * columns / 31 + 0.3 * rows / 23)).astype(np.uint8)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(array, mode=None):
    image = Image.fromarray(array)
    return encode(image.convert(mode) if mode else image)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_a_grey_film_is_the_same_in_every_8_bit_mode(film, mode):
    assert np.array_equal(decode(png(film, mode)), film)


def test_alpha_is_ignored(film):
    grey = Image.fromarray(film)
    grey.putalpha(Image.fromarray(255 - film))
    assert np.array_equal(decode(encode(grey)), film)
    colour = Image.fromarray(film).convert("RGBA")
    colour.putalpha(0)
    assert np.array_equal(decode(encode(colour)), film)


def test_colour_becomes_luma():
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[0], colours[1], colours[2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # ITU-R BT.601-7: Y = 0.299 R + 0.587 G + 0.114 B
    assert decode(png(colours))[:, 0].tolist() == [76, 150, 29, 0]


def test_palette_is_looked_up(film):
    image = Image.fromarray(255 - film)
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([level for index in range(256) for level in [255 - index] * 3])
    assert np.array_equal(decode(encode(image)), film)
    assert np.array_equal(decode(encode(image, transparency=3)), film)


def test_one_bit_becomes_black_and_white(film):
    bits = np.where(film > 128, 255, 0).astype(np.uint8)
    assert np.array_equal(decode(png(bits, "1")), bits)


@pytest.mark.parametrize("low_high", [(0, 4095), (100, 1123), (30000, 65535)])
def test_16_bit_is_stretched_over_its_own_range(film, low_high):
    low, high = low_high
    depth = np.rint(low + (film - 5.0) / 245 * (high - low)).astype(np.uint16)
    decoded = decode(png(depth))
    assert (decoded.min(), decoded.max()) == (0, 255)
    assert np.abs(decoded - (film - 5.0) / 245 * 255).max() <= 1


def test_16_bit_keeps_its_order_and_wide_values_do_not_wrap():
    values = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    assert (np.diff(decode(png(values)).ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(film, mode):
    decoded = decode(encode(Image.fromarray(film).convert(mode), "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - film).max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(film, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(film), kind, exif=exif)
    assert np.array_equal(decode(data), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_cost_the_film(film):
    data = encode(Image.fromarray(film), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decode(data), film)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_cut_anywhere_is_refused_or_whole(film, kind):
    data = encode(Image.fromarray(film), kind)
    whole = decode(data)
    reasons = {}
    for length in range(1, len(data)):
        try:
            assert np.array_equal(decode(data[:length]), whole)
        except ValueError as error:
            reasons[length] = str(error)
    assert set(reasons.values()) == {"truncated"}
    assert set(range(1, len(data) - 20)) <= set(reasons)  # decoded only where no more than the ending is cut


def test_a_png_with_a_flipped_byte_is_damaged(film):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    data = bytearray(png(noise))
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    with pytest.raises(ValueError, match="^damaged$"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"GIF89a" + bytes(100), "not an image"),
        (b"<html>404</html>" * 20, "not an image"),
        (png(np.full((8, 8), 7, np.uint8)), "blank image"),
        (png(np.full((8, 8), 700, np.uint16)), "blank image"),
    ],
)
def test_what_is_no_film_is_refused_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "film.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{reason}"):
        decode(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ValueError, match="^missing$"):
        decode(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="^a folder"):
        decode(tmp_path)


def test_too_many_pixels_are_refused_before_they_are_decoded(film, monkeypatch):
    data = png(film)
    monkeypatch.setattr(decode_guard, "MAX_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="^too large"):
        decode(data)


def test_path_string_and_bytes_agree_and_the_name_does_not_matter(film, tmp_path):
    path = tmp_path / "film.dcm"  # a PNG under the wrong name
    path.write_bytes(png(film))
    for source in (path, str(path), path.read_bytes()):
        assert np.array_equal(decode(source), film)


def test_letterbox_keeps_aspect_and_centres():
    wide = np.full((20, 40), 200, np.uint8)
    boxed = letterbox(wide, SIZE)
    assert boxed.shape == (SIZE, SIZE)
    assert (boxed[8:24] == 200).all()
    assert (boxed[:8] == 0).all()
    assert (boxed[24:] == 0).all()
    assert np.array_equal(letterbox(wide.T.copy(), SIZE), boxed.T)


def test_letterbox_of_a_sliver_keeps_a_pixel():
    assert (letterbox(np.full((1, 500), 9, np.uint8), SIZE) == 9).any()


def test_letterbox_is_the_identity_at_size(film):
    square = film[:, :24]
    assert letterbox(square, 24) is square


def test_letterbox_reduces_with_antialiasing():
    checks = np.indices((256, 256)).sum(axis=0) % 2 * 255
    reduced = letterbox(checks.astype(np.uint8), SIZE)
    assert np.abs(reduced[4:-4, 4:-4].astype(int) - 127).max() <= 2


def test_letterbox_does_not_mirror(film):
    boxed = letterbox(film, 16)
    assert boxed[2:-2, 12:].mean() > boxed[2:-2, :4].mean() + 50


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8)])
def test_letterbox_refuses_what_is_not_our_pixels(image):
    with pytest.raises(ValueError, match="uint8, height x width"):
        letterbox(image, SIZE)


def test_load_image_is_decode_then_letterbox(film):
    assert np.array_equal(load_image(png(film), 16), letterbox(film, 16))
