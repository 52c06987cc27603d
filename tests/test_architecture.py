"""What holds the house together: imports point down, heavy libraries stay where they are used, files stay readable."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGES = ("pathologies", "models", "orchestrator")
FILES = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
CODE = [*FILES, *sorted((PROJECT / "tests").glob("*.py")), *sorted((PROJECT / "bench").glob("*.py"))]
NAMES = [str(path.relative_to(PROJECT)) for path in CODE]
ALLOWED = {
    "pathologies": {"numpy", "pandas", "pyarrow", "PIL", "scipy", "pathologies"},
    "models": {"numpy", "pyarrow", "PIL", "scipy", "pydicom", "imagecodecs", "torch", "torchvision", "timm",
               "safetensors", "models", "pathologies"},
}  # fmt: skip
MOST_LINES = 400


def package_of(path: Path) -> str:
    return path.relative_to(PROJECT).parts[0]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(module: ast.AST) -> Iterator[str]:
    """The full names that a module imports, at its top and inside its functions; `from a import b` gives a and a.b."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


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
    own = {*PACKAGES, "bench", "tests", *sys.stdlib_module_names}
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
    checks = {OF_OTHERS.get(name, name) for name in third_party(("tests", "bench"))} - {"fastai"}
    assert checks <= set().union(*groups.values())
    assert groups["test"] <= checks | TOOLS, "declared for tests and never imported"


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
        at_top[module_of(path)] = {
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
    assert text.count("\n") <= MOST_LINES or path.parent.name == "tests", "split it"
    module = tree(path)
    assert not text or path.parent.name == "tests" or ast.get_docstring(module), "a module says what comes in and out"
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
