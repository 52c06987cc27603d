"""A DATASET: made from a label file and images, opened and checked, joined with others.

In: a `PrepareRequest`, or complete DATASET folders. Out: a DATASET folder, `manifest.json` last; an opened `Dataset`.
From elsewhere are imported `dataset` (`load_dataset`, `Dataset`, `hash_file`, `usable_views`), `folds`, `prepare`
(`PrepareRequest`, `prepare`), `merge` and `audit_plots`, the last three by the command line alone. Read `prepare` (all
steps in order), `decoding` (films into shards), `manifest`, `dataset`, `folds`, `merge`, `audit_plots`.
"""
