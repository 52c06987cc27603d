"""A bundle as an object: load it, check it, run all its findings on films.

In: a BUNDLE folder; films: files, arrays or DICOM data sets. Out: logits and calibrated probabilities, one column per
finding. The whole chain lies here: members' logits -> blend -> calibration -> consistency. Used by predict, evaluate,
the ensembler's self-test, and by who has a Bundle in a notebook.
"""

import hashlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.classifier import Classifier, Films, load_classifier
from models.data.intensity import intensity_version
from models.files.layout import BundlePaths, read_json
from models.statistics import conformal
from models.statistics.calibration import raise_parents
from models.training.device import available_device
from orchestrator.inference.bundle_description import MEND, Seal, mapping, named, number, open_description, record, text
from orchestrator.inference.decisions import conformal_answers, parse_assignments, prediction_frame, thresholds_of
from orchestrator.inference.films import BATCH, Named, decoded_batches, named_films
from orchestrator.storage.staging import address
from pathologies.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
SELFTEST_TOLERANCE = 1e-2  # logits; another processor or torch version moves them by about 1e-5
PROBABILITY_TOLERANCE = 1e-4  # from stored logits they follow to about 1e-16, in bundles made in several steps 1e-5
OnProgress = Callable[[int, int], None]  # films done, of so many
_EXPECTED = record(
    {"input_sha256": text, "logits": named(number), "probabilities": named(number)}, {"decisions": mapping}
)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    paths: BundlePaths
    description: Mapping[str, Any]  # bundle.json
    classifiers: tuple[Classifier, ...]
    seal: Seal | None = None  # None: under way, not read from a folder

    @property
    def slugs(self) -> list[str]:
        return [classifier.slug for classifier in self.classifiers]

    @property
    def size(self) -> int:
        return self.description["input"]["size"]

    @property
    def intensity(self) -> int:
        """The version of the intensity contract by which films are decoded for these networks."""
        return intensity_version(self.description["input"]["intensity"])

    @property
    def parents(self) -> dict[str, list[str]]:
        return {one.slug: list(one.entry["parents"]) for one in self.classifiers}

    @property
    def identity(self) -> dict[str, Any]:
        """Which bundle it is, to be written beside what it says."""
        name = address(self.paths.root).rpartition("/")[2]
        known = self.seal or Seal(sha256="", sealed=False)
        return {"bundle": name, "bundle_sha256": known.sha256, "sealed": known.sealed}

    @property
    def identity_note(self) -> str:
        """`identity` in a sentence."""
        known = self.identity
        told = "" if known["sealed"] else "; it was made before bundles carried a seal, so nothing tells if it changed"
        return f"Bundle {known['bundle']}, SHA-256 {known['bundle_sha256']}{told}."

    @property
    def consistency(self) -> bool:
        """Whether a parent is raised to its likeliest child."""
        return bool(self.description.get("consistency", False))

    def member_logits(self, films: np.ndarray) -> dict[str, np.ndarray]:
        """N x H x W uint8 -> per finding N x columns, see `Classifier.columns`; each network sees a film once."""
        found = {one.slug: [np.zeros((0, one.width))] for one in self.classifiers}
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
        """N x H x W uint8 -> N x findings in [0, 1]. The films are prepared: H = W = `size`."""
        return self.calibrate(self.logits(films))

    def predict(
        self,
        films: Any,
        *,
        operating_point: str | None = None,
        threshold: Mapping[str, float] | None = None,
        conformal: bool = False,
        workers: int | None = None,
    ) -> "pd.DataFrame":
        """The table of `hilum predict`, of N films: `path`, a probability per finding, `<slug>_positive` per finding.

        films: files, folders, globs or a CSV with a path column; or arrays, as `predict_proba` takes them; or pydicom
        data sets: one, or a list of one kind. `path` is the path, an array's number, a data set's SOPInstanceUID.
        operating_point: a rule that the bundle stores, none: each finding's own. threshold: {finding: value in [0, 1]}
        in its place. conformal: also `<slug>_answer`, 1, 0, or -1 for uncertain. Films that cannot be used are left
        out, with a warning in the log; `.attrs["rejected"]` has {path: reason}.
        Errors: InputError for an unknown rule or finding, for a mixture of kinds, or where no film is named.
        """
        findings = self.description["findings"]
        words = [f"{name}={value}" for name, value in (threshold or {}).items()]
        thresholds = thresholds_of(findings, operating_point, parse_assignments(words, self.slugs, "threshold"))
        names, probability, rejected = self.answer(named_films(films), workers)
        table = prediction_frame(self.slugs, names, probability, thresholds)
        if conformal:
            table = table.join(conformal_answers(findings, self.slugs, probability))
        table.attrs["rejected"] = dict(zip(rejected["path"], rejected["reason"], strict=True))
        if len(rejected):
            log.warning("%d films could not be used: see .attrs['rejected']", len(rejected))
        return table

    def predict_proba(self, films: Any, *, workers: int | None = None) -> np.ndarray:
        """N films -> N x findings float64 in [0, 1], calibrated; the columns are `slugs`.

        films: N x height x width, or a list of arrays of any height x width each, bright where the film is bright (bone
        bright, air dark: MONOCHROME2). They are letterboxed to `size` as files are. uint8: grey values as shown, 0 to
        255. Other integers: without a grey scale of their own, as a 16-bit PNG, by the bundle's intensity contract.
        Floats: shares of white from 0 to 1. What `predict` takes is taken too.
        Errors: InputError where a film cannot be used, with its number and the reason: another shape, another dtype,
        floats beyond 0 to 1, a blank film.
        """
        _, probability, rejected = self.answer(named_films(films), workers)
        if len(rejected):
            name, reason = rejected.iloc[0]
            raise InputError(f"Film {name}: {reason}. ({len(rejected)} of {len(rejected) + len(probability)} films.)")
        return probability

    def answer(
        self, named: Sequence[Named], workers: int | None = None, on_progress: OnProgress | None = None
    ) -> "tuple[list[str], np.ndarray, pd.DataFrame]":
        """(names of the films that can be used, their probabilities, the others: path, reason).

        workers: decoding threads; none: one per CPU.
        """
        import pandas as pd

        kept, rejected, blocks = [], [], [np.zeros((0, len(self.slugs)))]
        for batch in decoded_batches(named, self.size, self.intensity, workers or os.cpu_count() or 1):
            usable = [(name, film) for name, film in batch if not isinstance(film, str)]
            rejected += [one for one in batch if isinstance(one[1], str)]
            if usable:
                kept += [name for name, _ in usable]
                blocks.append(self.probabilities(np.stack([film for _, film in usable])))
            if on_progress:
                on_progress(len(kept) + len(rejected), len(named))
        return kept, np.concatenate(blocks), pd.DataFrame(rejected, columns=["path", "reason"])


def load_bundle(folder: Path, device: str = "auto", check: bool = True) -> Bundle:
    """Read and self-test a bundle. Errors: FileNotFoundError / InputError that say what is wrong with the folder."""
    description, seal = open_description(folder)
    bundle = replace(assemble(description, BundlePaths(folder), device), seal=seal)
    if check:
        self_test(bundle)
    return bundle


def assemble(description: Mapping[str, Any], paths: BundlePaths, device: str = "auto") -> Bundle:
    """The networks that a description names, without a check of their answers."""
    intensity_version(description["input"]["intensity"])
    device = available_device(device)
    entries = sorted(description["findings"].items(), key=lambda item: item[1]["position"])
    networks: dict = {}  # read once, also where several findings share one
    classifiers = tuple(
        load_classifier(slug, entry, description["input"], paths.root, device, networks) for slug, entry in entries
    )
    return Bundle(paths=paths, description=description, classifiers=classifiers)


def self_test(bundle: Bundle) -> float:
    """Run the stored input; returns the largest deviation in logits. Errors: InputError when the answers differ."""
    from models.data.images import decode

    stored = bundle.paths.selftest / "input.png"
    if not stored.is_file():
        raise FileNotFoundError(f"The bundle lacks {stored}. Copy the whole folder, selftest included.")
    film = decode(stored)
    path = bundle.paths.selftest / "expected.json"
    expected = read_json(path)
    _EXPECTED(expected, str(path))
    if hashlib.sha256(film.tobytes()).hexdigest() != expected["input_sha256"]:
        raise InputError(f"{stored} does not decode to what was stored: a broken copy?")
    if film.shape != (bundle.size, bundle.size):
        raise InputError(f"The bundle takes films of {bundle.size} pixels, its test film has {film.shape[1]}. {MEND}")
    lost = sorted(set(expected["logits"]) - set(bundle.slugs))
    if lost:
        raise InputError(f"The bundle's self-test knows {', '.join(lost)}, the bundle does not. {MEND}")
    worst, off = _farthest(bundle.slugs, bundle.logits(film[None])[0], expected["logits"])
    if off > SELFTEST_TOLERANCE:
        raise InputError(
            f"The bundle's self-test fails here: {worst} is off by {off:.3g} in its logit "
            f"(at most {SELFTEST_TOLERANCE:g}). Do not use its answers; compare the torch and timm versions "
            f"({bundle.description['made_with']}) with yours."
        )
    _test_answers(bundle, expected)
    return off


def _test_answers(bundle: Bundle, expected: Mapping[str, Any]) -> None:
    """What follows from the stored logits follows from them on every machine: probabilities, calls, zones."""
    given = answers(bundle, expected["logits"])
    worst, off = _farthest(bundle.slugs, list(given["probabilities"].values()), expected["probabilities"])
    if off > PROBABILITY_TOLERANCE:
        raise InputError(
            f"The bundle's self-test fails: the probability of {worst} is off by {off:.3g} (at most "
            f"{PROBABILITY_TOLERANCE:g}), so its calibration or its parents are not those that it was made with. {MEND}"
        )
    stored = expected.get("decisions", given["decisions"])  # bundles of before have none
    other = [slug for slug in bundle.slugs if stored.get(slug) != given["decisions"][slug]]
    if other:
        raise InputError(
            f"The bundle's self-test fails: the decisions on {', '.join(other)} are others, so its thresholds or zones "
            f"are not those that it was made with. {MEND}"
        )


def answers(bundle: Bundle, logits: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """What a film with these logits is told, by finding: probabilities; decisions by every rule and of the zone."""
    row = np.array([[logits[slug] for slug in bundle.slugs]], dtype=np.float64)
    probabilities = dict(zip(bundle.slugs, bundle.calibrate(row)[0].tolist(), strict=True))
    decisions = {}
    for one in bundle.classifiers:
        found, zone = probabilities[one.slug], one.entry.get("conformal")
        calls = {
            rule: int(found >= point["threshold"]) if point["useful"] else None
            for rule, point in one.entry["operating_points"].items()
        }
        answer = int(conformal.answer(found, zone)) if zone else None
        decisions[one.slug] = {"default": one.entry["operating_point"], "positive": calls, "answer": answer}
    return {"probabilities": probabilities, "decisions": decisions}


def _farthest(slugs: Sequence[str], found: Sequence[float], stored: Mapping[str, float]) -> tuple[str, float]:
    """The finding whose value is farthest from what is stored; infinitely far where nothing is."""
    off = {slug: abs(float(one) - stored.get(slug, math.nan)) for slug, one in zip(slugs, found, strict=True)}
    off = {slug: math.inf if math.isnan(far) else far for slug, far in off.items()}  # no maximum would find a NaN
    worst = max(off, key=lambda slug: off[slug])
    return worst, off[worst]


def test_pattern(size: int) -> np.ndarray:
    """The film of the self-test, H x W uint8: waves and discs, so that a bundle carries no patient's picture."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = 90 + 60 * np.sin(9 * x + 4 * y) * np.cos(7 * y - 2 * x)
    disc = 80 * ((x - 0.62) ** 2 + (y - 0.6) ** 2 < 0.03)
    return np.clip(waves + disc, 0, 255).astype(np.uint8)
