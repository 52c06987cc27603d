"""PadChest: a small file in the published format, and every way in which such a file is wrong."""

import numpy as np
import pytest

from pathologies.findings.catalog import load_catalog
from pathologies.labels.contract import reference_contract, training_contract
from pathologies.labels.resolution import resolve
from pathologies.sources.registry import read_labels
from tests.label_files import check_frame, write

PADCHEST_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
    "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
    "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime,"
    "RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,"
    "labelCUIS,LocalizationsCUIS"
)

UNKNOWN = -2


def padchest_row(number: int, labels: str, projection: str = "PA", method: str = "Physician", sex: str = "M") -> str:
    study = f"s{number // 2}"
    front = (
        f"{number},i{number}.png,0,20140915,{study},p{number // 2},1930.0,{sex},,{projection},Manual review of DICOM"
    )
    cell = f'"{labels}"' if labels else ""
    return f'{front}{"," * 18}r1,"sin hallazgos , normal",{method},{cell},,,,'


PADCHEST_ROWS = (
    padchest_row(0, "['pleural effusion', ' cardiomegaly']"),
    padchest_row(1, "['normal']", "L", "RNN_model", "F"),
    padchest_row(2, "['unchanged', 'pneumonia']", "AP_horizontal", sex="O"),
    padchest_row(3, "['unchanged']"),
    padchest_row(4, "['exclude']"),
    padchest_row(5, "['suboptimal study', 'pneumonia']"),
    padchest_row(6, ""),
    padchest_row(7, "['']"),
    padchest_row(8, "['dinosaur', 'calcified granuloma']", "COSTAL", "RNN_model"),
    padchest_row(9, "['normal']", "EXCLUDE"),
)


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz"])
def test_padchest_label_lists(tmp_path, name):
    read = read_labels("padchest", write(tmp_path / name, PADCHEST_HEADER, *PADCHEST_ROWS), allow_absent=True)
    frame = check_frame(read, 4)
    assert frame["image_id"].tolist() == ["i0.png", "i1.png", "i2.png", "i8.png"]
    assert frame["cardiomegaly"].tolist()[:2] == [1, 0]  # the stray space of the published lists
    np.testing.assert_array_equal(frame["pneumonia"], np.float32([0, 0, 1, 0]))
    assert frame["cardiomegaly"].iloc[2] == UNKNOWN  # 'unchanged': not listed is not absent, and not blank either
    assert frame["no_finding"].tolist() == [0, 1, 0, 0]
    assert frame["view"].tolist() == ["frontal", "lateral", "frontal", ""]
    assert frame["projection"].tolist() == ["PA", "", "AP", ""]
    assert frame["age"].tolist() == [84] * 4
    assert frame["sex"].tolist() == ["M", "F", "", "M"]
    assert frame["path"].tolist()[0] == "0/i0.png"
    reasons = dict(zip(read.dropped["image"], read.dropped["reason"], strict=True))
    assert sorted(reasons) == ["i3.png", "i4.png", "i5.png", "i6.png", "i7.png", "i9.png"]
    assert "unchanged" in reasons["i3.png"]
    assert "EXCLUDE" in reasons["i9.png"]
    assert any("'dinosaur' (1)" in note for note in read.notes)


def test_padchest_report_status_and_bad_input(tmp_path):
    labels = write(tmp_path / "p.csv", PADCHEST_HEADER, *PADCHEST_ROWS)
    read = read_labels("padchest", labels, allow_absent=True, labelled_by="physician")
    assert read.frame["image_id"].tolist() == ["i0.png", "i2.png"]
    assert "not labelled by the physician" in set(read.dropped["reason"])
    with pytest.raises(ValueError, match="no report has the finding"):
        read_labels("padchest", labels)
    with pytest.raises(ValueError, match="labelled_by='nobody'"):
        read_labels("padchest", labels, allow_absent=True, labelled_by="nobody")
    broken = write(tmp_path / "b.csv", PADCHEST_HEADER, padchest_row(0, "pleural effusion"))
    with pytest.raises(ValueError, match="line 2: 'pleural effusion'"):
        read_labels("padchest", broken, allow_absent=True)


def test_what_an_unchanged_report_does_not_list_is_left_out_under_both_contracts(tmp_path):
    rows = (
        padchest_row(0, "['unchanged', 'pneumonia']"),
        padchest_row(1, "['unchanged', ' cardiomegaly']"),
        padchest_row(2, "['pneumonia']"),
        padchest_row(3, "['unchanged', 'normal']"),
    )
    read = read_labels("padchest", write(tmp_path / "p.csv", PADCHEST_HEADER, *rows), allow_absent=True)
    frame, catalog = read.frame, load_catalog()
    for contract in (reference_contract(read.findings), training_contract(catalog, read.findings)):
        found = {slug: resolve(frame, slug, contract, catalog) for slug in read.findings}
        np.testing.assert_array_equal(found["pneumonia"].values, np.float32([1, np.nan, 1, 0]))
        np.testing.assert_array_equal(found["cardiomegaly"].values, np.float32([np.nan, 1, 0, 0]))
        np.testing.assert_array_equal(found["pneumonia"].weights, np.float32([1, 0, 1, 1]))
        for slug in set(read.findings) - {"pneumonia", "cardiomegaly"}:
            assert np.isnan(found[slug].values[:2]).all(), slug  # a finding that is implied by a listed one too
    assert any(note.startswith("2 reports say 'unchanged'") for note in read.notes)
