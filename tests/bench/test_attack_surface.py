"""bench/attack_surface.py sees what escapes, what is sent and what has no answer; the real thing is the benchmark."""

import numpy as np
import pytest

from bench import attack_surface
from bench.attack_surface import PLANTED, answer, generated, judge_packed, judge_predict, mutate, mutated
from models.data.images import decode
from pathologies.errors import InputError

CODE = ("orchestrator/cli/app.py", "models/training/loop.py")


def test_mutations_are_the_same_for_the_same_seed_and_of_three_kinds():
    data = generated()[0].data
    done = [mutated(data, np.random.default_rng([0, number])) for number in range(60)]
    assert done == [mutated(data, np.random.default_rng([0, number])) for number in range(60)]
    assert {kind for kind, _ in done} == {"header", "cut", "insertion"}
    assert sum(changed != data for _, changed in done) > 55


def test_every_container_is_a_film_before_it_is_damaged(tmp_path):
    assert {answer(one.data, tmp_path) for one in generated()} == {"array"}


def test_pictures_through_the_decoder():
    pictures = [one for one in generated() if not one.name.startswith("DICOM")]
    _, rows = mutate(150, 0, originals=pictures)
    assert [row[3:] for row in rows] == [["0", ""]] * len(pictures)
    assert sum(int(row[1]) for row in rows) > 0
    assert sum(int(row[2]) for row in rows) > 50


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (KeyError("no tag"), "KeyError in test_attack_surface.py: 'no tag'"),
        (ValueError("of a library"), "ValueError in test_attack_surface.py: of a library"),
        (InputError(" "), "an InputError without a sentence"),
        (InputError("truncated"), "sentence"),
        (None, "no film: NoneType"),
        (np.zeros((2, 2)), "no film: ndarray"),
    ],
)
def test_whatever_is_neither_an_array_nor_a_sentence_has_escaped(tmp_path, told, shown):
    def decoder(source):
        if isinstance(told, Exception):
            raise told
        return told

    assert answer(b"\x89PNG", tmp_path, decoder) == shown


def test_one_that_escapes_is_counted_and_shown():
    def decoder(source):
        if isinstance(source, bytes) and len(source) % 3 == 0:
            raise NotImplementedError("a length")
        return decode(source)

    _, rows = mutate(30, 0, decoder, generated()[:1])
    assert int(rows[0][3]) > 0
    assert "NotImplementedError in test_attack_surface.py: a length" in rows[0][4]


def test_what_was_planted_and_would_be_sent_is_named():
    sizes = dict.fromkeys([*CODE, *PLANTED], 1024)
    tables, problems = judge_packed(CODE, sizes)
    assert problems == []
    assert tables[0][1] == [["models", "1", "1"], ["orchestrator", "1", "1"]]
    assert judge_packed((*CODE, ".env"), sizes)[1] == [".env would be sent."]
    assert judge_packed(CODE[1:], sizes)[1] == ["The code itself would not be sent."]


def test_a_good_film_without_an_answer_and_a_lost_file_are_named():
    assert judge_predict(2, ["a/good.png", "b"], ["c"], ["truncated"]) == []
    assert judge_predict(2, ["b"], ["a/good.png", "c"], ["x", "y"]) == ["The good film has no answer."]
    assert judge_predict(2, ["a/good.png"], ["c"], ["x"]) == ["3 files, 1 answers and 1 reasons."]
    assert judge_predict(1, ["a/good.png"], ["c"], [""]) == ["A file was refused without a reason."]


@pytest.mark.parametrize(("problems", "check", "code"), [([], True, 0), (["x"], True, 1), (["x"], False, 0)])
def test_the_exit_code(monkeypatch, capsys, problems, check, code):
    monkeypatch.setattr(attack_surface, "packed", lambda: ([(("sent",), [["models"]])], problems))
    assert attack_surface.main(["--only", "packed", *(["--check"] if check else [])]) == code
    assert ("All as stated." in capsys.readouterr().out) == (not problems)
