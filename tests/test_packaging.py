"""The wheel: whole, installed elsewhere, and run from a folder that holds modules with the names of ours."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import PROJECT
from tests.processes import quiet_environment

pytestmark = [pytest.mark.slow, pytest.mark.ray]
PACKAGES = ("pathologies", "models", "orchestrator")
FOREIGN = 'raise RuntimeError("the module of another project was imported")\n'
SETTINGS = ("backbone=test_resnet", "epochs=1", "batch_size=8", "precision=fp32")


def run(*words, cwd: Path) -> str:
    """Standard output of a command that must succeed, without what would lead it back to the checkout."""
    environment = {name: value for name, value in quiet_environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def uv() -> Path:
    found = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if not found:
        pytest.skip("no uv beside this Python; `make install` brings it")
    return Path(found)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what belongs in it, with the setuptools of this environment: nothing is downloaded."""
    copy = tmp_path_factory.mktemp("copy")
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy)
    run(uv(), "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", copy / "dist",
        cwd=copy)  # fmt: skip
    return next((copy / "dist").glob("hilum-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The scripts folder of a fresh environment with the wheel alone; the libraries are those of this environment."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    run(uv(), "venv", "--quiet", "--python", sys.executable, home, cwd=home.parent)
    python = home / "bin" / "python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    (own / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    run(uv(), "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel, cwd=home)
    return home / "bin"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """Somebody else's working folder."""
    folder = tmp_path_factory.mktemp("foreign")
    for name in ("models.py", "pathologies.py"):
        (folder / name).write_text(FOREIGN)
    return folder


def test_the_wheel_holds_every_module_and_every_finding(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        for path in (PROJECT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(PROJECT)) in names
    assert len([name for name in names if name.endswith(".toml")]) >= 19
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)


def test_what_is_installed_is_what_runs(installed, foreign):
    code = "import orchestrator, models, pathologies; print(orchestrator.__file__, models.__file__)"
    home = run(installed / "python", "-c", code, cwd=foreign).split()
    assert all(str(installed.parent) in path for path in home)


def test_from_films_to_predictions_in_a_folder_with_foreign_modules(installed, foreign):
    """Ray's worker processes stand in that folder, too."""
    hilum = installed / "hilum"
    run(hilum, "phantom", "films", "--patients", 40, "--size", 48, "--no-laterals", cwd=foreign)
    run(hilum, "prepare", "chexpert", "--labels", "films/train.csv", "--images", "films", "--out", "dataset",
        "--size", 32, "--workers", 1, cwd=foreign)  # fmt: skip
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    run(hilum, "train", "dataset", "--out", "run", "--targets", "pleural_effusion", *settings, cwd=foreign)
    run(hilum, "ensemble", "run", "--out", "bundle", cwd=foreign)
    film = next((foreign / "films").rglob("*.jpg"))
    shutil.copy(film, foreign / "new.jpg")
    out = run(installed / "python", "-m", "orchestrator.predict", "bundle", "new.jpg", "--out", "p.csv", cwd=foreign)
    assert "pleural_effusion" in out
    assert pd.read_csv(foreign / "p.csv")["pleural_effusion"].between(0, 1).all()


def test_the_prediction_script_has_help(installed, foreign):
    assert "DICOM" in run(installed / "python", "-m", "orchestrator.predict", "--help", cwd=foreign)


def test_a_foreign_module_that_is_loaded_already_is_a_sentence(installed, foreign, tmp_path):
    (tmp_path / "models.py").write_text("")
    words = [installed / "python", "-c", "import models, orchestrator"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "is not hilum's. Start hilum in a Python process of its own" in done.stderr
