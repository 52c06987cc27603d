"""What lies on or in the phantom besides the body: lines, tubes, pacemakers, cables, side markers, collimation.

In: Anatomy or Frame, random streams. Out: strokes, or a changed film. Called by films.py.
"""

import numpy as np

from pathologies.phantom.anatomy import Anatomy
from pathologies.phantom.canvas import Frame, Stroke, wave

_LETTERS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


def draw_devices(anatomy: Anatomy, rng: np.random.Generator, ap: bool) -> list[Stroke]:
    """One to three devices; tubes and cables are commoner on AP films of the bedside."""
    makers = (_central_line, _tube, _pacemaker, _stomach_tube, _chest_tube, _wires)
    weights = np.array([3, 3, 1, 2, 1, 1] if ap else [2, 0.2, 3, 0.3, 0.5, 3], dtype=float)
    count = int(rng.integers(1, 4)) if ap else 1
    chosen = rng.choice(len(makers), size=count, replace=False, p=weights / weights.sum())
    return [stroke for index in sorted(chosen) for stroke in makers[index](anatomy, rng)]


def draw_cables(anatomy: Anatomy, rng: np.random.Generator) -> list[Stroke]:
    """Monitor cables over the chest: on the skin, so no support device."""
    strokes = []
    for _ in range(int(rng.integers(1, 4))):
        start = (rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.3))
        end = (start[0] + rng.uniform(-0.5, 0.5), rng.choice([-1.1, 1.1]))
        strokes.append(Stroke(points=wave(start, end, rng, 0.2), width=0.012, value=0.16))
        strokes.append(Stroke(points=np.array([start, (start[0] + 0.03, start[1])]), width=0.03, value=0.22))
    return strokes


def _central_line(anatomy: Anatomy, rng: np.random.Generator) -> list[Stroke]:
    side = rng.choice([-1, 1])
    corner = (anatomy.rotation - 0.08, anatomy.apex + 0.18)
    first = wave((side * rng.uniform(0.15, 0.6), anatomy.apex - rng.uniform(-0.05, 0.2)), corner, rng, 0.15)
    second = wave(corner, (anatomy.rotation - 0.09, rng.uniform(-0.2, 0.05)), rng, 0.05)
    return [Stroke(points=np.concatenate([first, second]), width=0.012, value=0.24)]


def _tube(anatomy: Anatomy, rng: np.random.Generator) -> list[Stroke]:
    x = anatomy.rotation + rng.normal(0, 0.008)
    points = wave((x, -1.2), (x, rng.uniform(-0.5, -0.35)), rng, 0.02)
    walls = points - [0.013, 0], points + [0.013, 0]
    return [Stroke(points=wall, width=0.009, value=0.22) for wall in walls]


def _pacemaker(anatomy: Anatomy, rng: np.random.Generator) -> list[Stroke]:
    side = 1 if rng.random() < 0.8 else -1
    x, y = side * rng.uniform(0.42, 0.55), anatomy.apex + rng.uniform(0.18, 0.32)
    box = np.array([(x - 0.05, y), (x + 0.05, y)])
    heart = (anatomy.rotation + rng.uniform(0.05, 0.25), anatomy.domes[1] - rng.uniform(0.05, 0.15))
    middle = (anatomy.rotation - 0.07, -0.15)
    lead = np.concatenate([wave((x, y), middle, rng, 0.2), wave(middle, heart, rng, 0.15)])
    return [Stroke(points=box, width=0.10, value=0.55), Stroke(points=lead, width=0.014, value=0.30)]


def _stomach_tube(anatomy: Anatomy, rng: np.random.Generator) -> list[Stroke]:
    down = wave((anatomy.rotation + 0.02, -1.2), (anatomy.rotation + 0.03, anatomy.domes[1]), rng, 0.02)
    turn = wave((anatomy.rotation + 0.03, anatomy.domes[1]), (0.25, anatomy.domes[1] + 0.18), rng, 0.1)
    return [Stroke(points=np.concatenate([down, turn]), width=0.013, value=0.20)]


def _chest_tube(anatomy: Anatomy, rng: np.random.Generator) -> list[Stroke]:
    side = rng.choice([-1, 1])
    y = rng.uniform(0.0, 0.3)
    points = wave((side * 1.0, y + 0.1), (side * rng.uniform(0.3, 0.45), rng.uniform(-0.5, 0.0)), rng, 0.15)
    return [Stroke(points=points, width=0.024, value=0.16), Stroke(points=points, width=0.007, value=0.16)]


def _wires(anatomy: Anatomy, rng: np.random.Generator) -> list[Stroke]:
    """Cerclage wires of an opened breastbone."""
    turn = np.linspace(0, 2 * np.pi, 12)
    ring = np.stack([0.03 * np.cos(turn), 0.012 * np.sin(turn)], axis=1)
    heights = np.linspace(-0.4, 0.2, int(rng.integers(4, 7)))
    return [Stroke(points=ring + [anatomy.rotation * 1.5, y], width=0.009, value=0.35) for y in heights]


def stamp_marker(film: np.ndarray, letter: str, frame: Frame, rng: np.random.Generator) -> None:
    """Burns an L or R into an upper corner of the display-valued film (0 to 1), in place. L stands on image right."""
    scale = max(1, round(frame.size / 110))
    glyph = np.kron(np.array([[int(bit) for bit in row] for row in _LETTERS[letter]]), np.ones((scale, scale)))
    height, width = glyph.shape
    row = int(frame.height * rng.uniform(0.03, 0.14))
    inset = int(frame.width * rng.uniform(0.03, 0.10))
    column = frame.width - inset - width if letter == "L" else inset
    if row + height <= frame.height and column >= 0 and column + width <= frame.width:
        part = film[row : row + height, column : column + width]
        np.maximum(part, glyph.astype(np.float32) * 0.95, out=part)


def collimate(film: np.ndarray, rng: np.random.Generator) -> None:
    """Blackens strips at the edges where the shutters were closed, in place."""
    height, width = film.shape
    for edge_index in range(4):
        if rng.random() < 0.25:
            strip = int(rng.uniform(0.01, 0.06) * (height if edge_index < 2 else width))
            rows = (slice(0, strip), slice(height - strip, height), slice(None), slice(None))[edge_index]
            columns = (slice(None), slice(None), slice(0, strip), slice(width - strip, width))[edge_index]
            film[rows, columns] = 0.02
