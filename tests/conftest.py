"""Fixtures that several test files share. One thread per test process: the machine is shared, and so are figures."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
# a shell starts what it runs in the background with Ctrl-C ignored, and every child would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real X-rays; a test that needs it is skipped, visibly, where it is absent."""
    folder = Path(os.environ.get("HILUM_TEST_DATA", PROJECT.parent / "shared" / "data"))
    if not (folder / "nih-sample").is_dir():
        pytest.skip(f"no real X-rays at {folder} (set HILUM_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def house(tmp_path_factory) -> Path:
    """A small data set, run and bundle below one folder. Shared: a test that changes something copies it first."""
    from tests.small_run import make_house

    return make_house(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A small data set of one finding; a file that needs another has a fixture of that name."""
    from tests.small_data import make_dataset

    return make_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture(scope="session")
def _storage_server():
    from tests.object_storage import running

    with running() as server:
        yield server


@pytest.fixture
def storage(_storage_server, tmp_path, monkeypatch):
    """An S3 server on loopback, a new folder of it as `uri`, and a cache of this node that is new as well."""
    monkeypatch.setenv("HILUM_CACHE", str(tmp_path / "cache"))
    for name, value in _storage_server.environment.items():
        monkeypatch.setenv(name, value)
    _storage_server.fresh()
    return _storage_server
