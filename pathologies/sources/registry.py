"""The table of label sources: which label files can be read, and by whom.

Goes in: the name of a source, its label file, the folder of its images and the source's options. Comes out: a
`SourceFrame`, the raw label frame with what was left out and what was noticed. Called by `prepare`, by the audit, and
by anyone who wants labels without images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathologies.errors import InputError, did_you_mean
from pathologies.findings.catalog import load_catalog
from pathologies.sources.chexpert import read_chexpert
from pathologies.sources.common import ReadRequest, SourceFrame
from pathologies.sources.mimic import read_mimic
from pathologies.sources.nih import read_nih
from pathologies.sources.padchest import read_padchest
from pathologies.sources.table import read_mapped_table
from pathologies.sources.vindr import read_vindr


@dataclass(frozen=True, kw_only=True)
class Source:
    title: str  # the data set's name
    label_file: str  # the file that `labels` points to
    read: Callable[[ReadRequest], SourceFrame]
    options: Mapping[str, str]  # option -> what it is for
    says_unknown: bool = False  # some of its labels are unknown, and were read as blank until unknown had a code


SOURCES: dict[str, Source] = {
    "chexpert": Source(
        title="CheXpert v1.0 and v1.0-small",
        label_file="train.csv, valid.csv, or the test labels",
        read=read_chexpert,
        options={},
    ),
    "nih": Source(
        title="NIH ChestX-ray14",
        label_file="Data_Entry_2017.csv or Data_Entry_2017_v2020.csv",
        read=read_nih,
        options={"official_lists": "the folder of train_val_list.txt and test_list.txt"},
    ),
    "mimic": Source(
        title="MIMIC-CXR-JPG 2.0.0 and 2.1.0",
        label_file="mimic-cxr-2.0.0-chexpert.csv.gz, with -metadata and -split beside it",
        read=read_mimic,
        options={
            "metadata": "the path of mimic-cxr-2.0.0-metadata.csv.gz, if it lies elsewhere",
            "split": "the path of mimic-cxr-2.0.0-split.csv.gz, if it lies elsewhere",
        },
    ),
    "vindr": Source(
        title="VinDr-CXR 1.0.0",
        label_file="image_labels_train.csv, image_labels_test.csv, annotations_*.csv or Kaggle's train.csv",
        read=read_vindr,
        options={
            "agreement": "how many of the three readers make a finding present (1, 2 or 3; default 2)",
            "minority": "what fewer readers make it: uncertain (default) or negative",
        },
    ),
    "padchest": Source(
        title="PadChest",
        label_file="PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
        read=read_padchest,
        options={
            "labelled_by": "any (default), physician, or model (the network that labelled most of the reports)",
            "allow_absent": "true: a finding that no report of the file has becomes 0 instead of an error",
        },
        says_unknown=True,
    ),
    "table": Source(
        title="a table described by a mapping",
        label_file="any CSV file",
        read=read_mapped_table,
        options={"mapping": "the TOML file that says which column means what (needed)"},
    ),
}


def find_source(name: str) -> Source:
    """The row of SOURCES; an unknown name is an error that offers the nearest."""
    if name in SOURCES:
        return SOURCES[name]
    raise InputError(f"Unknown source '{name}'.{did_you_mean(name, SOURCES)}")


def read_labels(
    source_name: str,
    labels: Path,
    images: Path | None = None,
    *,
    catalog: Mapping[str, object] | None = None,
    **options: object,
) -> SourceFrame:
    """The raw label frame of a label file. `catalog`: slug -> Pathology, by default the one that is shipped."""
    source = find_source(source_name)
    unknown = sorted(set(options) - set(source.options))
    if unknown:
        known = ", ".join(source.options) or "none"
        raise InputError(f"The source '{source_name}' has no option {unknown}. Its options: {known}.")
    options = {name: value for name, value in options.items() if value is not None}
    request = ReadRequest(
        labels=Path(labels),
        images=None if images is None else Path(images),
        names=_names_in(source_name, catalog),
        options=options,
    )
    return source.read(request)


def _names_in(source_name: str, catalog: Mapping[str, object] | None) -> dict[str, tuple[str, ...]]:
    """slug -> how the source writes it; for a mapped table every slug, since its mapping names the columns."""
    if catalog is None:
        catalog = load_catalog()
    if source_name == "table":
        return {slug: () for slug in catalog}
    return {slug: tuple(p.names[source_name]) for slug, p in catalog.items() if source_name in p.names}
