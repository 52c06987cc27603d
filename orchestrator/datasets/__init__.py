"""A DATASET: made from a label file and images, opened and checked, joined with others, seen by a frozen encoder.

In: a `PrepareRequest`, or complete DATASET folders. Out: a DATASET folder, `manifest.json` last; an opened `Dataset`.
From elsewhere are imported `dataset` (`load_dataset`, `Dataset`, `hash_file`, `usable_views`), `folds`, `prepare`
(`PrepareRequest`, `prepare`), `merge`, `embed` and `audit_plots`, the last four by the command line alone. Read
`prepare` (all steps in order), `decoding` (films into shards), `manifest`, `dataset`, `folds`, `merge`, `embed`
(features of a frozen encoder), `audit_plots`.
"""
