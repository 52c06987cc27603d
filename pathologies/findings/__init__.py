"""The findings: one TOML file each, read, checked and put into one catalogue.

In: the `<slug>.toml` files of this folder and, where a command names one, of a folder of the user's own. Out:
`Pathology` objects by slug: names in each source, parents, label policy with its reason, training settings. From
elsewhere only `catalog` is imported (`load_catalog`, `find_pathology`, `descendants`, `CHEXPERT_TARGETS`, `Pathology`).
Read `pathology` (what a file may hold), then `catalog` (checks over all of them), then `page`, which makes
`docs/findings.md` and is run by hand.
"""
