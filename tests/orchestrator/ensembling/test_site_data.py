"""A hospital's table and its folder of films: which row is which file, and whose film it is."""

import shutil

import numpy as np
import pandas as pd
import pytest

from orchestrator.ensembling.site_data import SiteRequest, read_site_films
from orchestrator.inference.bundle import load_bundle
from tests.models.data.test_dicom import make
from tests.small_data import disc_films
from tests.small_run import write_films

FILMS = disc_films(np.array([0, 1] * 2))


@pytest.fixture
def ask(house, tmp_path):
    """Reads a table of these paths, with films of these paths below the folder."""

    def read(rows, files, images="", patients=True, **options):
        source = write_films(tmp_path / "flat", FILMS)
        for number, name in enumerate(files):
            goal = tmp_path / "films" / name
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source[number], goal)
        table = pd.DataFrame({"path": rows, "Pneumonia": [number % 2 for number in range(len(rows))]})
        if patients:
            table["patient"] = [f"p{number}" for number in range(len(rows))]
        table.to_csv(tmp_path / "local.csv", index=False)
        request = SiteRequest(labelled=tmp_path / "local.csv", images=tmp_path / "films" / images, **options)
        return read_site_films(load_bundle(house / "bundle", "cpu"), request, lambda done, total: None)

    return read


def test_a_film_of_another_site_is_not_taken_for_its_own(ask):
    films = ask(["north/1.png", "south/1.png", "north/2.png", "south/3.png"], ["1.png", "2.png", "3.png"])
    assert films.listing["counted"].tolist() == [False, False, True, True]
    assert films.listing["reason"][0] == (
        "a file of this name that another row of the table can mean too: give its path"
    )
    assert "2 of them are not at their path, and were found by the end of it, which is unique." in films.notes
    assert any("another row" in note for note in films.notes)
    assert films.patients.tolist() == ["p2", "p3"]


@pytest.mark.parametrize(
    ("rows", "files", "images", "counted"),
    [
        (["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"], "", [True, True]),
        (["films/a/1.png", "1.png"], ["a/1.png", "b/2.png"], "", [True, False]),  # 1.png is the first row's
        (["a/1.png", "b/1.png"], ["b/1.png"], "b", [False, True]),  # the folder itself is b
        (["1.png", "2.png"], ["a/1.png", "a/2.png", "b/2.png"], "", [True, False]),  # two files called 2.png
        (["a/1.png", "2.png"], ["b/1.png", "2.png"], "", [False, True]),  # another folder is another film
        (["x/p1/1.png", "x/p2/1.png"], ["p1/1.png", "p2/1.png"], "", [True, True]),
    ],
)
def test_a_row_is_a_file_only_where_nothing_else_can_be_meant(ask, rows, files, images, counted):
    films = ask(rows, files, images)
    assert films.listing["counted"].tolist() == counted
    assert (films.listing["reason"] == "").tolist() == counted


def test_films_of_nobody_are_refused_unless_each_is_said_to_be_a_patient(ask):
    rows = ["patients/1/a.png", "patients/2/a.png"]
    with pytest.raises(ValueError, match="Nothing says whose 2 of the 2 films.*--patient-column COLUMN"):
        ask(rows, rows, patients=False)
    each = ask(rows, rows, patients=False, each_row_a_patient=True)
    assert len(set(each.patients)) == 2
    assert "Each of the 2 rows counts as a patient of its own, as --each-row-a-patient says." in each.notes
    named = ask(rows, rows, patients=False, patient_pattern="patients/(.)/")
    assert named.patients.tolist() == ["1", "2"]
    assert "2 patients in 2 labelled rows, by --patient-pattern." in named.notes


def test_patients_of_dicom_films_are_in_their_tags(ask, tmp_path):
    (tmp_path / "films").mkdir()
    for number in range(3):
        film = make(FILMS[number], bits=8, PatientID=f"p{number // 2}")
        (tmp_path / "films" / f"{number}.dcm").write_bytes(film)
    films = ask(["0.dcm", "1.dcm", "2.dcm", "none.dcm"], [], patients=False)
    assert films.patients.tolist() == ["p0", "p0", "p1"]
    assert "2 patients in 3 labelled rows, by the DICOM tag PatientID." in films.notes
