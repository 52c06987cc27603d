"""The normal frontal chest of the phantom: one person's build, and the scene that it makes.

In: random streams, projection. Out: Anatomy (a build) and Scene (what lies in the beam). Called by films.py;
findings.py changes the Anatomy before it is built, or the Scene afterwards. Image left is the patient's right.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pathologies.phantom.canvas import Frame, Scene, Stroke, blob, edge, smooth_noise

LEFT, RIGHT = 1, -1  # the patient's sides as signs of x on the film


@dataclass(frozen=True, kw_only=True)
class Fracture:
    """A step in one rib: at |x| = `position` on `side` the lateral part is shifted by `step` rib spacings."""

    side: int
    rib: int
    position: float
    step: float
    gap: float


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A frontal thorax, in thorax units (see Frame)."""

    half_width: float  # of the thorax cage, inner
    apex: float  # y of the lung apices
    domes: tuple[float, float]  # y of the right and left diaphragm dome
    heart_ratio: float  # heart width / inner thorax width
    heart_tilt: float
    heart_lean: float  # share of the heart that lies left of the midline
    mediastinum: float  # half-width of the upper mediastinum
    widening: tuple[float, float]  # extra half-width of it on the right and left
    rotation: float  # shift of midline structures by a turned patient
    scoliosis: float
    rib_spacing: float
    rib_offset: float
    rib_slope: float
    rib_contrast: float
    markings: float  # strength of the vessels
    fat: float  # soft tissue over the chest
    breasts: float  # 0: none
    scapulae: float  # 0: rotated out of the lungs (PA)
    fractures: tuple[Fracture, ...] = ()

    def wall(self, y: np.ndarray | float) -> np.ndarray:
        """Inner half-width of the thorax at height y."""
        t = np.clip((0.42 - np.asarray(y, dtype=np.float32)) / np.float32(0.42 - self.apex), 0, 1)
        return np.float32(self.half_width) * np.sqrt(1 - t**3) * (1 - np.float32(0.06) * (1 - t))

    def dome(self, side: int) -> float:
        return self.domes[0 if side == RIGHT else 1]

    def diaphragm(self, distance: np.ndarray | float, side: int) -> np.ndarray:
        """y of the diaphragm at a distance from the midline: highest at mid-lung, falling to the angles."""
        relative = np.asarray(distance, dtype=np.float32) / np.float32(self.half_width) - np.float32(0.42)
        return np.float32(self.dome(side)) + np.float32(0.62) * relative * relative


def draw_anatomy(person: np.random.Generator, film: np.random.Generator, projection: str, sex: str) -> Anatomy:
    """The build of a person (stream `person`) as it appears on one film (stream `film`)."""
    ap = projection == "AP"
    inspiration = film.normal(-0.07 if ap else 0.0, 0.045)
    dome = person.normal(0.40, 0.05) + inspiration
    spacing = person.uniform(0.135, 0.175)
    return Anatomy(
        half_width=float(person.normal(0.66, 0.045)),
        apex=float(person.normal(-0.72, 0.03)),
        domes=(float(dome - 0.02 + film.normal(0, 0.02)), float(dome + 0.03 + film.normal(0, 0.02))),
        heart_ratio=float(person.uniform(0.37, 0.465) * (1.06 if ap else 1.0)),
        heart_tilt=float(person.uniform(0.35, 0.75)),
        heart_lean=float(person.uniform(0.60, 0.78)),
        mediastinum=float(person.uniform(0.10, 0.15) * (1.08 if ap else 1.0)),
        widening=(0.0, 0.0),
        rotation=float(film.normal(0, 0.04 if ap else 0.018)),
        scoliosis=float(person.normal(0, 0.03)),
        rib_spacing=float(spacing),
        rib_offset=float(person.uniform(0, spacing)),
        rib_slope=float(person.uniform(0.8, 1.25)),
        rib_contrast=float(person.uniform(0.08, 0.12)),
        markings=float(person.uniform(0.8, 1.2)),
        fat=float(np.clip(person.normal(0.5, 0.25), 0, 1.2)),
        breasts=float(person.uniform(0.03, 0.12)) if sex == "Female" else 0.0,
        scapulae=float(film.uniform(0.02, 0.06)) if ap else 0.0,
    )


def build_scene(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Scene:
    """The normal chest of `anatomy` on the coarse grid of `frame`; `rng` draws textures and vessels."""
    x, y = frame.grid()
    bent = x - np.float32(anatomy.rotation) - np.float32(anatomy.scoliosis) * np.sin(2 * y)
    distance, left = np.abs(bent), bent > 0
    wall = anatomy.wall(y)
    floor = np.where(left, anatomy.diaphragm(distance, LEFT), anatomy.diaphragm(distance, RIGHT))
    lung = edge(wall - distance, 0.03) * edge(floor - y, 0.02) * edge(y - np.float32(anatomy.apex), 0.03)
    air = lung * edge(distance - _mediastinal_border(anatomy, y, left), 0.03)
    scene = Scene(
        frame=frame, x=x, y=y, tissue=np.zeros_like(x), air=air, opacity=np.zeros_like(x), vessels=x, overlay=x
    )
    heart = _heart(anatomy, scene)
    scene.air = air * (1 - np.float32(0.92) * heart)
    body = _body(anatomy, x, y, wall)
    tissue = body * (0.62 + 0.08 * smooth_noise(rng, x.shape, (4, 4)) * 0.3)
    tissue += np.float32(0.13) * heart * lung + np.float32(0.06) * body * edge(y - floor, 0.03)
    tissue += _spine(bent, y) * body
    tissue += _ribs(anatomy, bent, y, wall) * body
    tissue += _soft_parts(anatomy, scene, distance, left) * body
    scene.tissue = tissue
    scene.vessels = _vessels(anatomy, scene, rng) + np.float32(0.012) * smooth_noise(rng, x.shape, (36, 36))
    scene.overlay = np.zeros_like(x)
    scene.strokes.extend(_clavicles(anatomy, rng))
    return scene


def _mediastinal_border(anatomy: Anatomy, y: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Half-width of the mediastinum: narrow at the top, aortic knob and hila lower down."""
    base = np.float32(anatomy.mediastinum) * (1 + np.float32(0.15) * y)
    knob = np.float32(0.045) * np.exp(-(((y + 0.30) / np.float32(0.08)) ** 2)) * left
    bulge = np.exp(-(((y + 0.38) / np.float32(0.24)) ** 2).astype(np.float32))
    extra = np.where(left, np.float32(anatomy.widening[1]), np.float32(anatomy.widening[0])) * bulge
    return base + knob + extra


def _heart(anatomy: Anatomy, scene: Scene) -> np.ndarray:
    width = anatomy.heart_ratio * anatomy.half_width  # half of the heart's width
    centre_x = anatomy.rotation + width * (2 * anatomy.heart_lean - 1)
    tall = 0.16 + 0.32 * width
    centre_y = anatomy.domes[1] - 0.72 * tall
    main = blob(scene, (centre_x, centre_y), (width * 1.06, tall), anatomy.heart_tilt)
    base = blob(scene, (anatomy.rotation + 0.02, centre_y - 0.75 * tall), (0.17, 0.26))
    return np.maximum(edge(1 - main, 0.16), edge(1 - base, 0.3))


def _body(anatomy: Anatomy, x: np.ndarray, y: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """1 inside the body, less towards the skin; the shoulders run out of the film, the neck is narrow."""
    skin = np.float32(0.10 + 0.10 * anatomy.fat)
    trunk = np.float32(anatomy.half_width) + skin + np.float32(0.35) * np.clip(-0.25 - y, 0, 1)
    neck = np.float32(0.24 + 0.05 * anatomy.fat)
    outline = np.where(y < -0.86, neck + np.clip((y + 0.98) * 6, 0, 1) * (trunk - neck), trunk)
    inside = np.clip((outline - np.abs(x)) / (outline * np.float32(0.35)), 0, 1)
    return np.sqrt(inside) * np.float32(0.88 + 0.18 * anatomy.fat)


def _spine(bent: np.ndarray, y: np.ndarray) -> np.ndarray:
    column = edge(np.float32(0.075) - np.abs(bent), 0.03)
    discs = 0.75 + 0.25 * np.cos(y * np.float32(2 * np.pi / 0.14))
    trachea = edge(np.float32(0.032) - np.abs(bent - 0.008), 0.02) * edge(-0.26 - y, 0.05)
    processes = np.exp(-((bent / np.float32(0.018)) ** 2)) * np.float32(0.05)
    return column * (np.float32(0.09) * discs + processes) - np.float32(0.14) * trachea


def _ribs(anatomy: Anatomy, bent: np.ndarray, y: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """Posterior and anterior ribs at once: a periodic band over a bent phase, with fractures as phase steps."""
    distance = np.abs(bent)
    relative = distance / np.float32(anatomy.half_width)
    spacing, slope = np.float32(anatomy.rib_spacing), np.float32(anatomy.rib_slope)
    arch = slope * (np.float32(0.05) * relative + np.float32(0.20) * relative**2 + np.float32(0.16) * relative**6)
    phase = (y - arch - np.float32(anatomy.rib_offset)) / spacing
    gaps = np.ones_like(phase)
    for broken in anatomy.fractures:
        past = distance - np.float32(broken.position)
        here = (bent * broken.side > 0) & (np.abs(phase - broken.rib) < 0.5 + abs(broken.step))
        reach = edge(past, 0.012) * np.clip(1 - past / np.float32(0.60), 0, 1)
        phase = phase - here * np.float32(broken.step) * reach
        offset = np.abs(past) * np.float32(1 / broken.gap)
        ends = edge(1 - offset, 0.3) * np.float32(2.5) - edge(np.float32(0.36) - offset, 0.2) * np.float32(4.6)
        gaps += ends * (np.abs(phase - broken.rib) < 0.5) * here
    inside = edge(wall * np.float32(1.04) - distance, 0.03) * edge(y - np.float32(anatomy.apex - 0.04), 0.04)
    inside *= edge(distance - np.float32(0.06), 0.04) * edge(0.62 - y, 0.2)
    back = _band(phase, 0.21) * gaps
    front_phase = (y + slope * np.float32(0.34) * relative - np.float32(anatomy.rib_offset + 0.2)) / spacing
    front = _band(front_phase, 0.24) * edge(relative - np.float32(0.42), 0.15) * edge(y + 0.45, 0.1)
    rim = np.exp(-(((distance - wall * np.float32(1.02)) / np.float32(0.022)) ** 2))
    return inside * np.float32(anatomy.rib_contrast) * (back + np.float32(0.55) * front) + np.float32(0.04) * rim


def _band(phase: np.ndarray, half: float) -> np.ndarray:
    """A bar at every whole number of the phase, its cortical edges brighter than the marrow."""
    offset = np.abs(phase - np.round(phase))
    return edge(np.float32(half) - offset, 0.10) * (
        np.float32(0.75) + np.float32(0.5) * np.clip(offset / np.float32(half), 0, 1)
    )


def _soft_parts(anatomy: Anatomy, scene: Scene, distance: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Scapulae, breasts, the stomach's air bubble and the bright hila."""
    y = scene.y
    parts = np.zeros_like(y)
    if anatomy.scapulae:
        blade = distance - np.float32(0.80 * anatomy.half_width) + np.float32(0.22) * (y + 0.35)
        parts += np.float32(anatomy.scapulae) * edge(blade, 0.02) * edge(-0.02 - y, 0.1) * edge(y + 0.62, 0.1)
    if anatomy.breasts:
        round_part = ((distance - 0.36) / np.float32(0.30)) ** 2 + ((y - 0.22) / np.float32(0.26)) ** 2
        parts += np.float32(anatomy.breasts) * edge(1 - round_part, 0.35)
    bubble = blob(scene, (0.34, anatomy.domes[1] + 0.13), (0.13, 0.06))
    parts -= np.float32(0.10) * edge(1 - bubble, 0.5)
    hila = ((distance - 0.17) / np.float32(0.07)) ** 2 + ((y + 0.08 - 0.03 * left) / np.float32(0.11)) ** 2
    return parts + np.float32(0.09) * np.exp(-hila) * scene.air


def _vessels(anatomy: Anatomy, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Lung markings: ridges that run outwards from each hilum and thin out."""
    strands = ndimage.zoom(rng.standard_normal((2, 56, 9), dtype=np.float32), (1, 8, 8), order=1)
    ridges = np.clip(1 - np.abs(strands) * 2.6, 0, 1)
    side = (scene.x > anatomy.rotation).astype(np.intp)
    dx = np.abs(scene.x - np.float32(anatomy.rotation)) - np.float32(0.13)
    dy = scene.y + np.float32(0.06)
    radius = np.sqrt(dx * dx + dy * dy)
    turn = (np.arctan2(dy, dx) * np.float32(448 / (2 * np.pi)) + 224).astype(np.intp) % 448
    step = np.minimum((radius * np.float32(80)).astype(np.intp), 71)
    fade = np.exp(-radius / np.float32(0.38))
    return np.float32(0.17 * anatomy.markings) * ridges[side, turn, step] * fade


def _clavicles(anatomy: Anatomy, rng: np.random.Generator) -> list[Stroke]:
    """Two S-shaped bars from the breastbone to the shoulders."""
    t = np.linspace(0, 1, 20)
    lift = rng.normal(0.10, 0.04)
    strokes = []
    for side in (RIGHT, LEFT):
        x = side * (0.07 + 0.72 * t) + anatomy.rotation * 1.6
        y = anatomy.apex + 0.16 - lift * t - 0.035 * np.sin(2 * np.pi * t)
        points = np.stack([x, y], axis=1)
        strokes.append(Stroke(points=points, width=0.062, value=0.10))
        strokes.append(Stroke(points=points - [0, 0.026], width=0.012, value=0.14))
    return strokes
