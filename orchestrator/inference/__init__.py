"""A BUNDLE: read, checked, tested, and asked about films.

In: a BUNDLE folder; image files, arrays, DICOM data sets, or films already prepared. Out: calibrated probabilities,
decisions by threshold or conformal zone, one answer per study or patient. From elsewhere every file is imported:
`bundle` (`load_bundle`, `Bundle`), `films`, `bundle_description`, `predict`, `decisions`, `identity`, `aggregation`,
`prediction_tables`. Read `predict` (one command from files to a table), `films` (what is handed in, decoded), `bundle`
(logits, blend, calibration, consistency), `bundle_description` (`bundle.json` and its seal), `decisions`, `identity`
(whose film it is), `aggregation`, `prediction_tables` (tables of others).
"""

__all__ = [
    "aggregation", "bundle", "bundle_description", "decisions", "films", "identity", "predict", "prediction_tables",
]  # fmt: skip
