"""Develops one film of the phantom: build, findings, devices, exposure, noise -> uint8 pixels.

In: seed, Patient, Study, view. Out: uint8 arrays (height, width), the longer side as asked. Called by writer.py, and
by the documentation through render_example. Same arguments, same pixels.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from pathologies.errors import InputError
from pathologies.phantom.anatomy import build_scene, draw_anatomy
from pathologies.phantom.canvas import Frame, Scene, paint_strokes
from pathologies.phantom.devices import collimate, draw_cables, draw_devices, stamp_marker
from pathologies.phantom.findings import SIGNS
from pathologies.phantom.lateral import build_lateral, draw_lateral_sign
from pathologies.phantom.patients import CHILDREN, FINDINGS, Patient, Study, draw_patient, stream

# Purposes of the random streams: what persists in a person, what is new in each film, what belongs to a finding.
_PERSON, _FILM, _TEXTURE, _EXPOSURE, _DEVICE, _FINDING = 11, 12, 13, 14, 15, 100


@dataclass(frozen=True, kw_only=True)
class FilmRequest:
    """One film to develop."""

    seed: int
    patient: Patient
    study: Study
    lateral: bool = False
    size: int = 320
    strength: float = 1.0


def render_film(request: FilmRequest) -> np.ndarray:
    """The film as uint8, longer side `size` pixels, bone bright."""
    patient, study = request.patient, request.study
    film_rng = stream(request.seed, patient.number, study.number, _FILM, int(request.lateral))
    frame = _frame(film_rng, request)
    scene = _lateral(request, frame) if request.lateral else _frontal(request, frame, film_rng)
    exposure = stream(request.seed, patient.number, study.number, _EXPOSURE, int(request.lateral))
    return _develop(scene, exposure, "L" if request.lateral or exposure.random() < 0.7 else "R")


def _frame(rng: np.random.Generator, request: FilmRequest) -> Frame:
    long, short = request.size, round(request.size * rng.uniform(0.82, 1.0))
    upright = request.lateral or rng.random() < 0.5
    ap = request.study.projection == "AP" and not request.lateral
    return Frame(
        width=short if upright else long,
        height=long if upright else short,
        angle=float(rng.normal(0, 0.08 if ap else 0.035)),
        shift_x=float(rng.normal(0, 0.085)),
        shift_y=float(rng.normal(0.03, 0.085)),
        zoom=float(rng.uniform(1.0, 1.30) * (0.92 if upright else 0.97)),
    )


def _frontal(request: FilmRequest, frame: Frame, film_rng: np.random.Generator) -> Scene:
    seed, patient, study = request.seed, request.patient, request.study
    ap = study.projection == "AP"
    anatomy = draw_anatomy(stream(seed, patient.number, _PERSON), film_rng, study.projection, patient.sex)
    for finding, severity in study.signs.items():
        if SIGNS[finding].shape:
            anatomy = SIGNS[finding].shape(anatomy, _place(request, finding), severity * request.strength)
    scene = build_scene(anatomy, frame, stream(seed, patient.number, study.number, _TEXTURE))
    for finding in SIGNS:
        if finding in study.signs and SIGNS[finding].draw:
            severity = study.signs[finding] * request.strength
            SIGNS[finding].draw(anatomy, scene, _place(request, finding), severity)
    device_rng = stream(seed, patient.number, study.number, _DEVICE)
    if study.devices:
        scene.strokes.extend(draw_devices(anatomy, device_rng, ap))
    if device_rng.random() < (0.45 if ap else 0.05):
        scene.strokes.extend(draw_cables(anatomy, device_rng))
    return scene


def _place(request: FilmRequest, finding: str) -> np.random.Generator:
    """The stream of a finding in a person: its side and place stay from study to study."""
    return stream(request.seed, request.patient.number, _FINDING + FINDINGS.index(finding))


def _lateral(request: FilmRequest, frame: Frame) -> Scene:
    seed, patient, study = request.seed, request.patient, request.study
    signs = {finding: severity * request.strength for finding, severity in study.signs.items()}
    texture = stream(seed, patient.number, study.number, _TEXTURE, 1)
    scene = build_lateral(frame, stream(seed, patient.number, _PERSON, 1), texture, signs)
    for finding, severity in signs.items():
        draw_lateral_sign(scene, finding, _place(request, finding), severity)
    return scene


def _develop(scene: Scene, rng: np.random.Generator, letter: str) -> np.ndarray:
    """Attenuation -> film: window, gradient over the film, quantum noise, marker, collimation."""
    aerated = scene.air * (1 - scene.opacity)
    density = (
        scene.tissue
        - np.float32(rng.uniform(0.36, 0.48)) * aerated
        + scene.vessels * (np.float32(0.15) * scene.air + aerated)
    )
    density += scene.overlay
    frame = scene.frame
    film = np.array(Image.fromarray(density).resize((frame.width, frame.height), Image.Resampling.BICUBIC))
    paint_strokes(film, scene.strokes, frame)
    across = np.linspace(-1, 1, frame.width, dtype=np.float32) * np.float32(rng.normal(0, 0.055))
    down = np.linspace(-1, 1, frame.height, dtype=np.float32) * np.float32(rng.normal(0, 0.055))
    film += across[None, :] + down[:, None]
    contrast, centre = np.float32(rng.uniform(3.6, 5.6)), np.float32(rng.normal(0.47, 0.06))
    film = 1 / (1 + np.exp((centre - film) * contrast))
    film = np.clip((film - np.float32(0.08)) * np.float32(1 / 0.82), 0, 1)
    grain = rng.standard_normal(film.shape, dtype=np.float32)
    film += grain * np.float32(rng.uniform(0.010, 0.028))
    collimate(film, rng)
    if rng.random() < 0.85:
        stamp_marker(film, letter, frame, rng)
    return (np.clip(film, 0, 1) * np.float32(255)).astype(np.uint8)


def render_example(slug: str, seed: int = 0, size: int = 320) -> tuple[np.ndarray, np.ndarray]:
    """(without, with): the same person, film and exposure, without any finding and with this one; for documentation."""
    if slug not in FINDINGS:
        raise InputError(f"Unknown finding '{slug}' for a phantom film. Known: {', '.join(FINDINGS)}")
    patient = draw_patient(seed, 1, "demo", laterals=False)
    healthy = Study(number=1, projection="PA", lateral=False, truth=dict.fromkeys(FINDINGS, 0), signs={}, devices=False)
    parents = {parent: 1 for parent, children in CHILDREN.items() if slug in children}
    ill = replace(healthy, truth=healthy.truth | {slug: 1} | parents, signs={slug: 1.2})
    films = [render_film(FilmRequest(seed=seed, patient=patient, study=study, size=size)) for study in (healthy, ill)]
    return films[0], films[1]
