"""The findings: one TOML file each, read, checked and put into one catalogue.

In: the `<slug>.toml` files of this folder and, where a command names one, of a folder of the user's own. Out:
`Pathology` objects by slug: names in each source, parents, label policy with its reason, training settings. From
elsewhere all files are imported: `policy` (`LabelPolicy`), `pathology` (what a file may hold), `catalog`
(`load_catalog`, `find_pathology`, `descendants`, `CHEXPERT_TARGETS`). Read them in this order.
"""

__all__ = ["catalog", "pathology", "policy"]
