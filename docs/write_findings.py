"""The page of findings for radiologists: what a 1 means here and why, with synthetic films that show the sign.

In: the catalogue. Out: the text of `docs/findings.md` and the pictures beside it. Run by hand, as
`python docs/write_findings.py`, after a TOML file has changed; a test compares the page with the catalogue.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from pathologies.findings.catalog import CHEXPERT_TARGETS, descendants, load_catalog, parents_of
from pathologies.findings.pathology import Pathology
from pathologies.phantom.writer import render_example

PICTURE_SIZE = 320
SOURCE_TITLES = {
    "chexpert": "CheXpert",
    "mimic": "MIMIC-CXR-JPG",
    "nih": "NIH ChestX-ray14",
    "vindr": "VinDr-CXR",
    "padchest": "PadChest",
    "table": "own table",
}
HEAD = """\
# The findings

What a 1 in a label file means to hilum, finding by finding: the definition, what is looked for on the film, what the
finding implies, and how an uncertain or missing label is read. This page is made from the files
`pathologies/findings/*.toml`; change those, then run `python docs/write_findings.py`.

Four things hold for every finding.

- A label in a source is 1 (present), 0 (absent), -1 (uncertain: the report hedges), blank (not mentioned) or -2
  (unknown: the source cannot say, as PadChest of what an "unchanged" report does not list). It is kept as it is.
  Unknown is left out everywhere; of the others, a contract says what becomes of them, always in this order: explicit 1
  and 0 stand; a report of "No Finding" turns a blank into 0; a finding that implies this one turns a blank or uncertain
  label into 1 (an explicit 0 stands and is counted as a contradiction); then the policy for uncertain labels; then the
  policy for blanks.
- The policies below shape training alone. Whatever is chosen, trained models are scored under one reference contract:
  explicit labels as they are, blank and "No Finding" as 0, uncertain left out.
- Policies for uncertain labels: **ones** (present), **zeros** (absent), **ignore** (left out), **soft(a,b)** (a number
  between a and b, drawn once for each image from the run's seed).
- Labels made from reports say what the report mentions, which is less than what the film shows. A 1 is good evidence; a
  blank is weak evidence of absence.

The films are synthetic (`hilum phantom`): one drawn person, left without any finding, right with this one. They show
where to look and are no teaching material for the disease.
"""


def findings_text(catalog: Mapping[str, Pathology]) -> str:
    """The page as Markdown, findings in report order."""
    contents = "\n".join(f"- [{p.name}](#{p.name.lower().replace(' ', '-')})" for p in catalog.values())
    return "\n".join([HEAD, contents, "", *(_section(pathology, catalog) for pathology in catalog.values())])


def write_findings_page(folder: Path, catalog: Mapping[str, Pathology] | None = None) -> list[Path]:
    """Write findings.md and findings/<slug>.jpg into `folder`; return the paths."""
    catalog = load_catalog() if catalog is None else catalog
    page = Path(folder) / "findings.md"
    (page.parent / "findings").mkdir(parents=True, exist_ok=True)
    page.write_text(findings_text(catalog), encoding="utf-8")
    written = [page]
    for slug in CHEXPERT_TARGETS:
        path = page.parent / picture_name(slug)
        Image.fromarray(_film_pair(slug)).save(path, quality=85, optimize=True)
        written.append(path)
    return written


def picture_name(slug: str) -> str:
    return f"findings/{slug}.jpg"


def _section(pathology: Pathology, catalog: Mapping[str, Pathology]) -> str:
    parts = [f"## {pathology.name}", "", f"`{pathology.slug}`", ""]
    if pathology.slug in CHEXPERT_TARGETS:
        alternative = f"Synthetic film without and with {pathology.name.lower()}"
        parts += [f"![{alternative}]({picture_name(pathology.slug)})", ""]
    parts += [f"**What a 1 means.** {pathology.definition}", "", f"**Looked for on the film.** {pathology.sign}", ""]
    if pathology.parents:
        names = " and ".join(catalog[parent].name for parent in pathology.parents)
        parts += [f"**Implies** {names}. {pathology.parents_reason}", ""]
    implied_by = [catalog[slug].name for slug in descendants(pathology.slug, parents_of(catalog))]
    if implied_by:
        parts += [f"**Implied by** {', '.join(implied_by)}.", ""]
    policy = pathology.policy
    blank = {"zero": "blank as 0", "ignore": "blank left out"}[policy.blank]
    parts += [f"**In training:** uncertain as {policy.uncertain}, {blank}. {pathology.reason}", ""]
    if pathology.training:
        settings = ", ".join(f"{key} = {value}" for key, value in pathology.training.items())
        parts += [f"**Trained differently:** {settings}.", ""]
    parts += [f"**Called** {_names(pathology)}.", "", f"*{pathology.citation}*", ""]
    return "\n".join(parts)


def _names(pathology: Pathology) -> str:
    """Its names by source; sources that use the same names are told together."""
    by_names: dict[tuple[str, ...], list[str]] = {}
    for source, names in pathology.names.items():
        by_names.setdefault(names, []).append(SOURCE_TITLES[source])
    if not by_names:
        return "in no public source"
    return "; ".join(
        f"{', '.join(f'`{name}`' for name in names)} in {_listed(sources)}" for names, sources in by_names.items()
    )


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _film_pair(slug: str) -> np.ndarray:
    """The film without and the film with the finding, side by side with a white line between."""
    without, with_finding = render_example(slug, seed=0, size=PICTURE_SIZE)
    line = np.full((without.shape[0], 4), 255, np.uint8)
    return np.hstack([without, line, with_finding])


if __name__ == "__main__":
    write_findings_page(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
