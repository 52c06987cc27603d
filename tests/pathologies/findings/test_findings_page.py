"""The page of findings: made from the catalogue, and the one in docs/ is up to date."""

import pytest
from PIL import Image

from docs.write_findings import findings_text, picture_name, write_findings_page
from pathologies.findings.catalog import CHEXPERT_TARGETS, load_catalog
from tests.conftest import PROJECT

DOCS = PROJECT / "docs"
CATALOG = load_catalog()


def test_every_finding_says_what_a_one_means_and_why():
    text = findings_text(CATALOG)
    for pathology in CATALOG.values():
        section = text.split(f"\n## {pathology.name}\n")[1].split("\n## ")[0]
        for said in (pathology.definition, pathology.sign, pathology.reason, pathology.citation):
            assert said in section
        assert f"uncertain as {pathology.policy.uncertain}, blank as 0" in section
    assert "**Implies** Lung Opacity." in text
    assert "`Pleural Effusion`, `Effusion` in CheXpert and MIMIC-CXR-JPG" in text


def test_page_in_docs_is_up_to_date():
    assert (DOCS / "findings.md").read_text(encoding="utf-8") == findings_text(CATALOG), (
        "docs/findings.md differs from pathologies/findings/*.toml. Run: python docs/write_findings.py"
    )
    for slug in CHEXPERT_TARGETS:
        assert (DOCS / picture_name(slug)).is_file()


@pytest.mark.slow
def test_written_page_and_pictures(tmp_path):
    written = write_findings_page(tmp_path)
    assert len(written) == 1 + len(CHEXPERT_TARGETS)
    for path in written[1:]:
        with Image.open(path) as image:
            width, height = image.size
            assert image.mode == "L"
            assert width > 1.5 * height
