"""The catalogue: what is in it, how names are found, and that every malformed file is named with key and value."""

import subprocess
import sys

import pytest

from pathologies.findings.catalog import (
    CHEXPERT_TARGETS,
    descendants,
    find_pathology,
    load_catalog,
    parents_of,
    source_names,
)

GOOD = """
name = "Support Devices"
definition = "A tube, line or pacemaker."
sign = "Dense lines with sharp edges."
citation = "Irvin et al., AAAI 2019."
parents = []
[names]
chexpert = ["Support Devices"]
[policy]
uncertain = "soft(0.1, 0.40)"
blank = "ignore"
reason = "An example."
[training]
epochs = 3
"""


def write(folder, text=GOOD, stem="support_devices"):
    folder.mkdir(exist_ok=True)
    (folder / f"{stem}.toml").write_text(text)
    return folder


def test_the_nineteen_findings_in_report_order():
    catalog = load_catalog()
    assert tuple(catalog)[:12] == CHEXPERT_TARGETS
    others = ["infiltration", "mass", "nodule", "emphysema", "fibrosis", "pleural_thickening", "hernia"]
    assert set(catalog) == {*CHEXPERT_TARGETS, *others}
    for slug, pathology in catalog.items():
        assert pathology.slug == slug
        assert min(len(pathology.definition), len(pathology.sign), len(pathology.reason)) > 20
        assert any(year in pathology.citation for year in ("19", "20"))


def test_training_policies_follow_the_evidence():
    policies = {slug: pathology.policy for slug, pathology in load_catalog().items()}
    ones = {slug for slug, policy in policies.items() if policy.uncertain == "ones"}
    assert ones == {"atelectasis", "enlarged_cardiomediastinum", "edema"}
    middles = {slug: sum(p.soft_range) / 2 for slug, p in policies.items() if p.soft_range}
    # How often radiologists find it when the report is uncertain (CheXpert test set).
    assert middles == pytest.approx({"cardiomegaly": 0.40, "pleural_effusion": 0.29})
    assert all(policies[slug].uncertain == "zeros" for slug in set(policies) - ones - set(middles))
    assert {policy.blank for policy in policies.values()} == {"zero"}


def test_parents_of_the_twelve():
    catalog = load_catalog()
    assert catalog["cardiomegaly"].parents == ("enlarged_cardiomediastinum",)
    children = {slug for slug in CHEXPERT_TARGETS if catalog[slug].parents == ("lung_opacity",)}
    assert children == {"edema", "consolidation", "pneumonia", "atelectasis", "lung_lesion"}
    assert set(descendants("lung_opacity", parents_of(catalog))) > {*children, "nodule", "mass"}
    assert descendants("fracture", parents_of(catalog)) == []


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("pleural_effusion", "pleural_effusion"),
        ("Effusion", "pleural_effusion"),
        ("AIRSPACE OPACITY", "lung_opacity"),
        ("Nodule/Mass", "lung_lesion"),
        (" pleural_Thickening ", "pleural_thickening"),
        ("mass", "mass"),
    ],
)
def test_find_by_slug_or_alias(name, slug):
    assert find_pathology(name).slug == slug


def test_unknown_name_offers_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown target 'efusion'\. Did you mean 'pleural_effusion'\? Known: "):
        find_pathology("efusion")


def test_whole_names_only():
    with pytest.raises(ValueError, match="Unknown target 'pleural'"):
        find_pathology("pleural")


def test_name_of_two_findings_must_be_told_apart():
    assert source_names("padchest")["hydropneumothorax"] == ("pneumothorax", "pleural_effusion")
    with pytest.raises(ValueError, match="more than one finding: pneumothorax, pleural_effusion"):
        find_pathology("hydropneumothorax")


def test_source_names_cover_the_published_vocabularies():
    nih = (
        "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax Consolidation Edema "
        "Emphysema Fibrosis Pleural_Thickening Hernia"
    )
    assert {name.casefold() for name in nih.split()} <= set(source_names("nih"))
    assert len({slugs for slugs in source_names("nih").values()}) == 14
    for source in ("chexpert", "mimic"):
        assert {slug for slugs in source_names(source).values() for slug in slugs} == set(CHEXPERT_TARGETS)


def test_user_folder_adds_a_finding(tmp_path):
    catalog = load_catalog(write(tmp_path / "own"))
    assert len(catalog) == 20
    added = find_pathology("support devices", catalog)
    assert added.policy.uncertain == "soft(0.1,0.4)"
    assert added.training == {"epochs": 3}
    assert "support_devices" not in load_catalog()


def test_user_folder_may_not_shadow_a_built_in(tmp_path):
    folder = write(tmp_path / "own", GOOD.replace("Support Devices", "Edema"), "edema")
    with pytest.raises(ValueError, match=r"edema\.toml: 'edema' is a built-in finding"):
        load_catalog(folder)


def test_missing_or_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_catalog(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no .toml file"):
        load_catalog(tmp_path)


BAD = {
    "not toml": ("= 3", "= [", "not a TOML file"),
    "unknown key": ("sign =", "signs =", "'sign' is missing"),
    "added key": ("parents", "colour = 3\nparents", "unknown key 'colour' (3)"),
    "near key": ("parents = []", "parent = []", "Did you mean 'parents'?"),
    "wrong type": ('"A tube, line or pacemaker."', "7", "key 'definition' is 7. Allowed: a string"),
    "empty text": ('"A tube, line or pacemaker."', '" "', "key 'definition' is ' '. Allowed: a text that is not empty"),
    "order of text": ("parents = []", 'order = "first"', "key 'order' is 'first'. Allowed: a whole number"),
    "parents of text": ("parents = []", 'parents = "edema"', "key 'parents' is 'edema'. Allowed: a list of strings"),
    "other name": ("Support Devices", "Pacemaker", "key 'name' is 'Pacemaker'"),
    "bad policy": (
        "soft(0.1, 0.40)",
        "one",
        "Policy for uncertain labels is 'one'. Allowed: zeros, ones, ignore, soft",
    ),
    "soft order": ("soft(0.1, 0.40)", "soft(0.5,0.4)", "Allowed: 0 <= low <= high <= 1"),
    "soft number": ("soft(0.1, 0.40)", "soft(0..1,0.4)", "'soft(0..1,0.4)'"),
    "bad blank": ('"ignore"', '"one"', "Policy for blank labels is 'one'. Allowed: zero, ignore"),
    "policy key": ("blank =", "blanks =", "key 'policy.blank' is missing"),
    "policy extra": ("blank =", "no_finding = 0\nblank =", "unknown key 'policy.no_finding' (0)"),
    "unknown source": ("chexpert =", "chexpret =", "unknown key 'names.chexpret' (['Support Devices']). Did you mean"),
    "names of text": ('["Support Devices"]', '"Support Devices"', "key 'names.chexpert' is 'Support Devices'"),
    "name twice": ('["Support Devices"]', '["Tube", "tube"]', "Allowed: each name once"),
    "taken name": ('["Support Devices"]', '["edema"]', "'edema', which edema has too"),
    "no parent": ("parents = []", 'parents = ["edma"]', "key 'parents' names 'edma'. Did you mean 'edema'?"),
    "own parent": ("parents = []", 'parents = ["support_devices"]', "makes 'support_devices' its own parent"),
    "parent without reason": ("parents = []", 'parents = ["fracture"]', "key 'parents_reason' is missing"),
    "training list": ("epochs = 3", "epochs = [3]", "key 'training.epochs' is [3]"),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_file_is_named_with_key_and_value(tmp_path, case):
    old, new, message = BAD[case]
    assert old in GOOD
    folder = write(tmp_path / "own", GOOD.replace(old, new))
    with pytest.raises(ValueError) as caught:
        load_catalog(folder)
    assert "support_devices.toml" in str(caught.value)
    assert message in str(caught.value)


def test_parent_cycle_over_two_files(tmp_path):
    reason = 'parents_reason = "why"\n'
    first = GOOD.replace("parents = []", 'parents = ["tube"]\n' + reason)
    second = first.replace("Support Devices", "Tube").replace('["tube"]', '["support_devices"]')
    write(tmp_path / "own", first)
    write(tmp_path / "own", second, "tube")
    with pytest.raises(ValueError, match="its own parent"):
        load_catalog(tmp_path / "own")


def test_import_needs_neither_torch_nor_ray_nor_pandas():
    code = (
        "import sys, pathologies; pathologies.load_catalog(); pathologies.resolve; "
        "print([m for m in ('torch', 'ray', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_public_names_exist():
    import pathologies

    assert pathologies.find_pathology is find_pathology
    assert all(getattr(pathologies, name) is not None for name in pathologies.__all__)
    with pytest.raises(AttributeError, match="Public names"):
        _ = pathologies.nonsense
