"""What is predicted and what its labels mean: findings, label sources, contracts, parts. Needs no torch and no Ray.

The public names are looked up on first use, so that a process that wants one module does not load pandas for the
others.
"""

from importlib import import_module

_HOME = {
    "CHEXPERT_TARGETS": "findings.catalog",
    "Pathology": "findings.catalog",
    "find_pathology": "findings.catalog",
    "load_catalog": "findings.catalog",
    "source_names": "findings.catalog",
    "LabelContract": "labels.policy",
    "LabelPolicy": "labels.policy",
    "REFERENCE_POLICY": "labels.policy",
    "reference_contract": "labels.policy",
    "training_contract": "labels.policy",
    "Resolved": "labels.labels",
    "resolve": "labels.labels",
    "filter_frame": "labels.filters",
    "audit_labels": "labels.audit",
    "audit_rows": "labels.audit",
    "target_weights": "labels.sampling",
    "vector_weights": "labels.sampling",
    "PARTS": "splits.splits",
    "assign_parts": "splits.splits",
    "check_disjoint": "splits.splits",
    "split_hash": "splits.splits",
    "SOURCES": "sources.sources",
    "read_labels": "sources.sources",
    "write_phantom": "phantom.phantom",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'pathologies' has no attribute '{name}'. Public names: {', '.join(__all__)}")
    return getattr(import_module(f"pathologies.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
