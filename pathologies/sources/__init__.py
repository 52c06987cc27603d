"""Label files of public data sets, and of one's own, read into one label frame; several frames made one.

In: the name of a source, its label file, the folder of its images, its options. Out: a `SourceFrame`: a row per film
with `labels.frame.META_COLUMNS` and a column of raw labels per finding, the rows left out with the reason, notes. From
elsewhere `registry` (`read_labels`, `find_source`), `common.SourceFrame` and `merge` are imported; the readers are not.
Read `common` (the frame), then `nih` as the plainest reader, `registry` (the table of sources), then the other readers
(`chexpert`, `mimic`, `vindr`, `padchest`, and `table` for one's own), then `merge`.
"""

__all__ = ["common", "merge", "registry"]
