"""Figures, calibration and decisions of one finding, in numpy; SciPy in `calibration` and `rate_bounds` alone.

In: logits or probabilities, truth (1, 0, NaN unknown), patients. Out: plain floats, intervals, and what a bundle
stores: `Blend`, `Calibration`, `OperatingPoint`, conformal zones. From elsewhere every file but `rate_bounds` is
imported, by the classifier, the trainer's choice of an epoch, and the ensembling, evaluation, inference and tuning
rooms. Read `metrics`, `reliability`, `bootstrap` (intervals and folds by patient), `blending`, `calibration` (parents
raised to their children, too), `thresholds` with `rate_bounds`, `conformal` (the third answer), `sample_size`.
"""

__all__ = ["blending", "bootstrap", "calibration", "conformal", "metrics", "reliability", "sample_size", "thresholds"]
