"""What the labels mean: raw labels in, target values and weights under a written contract out.

In: a label frame as `pathologies.sources` makes it, the catalogue of findings, a contract. Out: values and weights per
finding, filtered frames with counts, weights for samplers, an audit. From elsewhere every file is imported: `frame`
(columns and codes), `contract` (the policies together), `resolution` (`resolve`), `filters`, `sample_weights`, `audit`.
Read them in this order. A change in `resolution` changes what a training learns and what every figure is scored on.
"""

__all__ = ["audit", "contract", "filters", "frame", "resolution", "sample_weights"]
