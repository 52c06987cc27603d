"""Every path of a data set, a run and a bundle, and files that are whole or absent.

In: a root folder; bytes, text, JSON or tensors to write. Out: the paths in it, files published in one step, tensors
with the hash of their content. From elsewhere every file is imported: `layout` by nearly all rooms of `models` and
`orchestrator`, `retry` by trainings and their launcher, `checksummed` by trainings. Read `layout`, `retry`,
`checksummed`.
"""

__all__ = ["checksummed", "layout", "retry"]
