"""A bundle as an object: load it, check it, run all its findings on prepared films.

In: a BUNDLE folder. Out: logits and calibrated probabilities, one column per finding. The whole chain lies here:
members' logits -> blend -> calibration -> consistency. Used by predict, evaluate and the ensembler's self-test.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.classifier import Classifier, Films, load_classifier
from models.consistency import raise_parents
from models.device import available_device
from models.paths import BundlePaths, read_json
from pathologies.errors import InputError

log = logging.getLogger(__name__)
FORMAT = "hilum-bundle/1"
SELFTEST_TOLERANCE = 1e-2  # logits; another processor or torch version moves them by about 1e-5
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Bundle:
    paths: BundlePaths
    description: Mapping[str, Any]  # bundle.json
    classifiers: tuple[Classifier, ...]

    @property
    def slugs(self) -> list[str]:
        return [classifier.slug for classifier in self.classifiers]

    @property
    def size(self) -> int:
        return self.description["input"]["size"]

    @property
    def parents(self) -> dict[str, list[str]]:
        return {one.slug: list(one.entry["parents"]) for one in self.classifiers}

    @property
    def consistency(self) -> bool:
        """Whether a parent is raised to its likeliest child."""
        return bool(self.description.get("consistency", False))

    def member_logits(self, films: np.ndarray) -> dict[str, np.ndarray]:
        """N x H x W uint8 -> per finding N x members, as the networks say it; each network sees a film once."""
        found = {one.slug: [np.zeros((0, len(one.members)))] for one in self.classifiers}
        for start in range(0, len(films), BATCH):
            batch = Films(films[start : start + BATCH], self.classifiers[0].device)
            for one in self.classifiers:
                found[one.slug].append(one.columns(batch))
        return {slug: np.concatenate(blocks) for slug, blocks in found.items()}

    def logits(self, films: np.ndarray) -> np.ndarray:
        """N x H x W uint8 -> N x findings, members blended, before calibration."""
        columns = self.member_logits(films)
        return np.stack([one.combine(columns) for one in self.classifiers], axis=1)

    def calibrate(self, logits: np.ndarray) -> np.ndarray:
        """N x findings logits -> probabilities in [0, 1], made consistent where the bundle asks for it."""
        columns = [one.calibration.apply(logits[:, index]) for index, one in enumerate(self.classifiers)]
        probability = np.stack(columns, axis=1)
        return raise_parents(probability, self.slugs, self.parents) if self.consistency else probability

    def probabilities(self, films: np.ndarray) -> np.ndarray:
        """N x H x W uint8 -> N x findings in [0, 1]."""
        return self.calibrate(self.logits(films))


def load_bundle(folder: Path, device: str = "auto", check: bool = True) -> Bundle:
    """Read and self-test a bundle. Errors: FileNotFoundError / InputError that say what is wrong with the folder."""
    bundle = assemble(read_description(folder), BundlePaths(folder), device)
    if check:
        self_test(bundle)
    return bundle


def read_description(folder: Path) -> dict[str, Any]:
    """`bundle.json`. Errors: FileNotFoundError / InputError for a folder that is no bundle of this format."""
    paths = BundlePaths(folder)
    if not paths.bundle.is_file():
        hint = " It is a run: make a bundle of it with `hilum ensemble`." if (folder / "plan.json").exists() else ""
        raise FileNotFoundError(f"{folder} is not a bundle: it has no bundle.json.{hint}")
    description = read_json(paths.bundle)
    if description.get("format") != FORMAT:
        raise InputError(f"{paths.bundle} has format {description.get('format')!r}; this hilum reads {FORMAT!r}.")
    return description


def assemble(description: Mapping[str, Any], paths: BundlePaths, device: str = "auto") -> Bundle:
    """The networks that a description names, without a check of their answers."""
    device = available_device(device)
    entries = sorted(description["findings"].items(), key=lambda item: item[1]["position"])
    networks: dict = {}  # read once, also where several findings share one
    classifiers = tuple(
        load_classifier(slug, entry, description["input"], paths.root, device, networks) for slug, entry in entries
    )
    return Bundle(paths=paths, description=description, classifiers=classifiers)


def self_test(bundle: Bundle) -> float:
    """Run the stored input; returns the largest deviation in logits. Errors: InputError when the answers differ."""
    import hashlib

    from models.images import decode

    stored = bundle.paths.selftest / "input.png"
    if not stored.is_file():
        raise FileNotFoundError(f"The bundle lacks {stored}. Copy the whole folder, selftest included.")
    film = decode(stored)
    expected = read_json(bundle.paths.selftest / "expected.json")
    if hashlib.sha256(film.tobytes()).hexdigest() != expected["input_sha256"]:
        raise InputError(f"{stored} does not decode to what was stored: a broken copy?")
    logits = bundle.logits(film[None])[0]
    off = {
        slug: abs(float(logit) - float(expected["logits"].get(slug, math.nan)))
        for slug, logit in zip(bundle.slugs, logits, strict=True)
    }
    off = {slug: math.inf if math.isnan(far) else far for slug, far in off.items()}  # no maximum would find a NaN
    worst = max(off, key=lambda slug: off[slug])
    if off[worst] > SELFTEST_TOLERANCE:
        raise InputError(
            f"The bundle's self-test fails here: {worst} is off by {off[worst]:.3g} in its logit "
            f"(at most {SELFTEST_TOLERANCE:g}). Do not use its answers; compare the torch and timm versions "
            f"({bundle.description['made_with']}) with yours."
        )
    return off[worst]


def test_pattern(size: int) -> np.ndarray:
    """The film of the self-test, H x W uint8: waves and discs, so that a bundle carries no patient's picture."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = 90 + 60 * np.sin(9 * x + 4 * y) * np.cos(7 * y - 2 * x)
    disc = 80 * ((x - 0.62) ** 2 + (y - 0.6) ** 2 < 0.03)
    return np.clip(waves + disc, 0, 255).astype(np.uint8)
