"""What holds the house together: imports point down, heavy libraries stay where they are used, files stay readable."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from docs.draw_rooms import (
    PACKAGES,
    PLACES,
    file_imports,
    imported_names,
    lines_of,
    module_name,
    room_imports,
    room_of,
    shown_lines,
)
from tests.conftest import PROJECT

FILES = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
CODE = [*FILES, *(path for folder in ("tests", "bench", "docs") for path in sorted((PROJECT / folder).rglob("*.py")))]
NAMES = [str(path.relative_to(PROJECT)) for path in CODE]
ALLOWED = {
    "pathologies": {"numpy", "pandas", "pyarrow", "PIL", "scipy", "pathologies"},
    "models": {"numpy", "pyarrow", "PIL", "scipy", "pydicom", "imagecodecs", "torch", "torchvision", "timm",
               "safetensors", "models", "pathologies"},
}  # fmt: skip
MOST_LINES, MOST_FILES = 400, 16
# room -> the rooms of its package that it may import. A file beside the rooms that is not here lies below them all.
ORDER = {
    "pathologies.findings": "",
    "pathologies.labels": "findings",
    "pathologies.splits": "findings labels",
    "pathologies.sources": "findings labels splits",
    "pathologies.phantom": "",
    "models.files": "",
    "models.statistics": "",
    "models.data": "files",
    "models.network": "files data",
    "models.training": "files data network statistics",
    "models.process": "files data network statistics training",
    "models.classifier": "data network statistics",
    "orchestrator.storage": "",
    "orchestrator.datasets": "storage",
    "orchestrator.planning": "storage datasets",
    "orchestrator.training": "storage datasets planning",
    "orchestrator.tuning": "storage datasets planning training",
    "orchestrator.cluster": "storage datasets planning training",
    "orchestrator.inference": "storage datasets",
    "orchestrator.ensembling": "storage datasets inference",
    "orchestrator.evaluation": "storage datasets inference ensembling",
    "orchestrator.option_values": "storage inference",
    "orchestrator.api": "storage datasets planning training tuning inference ensembling evaluation option_values",
    "orchestrator.cli": (
        "storage datasets planning training tuning cluster inference ensembling evaluation option_values api"
    ),
    "orchestrator.predict": "cli api",
}
# What the rules below still find. A line that is no longer found makes the test fail too: take it out.
EXCEPTIONS = dict.fromkeys(
    [],
    "to be opened",
)


def package_of(path: Path) -> str:
    return path.relative_to(PROJECT).parts[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(module: ast.AST) -> Iterator[str]:
    """The full names that a module imports, at its top and inside its functions; `from a import b` gives a and a.b."""
    for source, name in imported_names(module):
        yield from (source, f"{source}.{name}") if name else (source,)


@cache
def graph() -> dict[str, dict[str, set[str]]]:
    return file_imports()


def require_none(rule: str, found: Iterator[str]) -> None:
    """That a rule finds what EXCEPTIONS has of it, and nothing else."""
    lines = {f"{rule}: {one}" for one in found}
    excused = {line for line in EXCEPTIONS if line.startswith(f"{rule}: ")}
    assert not lines - excused, "\n".join(sorted(lines - excused))
    assert not excused - lines, "mended; take out of EXCEPTIONS:\n" + "\n".join(sorted(excused - lines))


def on_circles(edges: Mapping[str, Iterator[str]]) -> set[str]:
    """What can be reached from itself."""

    def reached(start: str) -> set[str]:
        seen, left = set(), [*edges.get(start, ())]
        while left:
            if (one := left.pop()) not in seen:
                seen.add(one)
                left += edges.get(one, ())
        return seen

    return {one for one in edges if one in reached(one)}


def doors() -> dict[str, tuple[str, list[str] | None]]:
    """room -> (docstring, what its `__all__` offers; None without one)."""
    found = {}
    for path in sorted(PROJECT.glob("*/*/__init__.py")):
        if package_of(path) in PACKAGES:
            lists = [ast.literal_eval(node.value) for node in tree(path).body
                     if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]  # fmt: skip
            found[module_name(path)] = (ast.get_docstring(tree(path)), lists[0] if lists else None)
    return found


def files_in(room: str) -> list[str]:
    """The modules of a room, without `__init__` and `__main__`."""
    return sorted(path.stem for path in (PROJECT / room.replace(".", "/")).glob("*.py") if path.stem[:2] != "__")


def calls(module: ast.AST) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn"}  # where a distribution's name is not its module's
OF_OTHERS = {
    "aiohttp": "ray",
    "click": "typer",
    "yaml": "ray",
    "werkzeug": "flask",
}  # module -> the declared one that brings it
# Of every installation, found and loaded by a library and never imported here.
PLUG_INS: set[str] = set()
TOOLS = {"build", "flask", "flask-cors", "pytest-xdist", "ruff"}  # run or loaded by others, never imported here


def declared() -> dict[str, set[str]]:
    """The distributions of pyproject.toml: "" those of every installation, else by extra."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found = {name: {re.match(r"[\w-]+", line)[0] for line in lines} for name, lines in groups.items()}
    return {name: lines - {"hilum"} for name, lines in found.items()}


def third_party(folders: Sequence[str]) -> set[str]:
    """The roots of what the folders' files import from elsewhere, under the names of their distributions."""
    own = {*PACKAGES, "bench", "docs", "tests", *sys.stdlib_module_names}
    paths = [path for folder in folders for path in (PROJECT / folder).rglob("*.py")]
    roots = {name.partition(".")[0] for path in paths for name in imports(tree(path))} - own
    names = {module: name for name, module in IMPORTED_AS.items()}
    return {names.get(root, root) for root in roots}


def test_what_the_packages_import_is_declared_and_what_is_declared_is_imported():
    """An import that only some other dependency happens to bring breaks on the day that one stops to bring it."""
    groups, imported = declared(), third_party(PACKAGES)
    optional = groups["cluster"] | groups["storage"]
    assert imported <= groups[""] | optional
    assert groups[""] | optional <= imported | PLUG_INS, "declared and never imported"
    # fastai: bench.peers makes it an environment of its own
    checks = {OF_OTHERS.get(name, name) for name in third_party(("tests", "bench", "docs"))} - {"fastai"}
    assert checks <= set().union(*groups.values())
    assert groups["test"] <= checks | TOOLS, "declared for tests and never imported"


def test_a_circle_is_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": set()}
    assert on_circles(edges) == {"b", "c", "d"}


def test_no_files_import_each_other_in_a_circle():
    require_none("circle", on_circles(graph()))


def test_rooms_import_rooms_below_them():
    found = []
    for module, imported in graph().items():
        package, _, inside = room_of(module).partition(".")
        allowed = {f"{package}.{name}" for name in ORDER.get(room_of(module), "").split()}
        for other in imported:
            of_another = room_of(other).startswith(f"{package}.") and room_of(other) != room_of(module)
            if of_another and room_of(other) in ORDER and inside and room_of(other) not in allowed:
                found.append(f"{module} -> {other}")
    require_none("order", found)
    below = {room: {f"{room.partition('.')[0]}.{name}" for name in names.split()} for room, names in ORDER.items()}
    assert not on_circles(below)
    assert doors().keys() <= ORDER.keys()


def test_a_folder_can_be_taken_in():
    require_none("files", (room for room in doors() if len(files_in(room)) > MOST_FILES))


def test_rooms_are_entered_by_their_doors():
    """`__all__` of a room's `__init__.py` names the files that other rooms may import."""
    offered = {room: names for room, (_, names) in doors().items()}
    require_none("no __all__", (room for room in offered if offered[room] is None))
    found = []
    for module, imported in graph().items():
        for other in imported:
            room, _, inside = other.rpartition(".")
            if room_of(module) != room and offered.get(room) is not None and inside not in offered[room]:
                found.append(f"{module} -> {other}")
    require_none("door", found)


def test_doors_name_their_files():
    """In the docstring every file of the room, and in `__all__` nothing else."""
    for room, (text, names) in doors().items():
        named = {name.partition(".")[0] for name in re.findall(r"`([a-z_.]+)`", text)}
        assert set(files_in(room)) <= named, room
        assert set(names or ()) <= set(files_in(room)), room


def test_what_begins_with_an_underscore_stays_in_its_file():
    found = []
    for module, imported in graph().items():
        for other, names in imported.items():
            found += [f"{module} -> {other}.{name}" for name in names if name.startswith("_")]
    require_none("private", found)


def test_docs_name_every_file():
    """docs/architecture.md: a row per room, or several, with its files."""
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package, listed = "", dict.fromkeys(doors(), [])
    for line in text.split("\n"):
        if heading := re.match(r"\*\*`(\w+)/`", line):
            package = heading[1]
        elif row := re.match(r"\| `(\w+)`.*\|(.*)\|$", line):
            room = f"{package}.{row[1]}"
            listed[room] = [*listed.get(room, []), *re.findall(r"`(\w+)`", row[2])]
    assert {room: sorted(files) for room, files in listed.items()} == {room: files_in(room) for room in doors()}


def test_picture_shows_the_imports():
    assert doors().keys() <= PLACES.keys()
    assert shown_lines() == lines_of(room_imports(graph())), "run `python docs/draw_rooms.py`"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_down(package):
    for path in FILES:
        if package_of(path) != package:
            continue
        roots = {name.partition(".")[0] for name in imports(tree(path))} - set(sys.stdlib_module_names)
        assert roots <= ALLOWED[package], path.name


def test_ray_lives_in_the_orchestrator():
    for path in FILES:
        roots = {name.partition(".")[0] for name in imports(tree(path))}
        assert "ray" not in roots or package_of(path) == "orchestrator", path.name


def test_rays_settings_come_before_its_import():
    """What imports Ray at its top is itself imported inside a function, when `cluster` has set them."""
    at_top: dict[str, set[str]] = {}
    for path in FILES:
        nodes = [node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        at_top[module_name(path)] = {
            part for node in nodes for name in imports(node) for part in (name, name.partition(".")[0])
        }
    with_ray, found = {"ray"}, {"ray"}
    while found:
        found = {name for name, names in at_top.items() if names & with_ray} - with_ray
        with_ray |= found
    first = [name for name in with_ray if name.startswith(("orchestrator.c", "orchestrator.training.launch", "models"))]
    assert not first, "imported before `cluster` has set the environment"


def test_only_the_command_line_prints():
    for path in FILES:
        printers = {"print"} & set(calls(tree(path)))
        printers |= {name for name in imports(tree(path)) if name == "orchestrator.cli.console"}
        command_line = path.parent == PROJECT / "orchestrator" / "cli"
        assert not printers or command_line, path.name


LOADED = "import sys, {module}; print(*sys.modules)"


def loaded_by(module: str) -> set[str]:
    """The top-level modules in a fresh interpreter after one import."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(module=module)],
        cwd=PROJECT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_a_training_process_loads_no_table_or_plot_libraries():
    """`orchestrator.training.worker` is what Ray imports in it."""
    loaded = loaded_by("orchestrator.training.worker, models.process.job")
    assert {"torch", "timm", "safetensors"} <= loaded
    assert not loaded & {"pandas", "sklearn", "matplotlib", "ray", "PIL.Image", "scipy", "rich", "typer"}


def test_labels_need_neither_torch_nor_ray():
    loaded = loaded_by(
        "pathologies, pathologies.findings.catalog, pathologies.labels.resolution, pathologies.sources.registry, "
        "pathologies.splits.assignment"
    )
    assert "pandas" in loaded
    assert not loaded & {"torch", "ray", "models", "orchestrator"}


def test_help_loads_nothing_heavy():
    loaded = loaded_by("orchestrator.cli.app")
    assert not loaded & {"torch", "ray", "pandas", "matplotlib", "sklearn", "numpy"}


@pytest.mark.parametrize("path", CODE, ids=NAMES)
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES or package_of(path) == "tests", "split it"
    module = tree(path)
    assert not text or package_of(path) == "tests" or ast.get_docstring(module), "a module says what comes in and out"
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), "star import"
        if isinstance(node, ast.Call):
            assert all(word.arg != "inplace" for word in node.keywords), "inplace= changes nothing under pandas 3"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "bare except"


def test_no_pickle_and_no_global_seed():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not {"pickle", "joblib", "dill"} & set(imports(tree(path))), path.name
        assert "np.random.seed" not in text, path.name
        assert "random.seed(" not in text, path.name
        assert "weights_only=False" not in text, path.name
        assert "allow_pickle=True" not in text, path.name


def test_no_warning_is_silenced_for_everybody():
    for path in FILES:
        assert "filterwarnings(" not in path.read_text(encoding="utf-8"), path.name
