"""orchestrator/code_package.py and submit.py: what travels, which words are sent, and a real cluster of two
raylets.
"""

import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
import types
import zipfile
from pathlib import Path

import pytest
import typer

from orchestrator.cli.app import app
from orchestrator.cluster import jobs as submit
from orchestrator.code_package import BESIDE, DATA, pack, package_lines, survey
from orchestrator.training import ray_session
from orchestrator.training.private_ray import private_ray
from tests.conftest import PROJECT
from tests.processes import hilum_words, quiet_environment, wait_for
from tests.proxy import Proxy

# -- packing


def write(root, *names: str, text: str = "x"):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def checkout(tmp_path):
    """A checkout in which somebody has worked: data and secrets of every kind lie about, and one inside a package."""
    root = tmp_path / "checkout"
    write(root, *CODE, *BESIDE)
    write(root, "predictions.csv", "nih-test/findings.csv", "Data_Entry_2017.csv", ".env", "images/0001.png", "key.pem",
          ".git/objects/1", ".venv/bin/python", "data/a.jpg", "runs/1/plan.json", "docs/page.md", "bench/peers.py",
          "mine/mine.toml", "mine/patients.csv")  # fmt: skip
    write(root, "models/token.txt", "models/.env", "models/films/1.png", "models/films/load.py", "orchestrator/a.toml",
          "models/__pycache__/job.pyc")  # fmt: skip
    (root / "models" / "passwords.py").symlink_to(root / ".env")
    return root


CODE = ("models/process/__init__.py", "models/process/job.py", "orchestrator/cli/__init__.py",
        "orchestrator/cli/app.py", "pathologies/findings/__init__.py", "pathologies/findings/edema.toml")  # fmt: skip


def test_nothing_but_the_code_travels(checkout, tmp_path):
    package = survey(checkout)
    pack(package, tmp_path / "checkout.zip")
    with zipfile.ZipFile(tmp_path / "checkout.zip") as archive:
        assert sorted(archive.namelist()) == sorted([*CODE, *BESIDE])
        assert archive.read("models/process/job.py") == b"x"
    assert package.left_out == {
        "models/.env": "neither code nor package data", "models/films": "a folder", "models/passwords.py": "a link",
        "models/token.txt": "neither code nor package data", "orchestrator/a.toml": "neither code nor package data",
    }  # fmt: skip


def test_finding_files_travel_when_they_are_named_and_what_lies_beside_them_does_not(checkout, tmp_path):
    (tmp_path / "own").mkdir()
    text = (PROJECT / "pathologies" / "findings" / "edema.toml").read_text(encoding="utf-8")
    text = text.replace('"Edema"', '"Own edema"').replace('"pulmonary edema"', '"own edema"')
    write(tmp_path / "own", "own_edema.toml", text=text)
    write(tmp_path / "own", "patients.csv", ".env", "deep/x.toml")
    package = survey(checkout, tmp_path / "own")
    assert set(package.files) == {*CODE, *BESIDE, "findings/own_edema.toml"}
    assert package.files["findings/own_edema.toml"] == tmp_path / "own" / "own_edema.toml"
    write(tmp_path / "own", "settings.toml", text='password = "x"')
    with pytest.raises(ValueError, match="settings.toml"):  # no finding: it does not travel under that name
        survey(checkout, tmp_path / "own")


def test_what_is_sent_is_said_before_it_is_sent(checkout):
    said = "\n".join(package_lines(survey(checkout), 1000))
    assert "models: 2 .py; orchestrator: 2 .py; pathologies: 1 .py, 1 .toml" in said
    assert all(name in said for name in BESIDE)
    assert "Not sent: models/token.txt (neither code nor package data)" in said
    assert f"Upload: {len(CODE) + len(BESIDE)} files, " in said


def test_the_same_files_give_the_same_bytes(checkout, tmp_path):
    archives = [tmp_path / "a.zip", tmp_path / "b.zip"]
    sizes = [pack(survey(checkout), archive) for archive in archives]
    assert sizes == [archive.stat().st_size for archive in archives]
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_an_installed_hilum_sends_its_packages_alone(checkout):
    for name in BESIDE:
        (checkout / name).unlink()
    assert set(survey(checkout).files) == set(CODE)


def test_a_folder_without_the_packages_is_a_sentence(checkout):
    shutil.rmtree(checkout / "orchestrator")
    with pytest.raises(ValueError, match="does not hold hilum's packages"):
        survey(checkout)


def test_what_travels_is_what_is_installed():
    """A new kind of package data has to be named in both places."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    data = settings["package-data"]
    assert {name.replace("/", "."): [f"*{kind}"] for name, kind in DATA.items()} == data
    sent = {Path(name).parent.as_posix().replace("/", ".") for name in survey(PROJECT).files if name.endswith(".py")}
    assert sent == set(settings["packages"])
    package = survey(PROJECT)
    assert {"orchestrator/cli/app.py", "models/process/job.py", "pathologies/findings/edema.toml", *BESIDE} <= set(
        package.files
    )
    assert package.size < 5 * 2**20


def test_rays_own_upload_of_the_checkout_leaves_the_same_behind(checkout):
    """`ray job submit --working-dir .` by hand, which reads .rayignore with Ray's own matcher."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    shutil.copy(PROJECT / ".rayignore", checkout)
    hides = get_excludes_from_ignore_files(checkout, include_gitignore=True)
    hidden = {path for path in checkout.rglob("*") if any(one(path) for one in hides)}
    left = [path.relative_to(checkout).as_posix() for path in checkout.rglob("*")
            if path.is_file() and not hidden & {path, *path.parents}]  # fmt: skip
    assert {*CODE, *BESIDE} <= set(left)
    assert not set(left) - {*CODE, *BESIDE, "models/passwords.py"}


def test_a_driver_sends_the_code_along_unless_its_job_has_brought_it(monkeypatch, tmp_path):
    monkeypatch.delenv(ray_session.JOB_MARK, raising=False)
    sent = ray_session._code(tmp_path)["runtime_env"]["working_dir"]
    with zipfile.ZipFile(sent) as archive:
        assert set(archive.namelist()) == set(survey(PROJECT).files)
    monkeypatch.setenv(ray_session.JOB_MARK, "{}")
    assert ray_session._code(tmp_path) == {}


# -- words


def checked_words(words):
    """As `hilum submit` has them checked, against all commands."""
    return submit.checked_words(words, typer.main.get_command(app).commands)


def test_a_command_without_relative_paths_goes_as_it_is():
    words = ["train", "/shared/data", "--out=s3://bucket/run", "--set", "epochs=3", "--set", "pretrained=true",
             "--targets", "edema", "--set", "init=/shared/run/edema"]  # fmt: skip
    assert checked_words(words) == (words, None)


def test_a_folder_of_findings_is_taken_along_and_named_as_it_is_called_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    words = ["train", "/data", "--out", "/run", "--targets", "own"]
    checked, findings = checked_words([*words, "--findings", "own"])
    assert (checked, findings) == ([*words, "--findings", "findings"], Path("own"))
    assert checked_words([*words, "--findings=own/"]) == ([*words, "--findings=findings"], Path("own"))
    assert checked_words([*words, "--findings", "/there"]) == ([*words, "--findings", "/there"], None)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "data", "--out", "/run"], "data"),
        (["train", "/data", "--out=../run"], "../run"),
        (["predict", "/bundle", "films/*.png", "--out", "/p.csv"], "films/*.png"),
        (["predict", "/bundle", "/films"], "predictions.csv"),  # where it writes by itself
        (["demo"], "demo"),
        (["train", "/data", "--out", "/run", "--set", "init=run/edema"], "run/edema"),
        (["train", "/data", "--out", "/run", "--set", "pretrained=w.pth"], "w.pth"),
        (["train", "/data", "--out", "/run", "--set", "backbone=local-dir:net"], "net"),
        (["prepare", "table", "--labels", "/l.csv", "--images", "/i", "--out", "/o", "--option", "mapping=m.toml"],
         "m.toml"),
    ],
)  # fmt: skip
def test_a_relative_path_that_does_not_travel_is_refused(words, named, tmp_path, monkeypatch):
    write(tmp_path, "m.toml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"not sent.*{re.escape(named)}.*absolute") as told:
        checked_words(words)
    assert str(Path(named).absolute()) in str(told.value)


@pytest.mark.parametrize("words", [[], ["tarin", "data"], ["submit", "--", "train"], ["--out", "x"]])
def test_what_is_no_command_for_a_cluster_is_refused_before_anything_is_sent(words):
    with pytest.raises(ValueError, match=r"no command for a cluster. Known: .*train"):
        checked_words(words)


def test_a_mistake_in_the_command_is_found_here(tmp_path):
    words = [*hilum_words(), "submit", "--", "train", "/data", "--out", "/run", "--epochs", "3"]
    done = subprocess.run(words, cwd=PROJECT, env=quiet_environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert "Upload" not in done.stderr


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "auto", "ray://10.0.0.1:10001"])
def test_an_address_that_is_no_dashboard_is_a_sentence(address):
    with pytest.raises(ValueError, match="http://HOST:8265"):
        submit.connect(address)


# -- following, with a stand-in for Ray's client


class FakeClient:
    """A job that writes `log` and ends with `code`; the first connections break after some characters."""

    def __init__(self, log: str, code: int | None, status: str = "SUCCEEDED", breaks: tuple[int, ...] = ()) -> None:
        self.log, self.code, self.end, self.breaks = log, code, status, list(breaks)
        self.status = "RUNNING"

    def get_job_status(self, job):
        return types.SimpleNamespace(value=self.status)

    def get_job_info(self, job):
        return types.SimpleNamespace(driver_exit_code=self.code, status=types.SimpleNamespace(value=self.status))

    def get_job_logs(self, job):
        return self.log

    async def tail_job_logs(self, job):
        stop = self.breaks.pop(0) if self.breaks else None
        for start in range(0, len(self.log[:stop]), 4):
            yield self.log[:stop][start : start + 4]
        if stop is not None:
            raise RuntimeError("WebSocket connection closed")
        self.status = self.end


@pytest.mark.parametrize("breaks", [(), (3,), (9, 2, 14)])
def test_every_character_of_the_log_comes_once_though_the_connection_breaks(breaks, monkeypatch):
    monkeypatch.setattr(submit, "POLL_SECONDS", 0)
    said = []
    code = submit.follow(FakeClient("one\ntwo\nthree\n", 0, breaks=breaks), "job", said.append)
    assert ("".join(said), code) == ("one\ntwo\nthree\n", 0)


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [(3, "FAILED", 3), (None, "FAILED", 1), (None, "STOPPED", 130), (0, "SUCCEEDED", 0)],
)
def test_the_exit_code_is_the_commands(code, status, expected):
    client = FakeClient("", code, status)
    client.status = status
    assert submit.exit_code(client, "job") == expected


class SlowClient:
    """A cluster that has just started: it refuses the first jobs."""

    def __init__(self, refusals: int, message: str = "Request failed with status code 500: try again later.") -> None:
        self.refusals, self.message = refusals, message

    def submit_job(self, **job):
        self.refusals -= 1
        if self.refusals >= 0:
            raise RuntimeError(self.message)
        return job["submission_id"]


def test_a_cluster_that_is_still_starting_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "RETRY_SECONDS", 0)
    request = submit.SubmitRequest(words=("doctor",), archive=tmp_path / "package.zip")
    assert submit.submit(SlowClient(3), request).startswith("hilum-doctor-")
    with pytest.raises(ValueError, match="does not take the job"):
        submit.submit(SlowClient(1, "Request failed with status code 403: not allowed"), request)
    monkeypatch.setattr(submit, "AGENT_SECONDS", -1)
    with pytest.raises(ValueError, match="does not take the job"):
        submit.submit(SlowClient(1), request)
    with pytest.raises(ValueError, match="--dashboard-agent-listen-port"):
        submit.submit(SlowClient(1, "status code 500: No available agent to submit job"), request)


# -- a real cluster


@pytest.fixture(scope="module")
def raylets():
    """Two on loopback, the head without CPUs for trainings, and a dashboard."""
    pytest.importorskip("aiohttp", reason="jobs need ray[default]")
    import socket

    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, private_ray():
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        small = {"object_store_memory": 80 * 2**20}
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port} | small
        # The fixed default port may be held by any connection, and the agent would live on without taking jobs.
        head |= {"dashboard_agent_listen_port": 0}
        two = Cluster(initialize_head=True, head_node_args=head)
        try:
            # On one machine two raylets share a folder, and the second would unpack a job over the first's head.
            two.add_node(num_cpus=1, runtime_env_dir_name="resources2", **small)
            yield two
        finally:
            two.shutdown()


@pytest.fixture
def dashboard(raylets):
    return f"http://{raylets.webui_url}"


@pytest.mark.ray
def test_a_driver_that_connects_ships_the_same_files(raylets):
    code = """
import os, sys
from orchestrator.training.ray_session import connected
with connected(sys.argv[1]) as ray:
    look = ray.remote(lambda: [os.path.join(at, name)[2:] for at, _, names in os.walk(".") for name in names])
    print(*ray.get(look.remote()), sep="\\n")
"""
    words = [sys.executable, "-c", code, raylets.address]
    done = subprocess.run(words, cwd=PROJECT, env=quiet_environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    there = {name for name in done.stdout.split() if "__pycache__" not in name}
    assert there == set(survey(PROJECT).files)


@pytest.mark.ray
def test_a_job_on_two_raylets(dashboard, tmp_path):
    """One that succeeds and one that fails, side by side; then the list, the log again, and one that is stopped."""
    words = [*hilum_words(), "submit", "--address", dashboard, "--python", sys.executable, "--", "doctor", "--out"]
    places = [[str(tmp_path / "run")], [str(tmp_path / "other"), "--set", "threads=64"]]
    running = [
        subprocess.Popen([*words, *place], cwd=PROJECT, env=quiet_environment(), stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for place in places
    ]  # fmt: skip
    (log, notes), (other_log, other_notes) = [one.communicate(timeout=240) for one in running]
    assert [one.returncode for one in running] == [0, 1], notes + log + other_notes + other_log
    assert "2 answer" in log
    assert "written and read from every node" in log
    assert "problem  requests" in other_log
    assert "Sent: models: " in notes
    assert "Upload: " in notes

    client = submit.connect(dashboard)
    rows = submit.job_rows(client)
    assert sorted(row[2] for row in rows) == ["0", "1"]
    assert all(row[0].startswith("hilum-doctor-") and row[5].startswith("doctor --out") for row in rows)
    again = []
    assert submit.follow(client, next(row[0] for row in rows if row[2] == "0"), again.append) == 0
    assert "2 answer" in "".join(again)
    with pytest.raises(ValueError, match="No job 'nobody' there. Known: hilum-doctor-"):
        submit.stop(client, "nobody")

    archive = tmp_path / "checkout.zip"
    pack(survey(PROJECT), archive)
    request = submit.SubmitRequest(words=("doctor",), archive=archive, python=sys.executable)
    job = submit.submit(client, request)
    wait_for(lambda: client.get_job_status(job).value in ("RUNNING", *submit.ENDED))
    assert submit.stop(client, job) in ("STOPPED", "SUCCEEDED")


@pytest.mark.ray
def test_a_job_is_followed_on_though_the_way_to_the_real_job_server_is_cut(dashboard, monkeypatch):
    code = "import sys, time\nfor i in range(12): print('line', i, flush=True); time.sleep(0.5)\nsys.exit(7)"
    way = Proxy(int(dashboard.rsplit(":", 1)[1]))
    client = submit.connect(f"http://127.0.0.1:{way.port}")
    job = client.submit_job(entrypoint=f"exec {sys.executable} -c {shlex.quote(code)}")
    log, told = [], []

    def write(text):
        log.append(text)
        if "line 3" in text:
            way.cut()
            threading.Timer(2, way.mend).start()

    try:
        assert submit.follow(client, job, write, told.append) == 7
    finally:
        way.close()
    assert re.findall(r"line (\d+)", "".join(log)) == [str(number) for number in range(12)]
    assert len(told) == 2
    assert "lost" in told[0]
