"""The twelve findings of the phantom, each as the sign that a radiologist looks for on the frontal film.

In: Anatomy or Scene, a random stream of the finding (place and side persist over a patient's studies), severity
around 1. Out: a changed Anatomy (`shape`) or a changed Scene (`draw`). Called by films.py through SIGNS.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pathologies.phantom.anatomy import LEFT, RIGHT, Anatomy, Fracture
from pathologies.phantom.canvas import Scene, Stroke, blob, edge, smooth_noise, wave

Generator = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Sign:
    """How a finding shows: in the build of the chest, in what lies in the beam, or both."""

    shape: Callable[[Anatomy, Generator, float], Anatomy] | None = None
    draw: Callable[[Anatomy, Scene, Generator, float], None] | None = None


def lung_point(anatomy: Anatomy, rng: Generator, side: int, zone: tuple[float, float]) -> tuple[float, float]:
    """A place in one lung; zone is the range of heights, 0 at the apex and 1 at the dome."""
    y = anatomy.apex + rng.uniform(*zone) * (anatomy.dome(side) - anatomy.apex)
    outer = float(anatomy.wall(y))
    return anatomy.rotation + side * rng.uniform(0.26, max(0.3, outer - 0.10)), float(y)


def _side(rng: Generator) -> int:
    return LEFT if rng.random() < 0.5 else RIGHT


def _wide_heart(anatomy: Anatomy, rng: Generator, severity: float) -> Anatomy:
    """Cardiomegaly: the heart takes more than half of the thorax."""
    if severity < 0.05:
        return anatomy
    ratio = max(anatomy.heart_ratio, 0.47) + 0.065 * severity * rng.uniform(0.7, 1.3)
    return replace(anatomy, heart_ratio=min(0.68, ratio), heart_tilt=anatomy.heart_tilt * 0.8)


def _wide_mediastinum(anatomy: Anatomy, rng: Generator, severity: float) -> Anatomy:
    """Enlarged cardiomediastinum: the upper mediastinum bulges to one side or both."""
    widths = np.array([rng.uniform(0.07, 0.13), rng.uniform(0.07, 0.13)]) * severity
    one = rng.random()
    if one < 0.35:
        widths[0] *= 0.2
    elif one < 0.7:
        widths[1] *= 0.2
    return replace(anatomy, widening=(float(widths[0]), float(widths[1])))


def _raised_dome(anatomy: Anatomy, rng: Generator, severity: float) -> Anatomy:
    """Volume loss of an atelectasis: the diaphragm of that side rises."""
    side = _side(rng)
    rise = 0.06 * severity * rng.uniform(0.3, 1.5)
    right, left = anatomy.domes
    return replace(anatomy, domes=(right - rise * (side == RIGHT), left - rise * (side == LEFT)))


def _broken_ribs(anatomy: Anatomy, rng: Generator, severity: float) -> Anatomy:
    """Fracture: three to five neighbouring ribs with a step, a gap and dense, overlapping ends."""
    if severity < 0.05:
        return anatomy
    side, count = _side(rng), int(rng.integers(3, 6))
    position = anatomy.half_width * rng.uniform(0.42, 0.78)
    relative = position / anatomy.half_width
    arch = anatomy.rib_slope * (0.05 * relative + 0.20 * relative**2 + 0.16 * relative**6)
    y = rng.uniform(anatomy.apex + 0.28, 0.12)
    first = round((y - arch - anatomy.rib_offset) / anatomy.rib_spacing)
    step = (1 if rng.random() < 0.6 else -1) * 0.36 * severity
    broken = tuple(
        Fracture(
            side=side,
            rib=first + index,
            position=position + rng.normal(0, 0.03),
            step=float(np.clip(step * rng.uniform(0.8, 1.2), -0.45, 0.45)),
            gap=float(0.075 * min(1.0, 0.3 + 0.7 * severity)),
        )
        for index in range(count)
    )
    return replace(anatomy, fractures=broken)


def _unspecific(anatomy: Anatomy, scene: Scene, rng: Generator, severity: float) -> None:
    """Lung opacity without another name: a hazy patch anywhere."""
    centre = lung_point(anatomy, rng, _side(rng), (0.15, 0.9))
    patch = blob(scene, centre, (rng.uniform(0.12, 0.22), rng.uniform(0.12, 0.22)), rng.uniform(0, 3))
    scene.fill(0.55 * severity * np.exp(-patch))


def _nodules(anatomy: Anatomy, scene: Scene, rng: Generator, severity: float) -> None:
    """Lung lesion: one to three round, sharply bounded nodules, or a mass."""
    mass = rng.random() < 0.3
    for _ in range(1 if mass else int(rng.integers(1, 4))):
        centre = lung_point(anatomy, rng, _side(rng), (0.12, 0.92))
        radius = rng.uniform(0.09, 0.13) if mass else rng.uniform(0.045, 0.075)
        shape = blob(scene, centre, (radius, radius * rng.uniform(0.85, 1.15)), rng.uniform(0, 3))
        scene.fill(min(1.0, 0.85 * severity) * edge(1 - shape, 0.4))
        scene.overlay += np.float32(0.05 * severity) * edge(1 - shape, 0.4)


def _edema(anatomy: Anatomy, scene: Scene, rng: Generator, severity: float) -> None:
    """Edema: bat-wing haze round both hila, blurred and widened vessels, septal (Kerley) lines at the bases."""
    distance = np.abs(scene.x - np.float32(anatomy.rotation))
    reach = rng.uniform(0.22, 0.34)
    wing = np.exp(-(((distance - 0.24) / np.float32(reach)) ** 2) - ((scene.y + 0.02) / np.float32(reach * 1.2)) ** 2)
    net = smooth_noise(rng, scene.x.shape, (34, 34))
    mesh = np.clip(1 - np.abs(net) * 1.5, 0, 1)
    scene.fill(np.float32(0.20 * severity) * wing * rng.uniform(0.5, 1.2))
    scene.vessels = scene.vessels * (1 - np.float32(min(0.5, severity)) * wing) + np.float32(
        0.085 * severity
    ) * mesh * (np.float32(0.35) + wing)
    for side in (LEFT, RIGHT):
        for index in range(6):
            y = anatomy.dome(side) - 0.03 - 0.045 * index
            outer = anatomy.rotation + side * (float(anatomy.wall(y)) - 0.015)
            points = np.array([[outer, y], [outer - side * rng.uniform(0.07, 0.12), y - rng.uniform(0.0, 0.02)]])
            scene.strokes.append(Stroke(points=points, width=0.011, value=0.16 * severity))


def _consolidation(anatomy: Anatomy, scene: Scene, rng: Generator, severity: float) -> None:
    """Consolidation: a dense lobar patch, straight at the fissure, with an air bronchogram."""
    side = _side(rng)
    centre = lung_point(anatomy, rng, side, (0.25, 0.85))
    radii = (rng.uniform(0.17, 0.25), rng.uniform(0.13, 0.21))
    angle = rng.uniform(-0.5, 0.5)
    patch = edge(1.15 - blob(scene, centre, radii, angle), 0.5)
    below = rng.random() < 0.5
    fissure = (scene.y - np.float32(centre[1])) * (1 if below else -1) + np.float32(0.35 * radii[1])
    tilt = np.float32(rng.uniform(-0.25, 0.25)) * (scene.x - np.float32(centre[0]))
    scene.fill(min(0.95, 0.78 * severity) * patch * edge(fissure + tilt, 0.025))
    root = np.array([centre[0] - side * 0.8 * radii[0], centre[1] + (0.1 if below else -0.1) * radii[1]])
    for turn in rng.uniform(-0.7, 0.7, 4):
        reach = np.array([side * np.cos(turn), np.sin(turn) * 0.6 + (0.3 if below else -0.3)]) * radii[0] * 1.3
        points = wave(tuple(root), tuple(root + reach), rng, 0.1)
        scene.strokes.append(Stroke(points=points, width=0.020, value=-0.17 * severity))


def _pneumonia(anatomy: Anatomy, scene: Scene, rng: Generator, severity: float) -> None:
    """Pneumonia: patchy, ill-defined, cotton-wool shadows in one region."""
    centre = lung_point(anatomy, rng, _side(rng), (0.3, 0.95))
    region = np.exp(-(blob(scene, centre, (rng.uniform(0.20, 0.30), rng.uniform(0.20, 0.32))) ** 2))
    wool = np.clip(smooth_noise(rng, scene.x.shape, (20, 20)) * 0.9 + 0.25, 0, 1)
    scene.fill(min(0.95, 0.85 * severity) * region * wool)


def _plates(anatomy: Anatomy, scene: Scene, rng: Generator, severity: float) -> None:
    """Atelectasis: one to three plates, straight dense bands, above the raised dome of the same side."""
    side = _side(rng)  # the same first draw as in _raised_dome: the same side
    for _ in range(int(rng.integers(1, 4))):
        x, y = lung_point(anatomy, rng, side, (0.55, 0.95))
        half, slope = rng.uniform(0.13, 0.20), rng.uniform(-0.45, 0.45)
        ends = (x - half, y - half * slope), (x + half, y + half * slope)
        points = wave(*ends, rng, 0.06)
        scene.strokes.append(Stroke(points=points, width=rng.uniform(0.022, 0.034), value=0.20 * severity))


def _pneumothorax(anatomy: Anatomy, scene: Scene, rng: Generator, severity: float) -> None:
    """Pneumothorax: a thin pleural line, beyond it black and without lung markings."""
    side = _side(rng)
    depth = rng.uniform(0.12, 0.22) * max(0.5, severity)
    low = rng.uniform(-0.25, 0.25)  # how far down the rim reaches
    heights = np.linspace(anatomy.apex + 0.02, low, 40)
    fade = np.clip((low - heights) / (low - anatomy.apex), 0, 1) ** 0.5
    line_x = anatomy.rotation + side * np.maximum(0.16, anatomy.wall(heights) - depth * fade * 1.2)
    top = anatomy.apex + depth * 0.9
    points = np.stack([line_x, np.maximum(heights, top - 0.02)], axis=1)
    inner = np.interp(scene.y, heights, np.abs(line_x - anatomy.rotation), right=9.0).astype(np.float32)
    distance = (scene.x - np.float32(anatomy.rotation)) * side
    beyond = edge(np.maximum(distance - inner, np.float32(top) - scene.y), 0.015) * (distance > 0)
    beyond *= edge(np.float32(low) - scene.y, 0.05) * np.float32(min(1.0, 2 * severity))
    scene.vessels = scene.vessels * (1 - beyond)
    scene.opacity *= 1 - beyond
    scene.overlay -= np.float32(0.12 * severity) * beyond * scene.air
    scene.strokes.append(Stroke(points=points[points[:, 1] >= top - 0.019], width=0.020, value=0.27 * severity))


def _effusion(anatomy: Anatomy, scene: Scene, rng: Generator, severity: float) -> None:
    """Pleural effusion: the costophrenic angle is filled, the upper border rises to the wall as a meniscus."""
    both = rng.random() < 0.3
    first = _side(rng)
    for side in (first, -first) if both else (first,):
        level = rng.uniform(0.0, 0.13) * severity
        distance = (scene.x - np.float32(anatomy.rotation)) * side
        relative = np.clip(distance / np.maximum(anatomy.wall(scene.y), 0.05), 0, 1.1)
        rise = np.float32(0.24 * min(1.0, severity)) * relative**5  # of the meniscus at the wall
        surface = np.float32(anatomy.dome(side) + 0.19 - level) - rise
        scene.fill(0.97 * edge(scene.y - surface, 0.035) * (distance > 0))
        scene.overlay += np.float32(0.05) * edge(scene.y - surface, 0.035) * (distance > 0) * scene.air


def _thick_pleura(anatomy: Anatomy, scene: Scene, rng: Generator, severity: float) -> None:
    """Pleural other: scalloped thickening along the inner wall, or calcified plaques."""
    side = _side(rng)
    start = rng.uniform(anatomy.apex + 0.12, -0.25)
    heights = np.linspace(start, start + rng.uniform(0.45, 0.70), 60)
    scallops = np.abs(np.sin(heights * rng.uniform(18, 26) + rng.uniform(0, 6)))
    thickness = (0.035 + 0.055 * scallops) * severity * np.sin(np.linspace(0.15, np.pi - 0.15, 60)) ** 0.5
    depth = np.interp(scene.y, heights, thickness, left=0.0, right=0.0).astype(np.float32)
    distance = (scene.x - np.float32(anatomy.rotation)) * side
    band = edge(distance - anatomy.wall(scene.y) + depth, 0.015) * (depth > 0.004)
    scene.fill(0.9 * band)
    scene.overlay += np.float32(0.05) * band * scene.air
    inner = anatomy.rotation + side * (anatomy.wall(heights) - thickness)
    points = np.stack([inner, heights], axis=1)
    scene.strokes.append(Stroke(points=points, width=0.020, value=0.24 * severity))


SIGNS = {
    "enlarged_cardiomediastinum": Sign(shape=_wide_mediastinum),
    "cardiomegaly": Sign(shape=_wide_heart),
    "lung_opacity": Sign(draw=_unspecific),
    "lung_lesion": Sign(draw=_nodules),
    "edema": Sign(draw=_edema),
    "consolidation": Sign(draw=_consolidation),
    "pneumonia": Sign(draw=_pneumonia),
    "atelectasis": Sign(shape=_raised_dome, draw=_plates),
    "pleural_effusion": Sign(draw=_effusion),
    "pleural_other": Sign(draw=_thick_pleura),
    "fracture": Sign(shape=_broken_ribs),
    "pneumothorax": Sign(draw=_pneumothorax),
}
