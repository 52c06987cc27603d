"""Drawing tools of the phantom: coordinates, soft edges, noise and strokes on a film.

In: sizes and random generators. Out: float32 arrays. Called by anatomy.py, findings.py, lateral.py and
devices.py. Smooth parts are computed on a coarse grid (half the film); strokes and noise on the film itself.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where the thorax lies on the film. Thorax units: 1 is half the film's longer side before zoom; y points down."""

    width: int  # film, pixels
    height: int
    angle: float = 0.0  # radians
    shift_x: float = 0.0
    shift_y: float = 0.0
    zoom: float = 1.0

    @property
    def size(self) -> int:
        return max(self.width, self.height)

    @property
    def coarse(self) -> tuple[int, int]:
        """(height, width) of the coarse grid."""
        scale = 0.5 if self.size >= 160 else 1.0
        return max(8, round(self.height * scale)), max(8, round(self.width * scale))

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Thorax coordinates (x, y) of the coarse pixels."""
        height, width = self.coarse
        x = (np.linspace(-1, 1, width, dtype=np.float32) * (self.width / self.size) - self.shift_x) / self.zoom
        y = (np.linspace(-1, 1, height, dtype=np.float32) * (self.height / self.size) - self.shift_y) / self.zoom
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        return x[None, :] * cosine + y[:, None] * sine, y[:, None] * cosine - x[None, :] * sine

    def to_pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        """Film pixels of thorax points (n, 2)."""
        x, y = points[:, 0], points[:, 1]
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        u = (x * cosine - y * sine) * self.zoom + self.shift_x
        v = (x * sine + y * cosine) * self.zoom + self.shift_y
        half = self.size / 2
        return list(zip(u * half + self.width / 2, v * half + self.height / 2, strict=True))


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A thin bright (value > 0) or dark (value < 0) line; points in thorax units, width in thorax units."""

    points: np.ndarray
    width: float
    value: float


@dataclass(kw_only=True)
class Scene:
    """What lies in the beam, on the coarse grid. The findings write into it."""

    frame: Frame
    x: np.ndarray
    y: np.ndarray
    tissue: np.ndarray  # attenuation without the lungs' air
    air: np.ndarray  # aerated lung, 0 to 1
    opacity: np.ndarray  # share of the air that fluid or cells have replaced, 0 to 1
    vessels: np.ndarray  # lung markings
    overlay: np.ndarray  # added attenuation that no air weakens (calcium, fluid)
    strokes: list[Stroke] = field(default_factory=list)

    def fill(self, amount: np.ndarray) -> None:
        """Replaces a share of the remaining air."""
        self.opacity += (1 - self.opacity) * np.clip(amount, 0, 1)


def edge(distance: np.ndarray, softness: float) -> np.ndarray:
    """0 outside, 1 inside, a ramp of width `softness` round distance 0."""
    return np.clip(distance * np.float32(1 / softness) + np.float32(0.5), 0, 1)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Cloudy noise of unit variance at the knots: (rows, columns) `cells` interpolated to `shape`."""
    knots = rng.standard_normal((max(2, cells[0]), max(2, cells[1])), dtype=np.float32)
    return np.asarray(Image.fromarray(knots).resize(shape[::-1], Image.Resampling.BICUBIC))


def blob(scene: Scene, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> np.ndarray:
    """Squared elliptic distance from a centre: below 1 is inside."""
    dx, dy = scene.x - np.float32(centre[0]), scene.y - np.float32(centre[1])
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return ((dx * cosine + dy * sine) / np.float32(radii[0])) ** 2 + (
        (dy * cosine - dx * sine) / np.float32(radii[1])
    ) ** 2


def paint_strokes(density: np.ndarray, strokes: list[Stroke], frame: Frame) -> None:
    """Adds the strokes to a film-sized density in place; lines thinner than a pixel become fainter instead."""
    for sign in (1, -1):
        chosen = [stroke for stroke in strokes if stroke.value * sign > 0]
        if not chosen:
            continue
        layer = Image.new("L", (frame.width, frame.height))
        draw = ImageDraw.Draw(layer)
        for stroke in chosen:
            pixels = stroke.width * frame.zoom * frame.size / 2
            level = round(255 * min(1.0, abs(stroke.value)) * min(1.0, pixels))
            draw.line(frame.to_pixels(stroke.points), fill=level, width=max(1, round(pixels)), joint="curve")
        soft = layer.filter(ImageFilter.GaussianBlur(frame.size / 400))
        density += np.float32(sign / 255) * np.asarray(soft, dtype=np.float32)


def wave(start: tuple[float, float], end: tuple[float, float], rng: np.random.Generator, bend: float) -> np.ndarray:
    """A gently bent line of 24 points between two points."""
    t = np.linspace(0, 1, 24)[:, None]
    first, last = np.array(start), np.array(end)
    normal = np.array([-(last - first)[1], (last - first)[0]])
    offset = np.sin(np.pi * t) * rng.uniform(-bend, bend) + np.sin(2 * np.pi * t) * rng.uniform(-bend, bend) / 2
    return first + (last - first) * t + normal * offset
