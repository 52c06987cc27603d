from orchestrator.formatting import aligned, counted, short_names


def test_columns_are_aligned_and_nothing_is_cut():
    table = aligned(("name", "n"), [["a" * 60, 1], ["b", 100]])
    assert table.splitlines() == ["name" + " " * 56 + "    n", "a" * 60 + "    1", "b" + " " * 59 + "  100"]


def test_names_are_what_differs():
    assert short_names(["x/p1/s1/v.jpg", "x/p2/s1/v.jpg"]) == ["p1", "p2"]
    assert short_names(["x/p1/s1/v.jpg", "x/p1/s2/w.jpg"]) == ["s1/v.jpg", "s2/w.jpg"]
    assert short_names(["x/a.png"]) == ["a.png"]
    assert short_names(["a.png", "b.png"]) == ["a.png", "b.png"]
    assert short_names(["x/a.png", "x/a.png"]) == ["a.png", "a.png"]
    assert short_names(["a", "x/a"]) == ["a", "x/a"]


def test_one_is_no_plural():
    assert [counted(number, "image") for number in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
