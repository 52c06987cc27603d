"""What is predicted and what its labels mean: findings, label sources, contracts, parts. Needs no torch and no Ray.

The public names are looked up on first use, so that a process that wants one module does not load pandas for the
others.
"""

from importlib import import_module

_HOME = {
    "CHEXPERT_TARGETS": "catalog",
    "Pathology": "catalog",
    "find_pathology": "catalog",
    "load_catalog": "catalog",
    "source_names": "catalog",
    "LabelContract": "policy",
    "LabelPolicy": "policy",
    "REFERENCE_POLICY": "policy",
    "reference_contract": "policy",
    "training_contract": "policy",
    "Resolved": "labels",
    "resolve": "labels",
    "filter_frame": "filters",
    "audit_labels": "audit",
    "audit_rows": "audit",
    "check_power": "power",
    "target_weights": "sampling",
    "vector_weights": "sampling",
    "PARTS": "splits",
    "assign_parts": "splits",
    "check_disjoint": "splits",
    "split_hash": "splits",
    "SOURCES": "sources",
    "read_labels": "sources",
    "write_phantom": "phantom",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'pathologies' has no attribute '{name}'. Public names: {', '.join(__all__)}")
    return getattr(import_module(f"pathologies.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
