"""The label contract: its order, its closure, its counts, on hand-made and on arbitrary frames."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathologies.findings.catalog import CHEXPERT_TARGETS, descendants, load_catalog, parents_of
from pathologies.findings.policy import LabelPolicy
from pathologies.labels.contract import REFERENCE_POLICY, LabelContract, reference_contract, training_contract
from pathologies.labels.resolution import resolve, soft_draws

CATALOG = load_catalog()
BLANK, UNKNOWN = np.nan, -2.0
GOLDEN_DRAWS = [0.6505216024292472, 0.5132679213124762]  # of the first implementation (BLAKE2b, 53 bits)


def frame_of(**columns):
    rows = len(next(iter(columns.values())))
    labels = {name: np.asarray(values, np.float32) for name, values in columns.items()}
    return pd.DataFrame({"image_id": [f"image{i}" for i in range(rows)], "source": "chexpert", **labels})


def contract_of(slug, uncertain="ignore", blank="ignore", closure=True):
    return LabelContract(policies={slug: LabelPolicy(uncertain=uncertain, blank=blank)}, closure=closure)


def values_of(frame, slug, contract, **options):
    return resolve(frame, slug, contract, CATALOG, **options).values.tolist()


def test_order_of_the_contract():
    frame = frame_of(
        lung_opacity=[1, 0, -1, BLANK, 1, 0, -1, BLANK, -1, BLANK, BLANK],
        edema=[BLANK] * 8 + [1, 1, 1],
        no_finding=[BLANK] * 4 + [1] * 4 + [BLANK, BLANK, 1],
    )
    resolved = resolve(frame, "lung_opacity", contract_of("lung_opacity", "zeros", "ignore"), CATALOG)
    #          explicit  unc  blank  explicit  unc  NF  lifted x 2  NF before closure
    expected = [1, 0, 0, BLANK, 1, 0, 0, 0, 1, 1, 0]
    np.testing.assert_array_equal(resolved.values, np.float32(expected))
    np.testing.assert_array_equal(resolved.weights, np.float32([1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1]))
    assert resolved.values.dtype == resolved.weights.dtype == np.float32
    assert resolved.counts == {
        **dict.fromkeys(resolved.counts, 0),
        **{"explicit_positive": 2, "explicit_negative": 2, "no_finding_filled": 2, "no_finding_contradictions": 1},
        **{"closure_lifted": 2, "closure_lifted_uncertain": 1, "uncertain_as_zeros": 2, "blank_as_ignore": 1},
        **{"positive": 4, "negative": 6, "unknown": 1},
    }


def test_contradiction_is_kept_and_counted():
    frame = frame_of(enlarged_cardiomediastinum=[0, 0, BLANK], cardiomegaly=[1, BLANK, 1])
    slug = "enlarged_cardiomediastinum"
    resolved = resolve(frame, slug, contract_of(slug), CATALOG)
    assert resolved.values.tolist() == [0, 0, 1]
    assert resolved.counts["contradictions"] == 1
    assert resolve(frame, slug, contract_of(slug, closure=False), CATALOG).counts["contradictions"] == 0


def test_closure_goes_through_a_chain():
    frame = frame_of(nodule=[1, 1, -1, BLANK], lung_lesion=[BLANK, 0, BLANK, 1], lung_opacity=[BLANK, BLANK, -1, -1])
    values = values_of(frame, "lung_opacity", contract_of("lung_opacity"))
    np.testing.assert_array_equal(values, [1, 1, BLANK, 1])
    np.testing.assert_array_equal(values_of(frame, "lung_lesion", contract_of("lung_lesion")), [1, 0, BLANK, 1])


def test_uncertain_child_lifts_nothing():
    frame = frame_of(edema=[-1], lung_opacity=[BLANK])
    for uncertain in ("ones", "ignore"):
        contract = LabelContract(policies={s: LabelPolicy(uncertain=uncertain) for s in ("edema", "lung_opacity")})
        assert values_of(frame, "lung_opacity", contract) == [0]


def test_reference_contract_is_fixed():
    contract = reference_contract(["edema"])
    assert contract.policies["edema"] is REFERENCE_POLICY
    frame = frame_of(edema=[1, 0, -1, BLANK, BLANK], no_finding=[BLANK, BLANK, BLANK, BLANK, 1])
    np.testing.assert_array_equal(values_of(frame, "edema", contract), [1, 0, BLANK, 0, 0])


def test_training_contract_takes_policies_and_overrides():
    contract = training_contract(CATALOG, ["edema", "pneumonia"], {"pneumonia": LabelPolicy(uncertain="ones")})
    assert contract.policies["edema"] == CATALOG["edema"].policy
    assert contract.policies["pneumonia"].uncertain == "ones"
    with pytest.raises(ValueError, match="Did you mean 'edema'"):
        training_contract(CATALOG, ["edma"])
    with pytest.raises(ValueError, match="given for 'fracture', which is not a target"):
        training_contract(CATALOG, ["edema"], {"fracture": LabelPolicy()})


def test_contract_survives_json():
    contract = training_contract(CATALOG, CHEXPERT_TARGETS, closure=False)
    assert LabelContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract
    with pytest.raises(ValueError, match=r"keys are \['closure', 'policy'\]"):
        LabelContract.from_dict({"closure": True, "policy": {}})
    with pytest.raises(ValueError, match="unknown key 'blanks'"):
        LabelContract.from_dict({"policies": {"edema": {"blanks": "zero"}}})


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"uncertain": "one"}, "Policy for uncertain labels is 'one'"),
        ({"uncertain": "soft(0.2)"}, "soft"),
        ({"uncertain": "soft(0.2,1.2)"}, "0 <= low <= high <= 1"),
        ({"uncertain": 1}, "is 1"),
        ({"blank": "zeros"}, "Policy for blank labels is 'zeros'"),
    ],
)
def test_bad_policy(policy, message):
    with pytest.raises(ValueError) as caught:
        LabelPolicy(**policy)
    assert message in str(caught.value)


def test_unknown_labels_and_columns_are_errors():
    with pytest.raises(ValueError, match=r"Column 'edema', image 'image1': label 2 in 1 row"):
        values_of(frame_of(edema=[1, 2]), "edema", contract_of("edema"))
    with pytest.raises(ValueError, match="no column 'edema'"):
        values_of(frame_of(fracture=[1]), "edema", contract_of("edema"))
    with pytest.raises(ValueError, match="contract has no finding 'edema'"):
        values_of(frame_of(edema=[1]), "edema", contract_of("fracture"))


def test_rows_of_a_source_that_does_not_label_it_are_unknown():
    frame = frame_of(lung_opacity=[BLANK, BLANK, -1], edema=[1, 1, BLANK], no_finding=[BLANK, BLANK, 1])
    frame["source"] = ["chexpert", "nih", "nih"]
    labelled = {"chexpert": ["lung_opacity", "edema"], "nih": ["edema"]}
    contract = contract_of("lung_opacity", "ones", "zero")
    resolved = resolve(frame, "lung_opacity", contract, CATALOG, labelled=labelled)
    np.testing.assert_array_equal(resolved.values, [1, BLANK, BLANK])
    assert resolved.weights.tolist() == [1, 0, 0]
    assert resolved.counts["not_labelled"] == 2
    with pytest.raises(ValueError, match="No source labels 'lung_opacity'"):
        resolve(frame, "lung_opacity", contract, CATALOG, labelled={"nih": ["edema"]})


def test_soft_labels_of_the_source_stand():
    resolved = resolve(frame_of(edema=[0.25, 1]), "edema", contract_of("edema", "zeros", "zero"), CATALOG)
    assert resolved.values.tolist() == [0.25, 1]
    assert (resolved.counts["explicit_soft"], resolved.counts["soft"], resolved.counts["positive"]) == (1, 1, 1)


def test_soft_draws_depend_on_seed_finding_and_image_alone():
    names = [f"train/patient{i:05d}/study1/view1_frontal.jpg" for i in range(4000)]
    draws = soft_draws(names, "edema", 7)
    np.testing.assert_array_equal(soft_draws(names[::-1], "edema", 7), draws[::-1])
    np.testing.assert_array_equal(soft_draws(names[5:9], "edema", 7), draws[5:9])
    for other in (soft_draws(names, "edema", 8), soft_draws(names, "fracture", 7)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 0.05
    assert abs(draws.mean() - 0.5) < 0.02
    assert np.histogram(draws, bins=10, range=(0, 1))[0].min() > 320
    # A change of the hash would change every soft label of a stored run.
    assert soft_draws(["a", "b"], "edema", 0) == pytest.approx(GOLDEN_DRAWS, abs=1e-12)


def test_soft_policy_stays_in_its_range():
    frame = frame_of(edema=[-1] * 300 + [1, 0])
    resolved = resolve(frame, "edema", contract_of("edema", "soft(0.55,0.85)"), CATALOG, seed=3)
    soft = resolved.values[:300]
    assert soft.min() >= 0.55
    assert soft.max() <= 0.85
    assert np.ptp(soft) > 0.28
    assert resolved.counts["uncertain_as_soft"] == resolved.counts["soft"] == 300


CELL = st.sampled_from([1.0, 0.0, -1.0, BLANK, UNKNOWN])
FAMILY = ("lung_opacity", "lung_lesion", "nodule", "edema")
POLICIES = st.builds(
    LabelPolicy,
    uncertain=st.sampled_from(["zeros", "ones", "ignore", "soft(0.2,0.6)"]),
    blank=st.sampled_from(["zero", "ignore"]),
)


@st.composite
def cases(draw):
    rows = draw(st.integers(1, 12))
    column = st.lists(CELL, min_size=rows, max_size=rows)
    frame = frame_of(**{slug: draw(column) for slug in FAMILY})
    if draw(st.booleans()):
        frame["no_finding"] = np.float32(draw(column))
    slug = draw(st.sampled_from(FAMILY))
    return (
        frame,
        slug,
        LabelContract(policies={slug: draw(POLICIES)}, closure=draw(st.booleans())),
        draw(st.integers(0, 3)),
    )


def by_the_book(row, slug, contract):
    """The contract for one row, sentence by sentence."""
    raw = row[slug]
    if raw in (0, 1):
        return raw
    if raw == UNKNOWN:
        return BLANK
    if np.isnan(raw) and row.get("no_finding") == 1:
        return 0
    if contract.closure and any(row.get(child) == 1 for child in descendants(slug, parents_of(CATALOG))):
        return 1
    policy = contract.policies[slug]
    if raw == -1:
        return {"zeros": 0, "ones": 1, "ignore": BLANK}.get(policy.uncertain, "soft")
    return 0 if policy.blank == "zero" else BLANK


@settings(max_examples=150, deadline=None)
@given(cases())
def test_vectorised_contract_is_the_sentence_by_sentence_one(case):
    frame, slug, contract, seed = case
    resolved = resolve(frame, slug, contract, CATALOG, seed=seed)
    for row, value, weight in zip(frame.to_dict("records"), resolved.values, resolved.weights, strict=True):
        expected = by_the_book(row, slug, contract)
        if expected == "soft":
            assert np.float32(0.2) <= value <= np.float32(0.6)
        else:
            np.testing.assert_equal(float(value), float(expected))
        assert weight == (not np.isnan(value))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_unknown_becomes_no_label_under_any_policy_nor_by_closure_or_no_finding(case):
    frame, slug, contract, seed = case
    unknown = (frame[slug] == UNKNOWN).to_numpy()
    resolved = resolve(frame, slug, contract, CATALOG, seed=seed)
    assert np.isnan(resolved.values[unknown]).all()
    assert not resolved.weights[unknown].any()
    assert resolved.counts["explicit_unknown"] == unknown.sum()


@settings(max_examples=60, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_resolving_commutes_with_row_order_and_subsets(case, random):
    frame, slug, contract, seed = case
    whole = resolve(frame, slug, contract, CATALOG, seed=seed).values
    order = random.sample(range(len(frame)), random.randint(1, len(frame)))
    np.testing.assert_array_equal(resolve(frame.iloc[order], slug, contract, CATALOG, seed=seed).values, whole[order])


@settings(max_examples=60, deadline=None)
@given(cases())
def test_counts_add_up_and_explicit_labels_stand(case):
    frame, slug, contract, seed = case
    resolved = resolve(frame, slug, contract, CATALOG, seed=seed)
    counts, raw = resolved.counts, frame[slug].to_numpy()
    assert counts["positive"] + counts["negative"] + counts["soft"] + counts["unknown"] == len(frame)
    touched = [n for name, n in counts.items() if name.startswith(("explicit", "uncertain_as", "blank_as"))]
    assert sum(touched) + counts["no_finding_filled"] + counts["closure_lifted"] == len(frame)
    np.testing.assert_array_equal(resolved.values[raw >= 0], raw[raw >= 0])
    assert counts["unknown"] == int((resolved.weights == 0).sum())


@settings(max_examples=60, deadline=None)
@given(cases())
def test_closure_only_raises_and_only_where_a_child_is_positive(case):
    frame, slug, contract, seed = case
    closed = resolve(frame, slug, LabelContract(policies=contract.policies, closure=True), CATALOG, seed=seed).values
    plain = resolve(frame, slug, LabelContract(policies=contract.policies, closure=False), CATALOG, seed=seed).values
    differs = ~((closed == plain) | (np.isnan(closed) & np.isnan(plain)))
    assert (closed[differs] == 1).all()
    children = [child for child in descendants(slug, parents_of(CATALOG)) if child in frame]
    assert (frame.loc[differs, children] == 1).any(axis=1).all()
