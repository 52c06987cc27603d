"""What a report labeller makes of a phantom study: 1, 0, -1 (uncertain) or blank (NaN), at CheXpert's own rates.

In: a Study (the truth), a random generator. Out: a value per CheXpert column. Called by writer.py. "clean" labels are
the truth itself in every cell.
"""

import numpy as np

from pathologies.phantom.patients import CHILDREN, FINDINGS, PREVALENCES, Study

# Images labelled 1, 0, -1 in CheXpert's train.csv as distributed (223 414 images).
CHEXPERT_IMAGES = 223_414
CHEXPERT_COUNTS = {
    "enlarged_cardiomediastinum": (10_798, 21_638, 12_403),
    "cardiomegaly": (27_000, 11_116, 8_087),
    "lung_opacity": (105_581, 6_599, 5_598),
    "lung_lesion": (9_186, 1_270, 1_488),
    "edema": (52_246, 20_726, 12_984),
    "consolidation": (14_783, 28_097, 27_742),
    "pneumonia": (6_039, 2_799, 18_770),
    "atelectasis": (33_376, 1_328, 33_739),
    "pneumothorax": (19_448, 56_341, 3_145),
    "pleural_effusion": (86_187, 35_396, 11_628),
    "pleural_other": (3_523, 316, 2_653),
    "fracture": (9_040, 2_512, 642),
}
PRESENT_IF_UNCERTAIN = 0.3  # share of the uncertain mentions that are true
FALSE_POSITIVE = 0.02  # share of the positive labels that are the labeller's mistake
MISSED_AS_ZERO = 0.01  # share of the true findings that a report denies
NO_FINDING_NAMED = 0.6  # share of the studies without any mention that are marked No Finding
# Closed truth of the two parents under "chexpert" prevalence, and how often a report still names the parent when it
# has named a child: "cardiomegaly" is written without "enlarged cardiomediastinum"
# (stanfordmlgroup/chexpert-labeler#49).
PARENT_TRUTH = {"enlarged_cardiomediastinum": 0.192, "lung_opacity": PREVALENCES["chexpert"]["opaque"]}
PARENT_NAMED = {  # (a child is labelled 1, none is)
    "enlarged_cardiomediastinum": (0.14, 0.42),
    "lung_opacity": (0.72, 0.88),
}


def clean_labels(study: Study) -> dict[str, float]:
    """1 or 0 in every cell: the truth."""
    labels = {finding: float(study.truth[finding]) for finding in FINDINGS}
    nothing = float(not any(study.truth.values()))
    return {"no_finding": nothing, **labels, "support_devices": float(study.devices)}


def report_labels(study: Study, rng: np.random.Generator) -> dict[str, float]:
    """1, 0, -1 or NaN per column: children first, because a report that names a child often omits the parent."""
    draws = dict(zip(FINDINGS, rng.random(len(FINDINGS)), strict=True))
    order = [finding for finding in FINDINGS if finding not in CHILDREN] + list(CHILDREN)
    labels: dict[str, float] = {}
    for finding in order:
        named = any(labels[child] == 1 for child in CHILDREN.get(finding, ()))
        labels[finding] = _label(finding, study.truth[finding], named, draws[finding])
    others = rng.random(2)
    silent = not any(value in (1, -1) for value in labels.values())
    no_finding = 1.0 if silent and others[0] < NO_FINDING_NAMED else np.nan
    devices = 1.0 if study.devices and others[1] < 0.95 else (0.0 if others[1] > 0.94 else np.nan)
    labels = {finding: labels[finding] for finding in FINDINGS}
    return {"no_finding": no_finding, **labels, "support_devices": devices}


def _label(finding: str, present: int, child_named: bool, draw: float) -> float:
    """One cell: the rates given the truth follow from CheXpert's own by Bayes' rule."""
    one, zero, uncertain = (count / CHEXPERT_IMAGES for count in CHEXPERT_COUNTS[finding])
    truth = PARENT_TRUTH.get(finding, one + PRESENT_IF_UNCERTAIN * uncertain)
    if present:
        positive = (1 - FALSE_POSITIVE) * one / truth
        if finding in PARENT_NAMED:
            positive = PARENT_NAMED[finding][0 if child_named else 1]
        shares = positive, MISSED_AS_ZERO, PRESENT_IF_UNCERTAIN * uncertain / truth
    else:
        denied = (zero - MISSED_AS_ZERO * truth) / (1 - truth)
        shares = FALSE_POSITIVE * one / (1 - truth), denied, (1 - PRESENT_IF_UNCERTAIN) * uncertain / (1 - truth)
    for value, limit in zip((1.0, 0.0, -1.0), np.cumsum(shares), strict=True):
        if draw < limit:
            return value
    return float("nan")
