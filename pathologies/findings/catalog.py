"""The catalogue of findings: every TOML file of findings in one dictionary.

Goes in: the `<slug>.toml` files beside this module and, if a user names one, those of a folder of their own. Comes out:
`Pathology` objects by slug, in report order. Called by the source readers (names), by the label contracts (parents and
policies), by the command line (`find_pathology`) and by the page of findings.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from pathologies.errors import InputError, did_you_mean
from pathologies.findings.pathology import Pathology, read_pathology

CHEXPERT_TARGETS = (
    "enlarged_cardiomediastinum",
    "cardiomegaly",
    "lung_opacity",
    "lung_lesion",
    "edema",
    "consolidation",
    "pneumonia",
    "atelectasis",
    "pneumothorax",
    "pleural_effusion",
    "pleural_other",
    "fracture",
)


def load_catalog(extra_folder: Path | None = None) -> dict[str, Pathology]:
    """All findings by slug in report order, with those of `extra_folder` added; a malformed file is an InputError."""
    builtin = _builtin_catalog()
    if extra_folder is None:
        return dict(builtin)
    folder = Path(extra_folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"Folder of findings '{folder}' does not exist. It should hold one <slug>.toml each.")
    files = sorted(folder.glob("*.toml"))
    if not files:
        raise InputError(f"Folder of findings '{folder}' holds no .toml file. It should hold one <slug>.toml each.")
    added = {}
    for file in files:
        if file.stem in builtin:
            raise InputError(
                f"{file}: '{file.stem}' is a built-in finding and is not replaced by a file. Choose another file name; "
                "to train it under another policy, give the policy to the run."
            )
        added[file.stem] = read_pathology(file)
    return _checked({**builtin, **added}, {slug: folder / f"{slug}.toml" for slug in added})


def find_pathology(name: str, catalog: Mapping[str, Pathology] | None = None) -> Pathology:
    """A finding by its slug, its name or its name in any source, in any case."""
    catalog = load_catalog() if catalog is None else catalog
    wanted = name.strip().casefold()
    for pathology in catalog.values():
        if wanted in (pathology.slug, pathology.name.casefold()):
            return pathology
    meant = [
        pathology
        for pathology in catalog.values()
        if any(wanted == alias.casefold() for aliases in pathology.names.values() for alias in aliases)
    ]
    if len(meant) > 1:
        raise InputError(f"'{name}' means more than one finding: {', '.join(p.slug for p in meant)}. Name one of them.")
    if not meant:
        raise InputError(f"Unknown target '{name}'.{did_you_mean(name.strip(), catalog)}")
    return meant[0]


def source_names(source: str, catalog: Mapping[str, Pathology] | None = None) -> dict[str, tuple[str, ...]]:
    """What a source's names mean: its name, casefolded, -> slugs (more than one for a shared name)."""
    catalog = load_catalog() if catalog is None else catalog
    meaning: dict[str, tuple[str, ...]] = {}
    for pathology in catalog.values():
        for alias in pathology.names.get(source, ()):
            meaning[alias.casefold()] = (*meaning.get(alias.casefold(), ()), pathology.slug)
    return meaning


def parents_of(catalog: Mapping[str, Pathology]) -> dict[str, tuple[str, ...]]:
    """slug -> the findings that are present whenever it is."""
    return {slug: pathology.parents for slug, pathology in catalog.items()}


def descendants(slug: str, parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Every finding that implies `slug`, directly or through others, in the order of `parents`.

    Errors: InputError for a finding that implies itself.
    """
    found: set[str] = set()
    frontier = {slug}
    while frontier:
        frontier = {child for child, above in parents.items() if frontier & set(above)} - found
        found |= frontier
    below = [child for child in parents if child in found]
    if slug in found:
        raise InputError(f"The parents go in a circle: {slug} lies below itself by way of {', '.join(below)}.")
    return below


@lru_cache(maxsize=1)
def _builtin_catalog() -> dict[str, Pathology]:
    files = sorted(Path(__file__).parent.glob("*.toml"))
    return _checked({file.stem: read_pathology(file) for file in files}, {file.stem: file for file in files})


def _checked(catalog: dict[str, Pathology], files: dict[str, Path]) -> dict[str, Pathology]:
    """The findings in report order, after the checks that need all of them: parents, cycles, names."""
    for slug, file in files.items():
        pathology = catalog[slug]
        for parent in pathology.parents:
            if parent not in catalog:
                raise InputError(f"{file}: key 'parents' names '{parent}'.{did_you_mean(parent, catalog)}")
        try:
            descendants(slug, parents_of(catalog))
        except InputError:
            raise InputError(
                f"{file}: key 'parents' is {list(pathology.parents)}, which makes '{slug}' its own parent."
            ) from None
        if pathology.parents and not pathology.parents_reason:
            raise InputError(f"{file}: key 'parents_reason' is missing. Required where 'parents' is not empty.")
        _check_names(file, pathology, catalog)
    return dict(sorted(catalog.items(), key=lambda item: (item[1].order, item[0])))


def _check_names(file: Path, pathology: Pathology, catalog: Mapping[str, Pathology]) -> None:
    """A name means one finding of a source, unless every finding that has it declares it shared."""
    for source, names in pathology.names.items():
        if len({name.casefold() for name in names}) < len(names):
            raise InputError(f"{file}: key 'names.{source}' is {list(names)}. Allowed: each name once, in any case.")
        meaning = source_names(source, catalog)
        for name in names:
            claimants = meaning[name.casefold()]
            if len(claimants) > 1 and not all(name in catalog[slug].shared_names for slug in claimants):
                others = ", ".join(slug for slug in claimants if slug != pathology.slug)
                raise InputError(
                    f"{file}: key 'names.{source}' has {name!r}, which {others} has too. Allowed: one finding to a "
                    "name, or the name in 'shared_names' of each where it does mean both."
                )
