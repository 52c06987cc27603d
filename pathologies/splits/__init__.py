"""Which film lies in which part: train, select, calibrate, test, without a patient in two of them.

In: a label frame and the findings to balance; for duplicates also the cached pixels. Out: a part name per row, pairs of
the same film in different parts, a split to give away under salted names. From elsewhere `assignment` (`assign_parts`,
`official_parts`, `check_disjoint`, `split_hash`, `PARTS`), `duplicates` and `shared_split` are imported. Read
`assignment`, then `stratification` (the arithmetic below it), `duplicates`, `shared_split`.
"""

__all__ = ["assignment", "duplicates", "shared_split"]
