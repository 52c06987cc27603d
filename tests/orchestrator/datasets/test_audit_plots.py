"""Audit pictures: both files are there, are pictures, and cope with empty findings."""

import resource

import pytest
from PIL import Image

from orchestrator.datasets.audit_plots import write_audit_pictures
from pathologies.findings.catalog import load_catalog
from pathologies.labels.audit import audit_labels
from tests.chexpert_like import as_label_frame, chexpert_like


def test_pictures_are_written(tmp_path):
    frame = as_label_frame(chexpert_like(0.002))
    frame["fracture"] = frame["fracture"] * 0  # a finding without a positive divides nothing by zero
    written = write_audit_pictures(audit_labels(frame, load_catalog()), tmp_path / "pictures")
    assert [path.name for path in written] == ["labels.png", "cooccurrence.png"]
    for path in written:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_nothing_to_draw_is_an_error(tmp_path):
    frame = as_label_frame(chexpert_like(0.002)).iloc[:, :11]
    with pytest.raises(ValueError, match="nothing to draw"):
        write_audit_pictures(audit_labels(frame, load_catalog()), tmp_path)


def test_a_picture_that_cannot_be_written_leaves_the_one_of_before(tmp_path):
    """The limit on a file's size is met in the middle of the first picture."""
    report = audit_labels(as_label_frame(chexpert_like(0.002)), load_catalog())
    before = {tmp_path / name: b"of before" for name in ("labels.png", "cooccurrence.png")}
    for path, content in before.items():
        path.write_bytes(content)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_audit_pictures(report, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
