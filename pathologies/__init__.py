"""What is predicted and what its labels mean: findings, label sources, contracts, parts. Needs no torch and no Ray.

The rooms, in the order of their imports: `findings` <- `labels` <- `splits` <- `sources`; `phantom`, which makes label
files and films, imports none of them. Below all lie `errors` and `table_files`. What a room offers to others is the
`__all__` of its `__init__.py`.

The public names are looked up on first use, so that a process that wants one module does not load pandas for the
others.
"""

from importlib import import_module

_HOME = {
    "CHEXPERT_TARGETS": "findings.catalog",
    "Pathology": "findings.pathology",
    "find_pathology": "findings.catalog",
    "load_catalog": "findings.catalog",
    "source_names": "findings.catalog",
    "LabelContract": "labels.contract",
    "LabelPolicy": "findings.policy",
    "REFERENCE_POLICY": "labels.contract",
    "reference_contract": "labels.contract",
    "training_contract": "labels.contract",
    "Resolved": "labels.resolution",
    "resolve": "labels.resolution",
    "filter_frame": "labels.filters",
    "audit_labels": "labels.audit",
    "audit_rows": "labels.audit",
    "target_weights": "labels.sample_weights",
    "vector_weights": "labels.sample_weights",
    "PARTS": "splits.assignment",
    "assign_parts": "splits.assignment",
    "check_disjoint": "splits.assignment",
    "split_hash": "splits.assignment",
    "SOURCES": "sources.registry",
    "read_labels": "sources.registry",
    "write_phantom": "phantom.writer",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'pathologies' has no attribute '{name}'. Public names: {', '.join(__all__)}")
    return getattr(import_module(f"pathologies.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
