"""A DATASET: made from a label file and images, opened and checked, joined with others, seen by a frozen encoder.

In: a `PrepareRequest`, or complete DATASET folders. Out: a DATASET folder, `manifest.json` last; an opened `Dataset`.
From elsewhere are imported `dataset` (`load_dataset`, `Dataset`, `hash_file`), `labelled` (`Material`, `usable_views`),
`folds`, `request` (`PrepareRequest`), `prepare`, `merge`, `embed` and `audit_plots`, the last five by the command line
alone. Read `request` (what can be asked for), `prepare` (all steps in order), `decoding` (films into shards),
`manifest`, `dataset`, `folds`, `labelled` (with its labels and their truth), `merge`, `embed` (features of a frozen
encoder), `audit_plots`.
"""

__all__ = ["audit_plots", "dataset", "embed", "folds", "labelled", "merge", "prepare", "request"]
