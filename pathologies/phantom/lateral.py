"""The lateral chest of the phantom, simpler than the frontal one: what a side view adds and no more.

In: frame, random streams, signs. Out: Scene. Called by films.py. The breastbone is on image left.
"""

import numpy as np

from pathologies.phantom.canvas import Frame, Scene, Stroke, blob, edge, smooth_noise, wave

Generator = np.random.Generator


def build_lateral(frame: Frame, person: Generator, rng: Generator, signs: dict[str, float]) -> Scene:
    """The side view of a person (stream `person`); `rng` draws textures; signs maps a finding to its severity."""
    x, y = frame.grid()
    depth = person.uniform(0.42, 0.54) + 0.02
    dome = person.normal(0.42, 0.04) - 0.04 * signs.get("atelectasis", 0.0)
    front = -depth * (0.50 + 0.50 * np.sin(np.clip((y + 0.75) / 1.1, 0, 1) * np.float32(np.pi / 2)))
    back = np.float32(depth) * (np.float32(0.95) - np.float32(0.35) * (y - 0.05) ** 2)
    floor = (
        np.float32(dome) + np.float32(0.9) * np.clip(x + 0.08, 0, 1) ** 2 + np.float32(0.35) * np.clip(-x, 0, 1) ** 2
    )
    air = (
        edge(x - front, 0.03)
        * edge(back - x, 0.03)
        * edge(floor - y, 0.02)
        * edge(1 - ((x - 0.08) / np.float32(0.62)) ** 2 - ((y - 0.1) / np.float32(0.86)) ** 2, 0.25)
    )
    scene = Scene(
        frame=frame, x=x, y=y, tissue=x, air=air, opacity=np.zeros_like(x), vessels=x, overlay=np.zeros_like(x)
    )
    big = 1 + 0.28 * signs.get("cardiomegaly", 0.0)
    heart = edge(1 - blob(scene, (-0.17, dome - 0.17), (0.19 * big, 0.27 * big), 0.6), 0.45)
    arch = edge(1 - blob(scene, (0.02, -0.30), (0.10 + 0.05 * signs.get("enlarged_cardiomediastinum", 0.0), 0.36)), 0.9)
    scene.air = air * (1 - np.maximum(0.7 * heart, 0.45 * arch))
    column = edge(np.float32(0.075) - np.abs(x - back), 0.03)
    discs = 0.6 + 0.4 * np.sign(np.cos(y * np.float32(2 * np.pi / 0.15)) + 0.4)
    body = edge(x - front + 0.16, 0.06) * edge(back + 0.24 - x, 0.06)
    shoulder = 0.14 * edge(-0.45 - y, 0.3)
    ribs = (
        0.04 * np.clip(np.cos((y - 0.45 * x - 0.3 * x**2) * np.float32(2 * np.pi / 0.16)), 0, 1) * edge(x - front, 0.02)
    )
    scene.tissue = body * (0.64 + 0.09 * column * discs + shoulder + ribs * edge(back - x, 0.05) + 0.06 * heart)
    strands = np.clip(1 - np.abs(smooth_noise(rng, x.shape, (20, 20))) * 2, 0, 1)
    hilum = np.exp(-blob(scene, (0.03, -0.08), (0.20, 0.25)))
    scene.vessels = np.float32(0.10) * strands * (0.3 + hilum)
    scene.strokes.append(Stroke(points=wave((-depth * 0.8, -0.6), (-depth, 0.2), rng, 0.05), width=0.03, value=0.10))
    return scene


def draw_lateral_sign(scene: Scene, finding: str, rng: Generator, severity: float) -> None:
    """A finding on the side view; those without an entry of their own leave no trace here."""
    centre = (rng.uniform(-0.3, 0.35), rng.uniform(-0.35, 0.25))
    if finding in ("consolidation", "pneumonia", "lung_opacity"):
        patch = np.exp(-blob(scene, centre, (0.18, 0.16)))
        wool = smooth_noise(rng, scene.x.shape, (18, 18)) if finding == "pneumonia" else np.float32(0)
        scene.fill(np.clip(0.6 * severity * patch * (1 + 0.6 * wool), 0, 0.95))
    elif finding == "lung_lesion":
        scene.fill(0.8 * severity * edge(1 - blob(scene, centre, (0.07, 0.07)), 0.4))
    elif finding == "edema":
        scene.fill(0.35 * severity * np.exp(-blob(scene, (0.03, -0.05), (0.35, 0.35))))
    elif finding == "pleural_effusion":
        surface = 0.45 - 0.25 * severity * np.clip(scene.x + 0.1, 0, 1) ** 1.5 * 2
        scene.fill(0.95 * edge(scene.y - surface.astype(np.float32), 0.04) * edge(scene.x - 0.05, 0.05))
    elif finding == "atelectasis":
        points = wave((centre[0] - 0.2, 0.15), (centre[0] + 0.2, 0.25), rng, 0.05)
        scene.strokes.append(Stroke(points=points, width=0.028, value=0.18 * severity))
    elif finding == "pneumothorax":
        points = wave((-0.25, -0.55), (0.3, -0.45), rng, 0.1)
        scene.strokes.append(Stroke(points=points, width=0.012, value=0.15 * severity))
        scene.vessels = scene.vessels * edge(scene.y + 0.5, 0.05)
