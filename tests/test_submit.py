"""orchestrator/packing.py and submit.py: what travels, which words are sent, and a real cluster of two raylets."""

import subprocess
import sys
import types
import zipfile

import pytest

from orchestrator import cluster, submit
from orchestrator.packing import pack, survey
from tests.conftest import PROJECT
from tests.processes import hilum_words, quiet_environment, wait_for

# -- packing


def write(root, *names: str, text: str = "x"):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    write(root, "pyproject.toml", "orchestrator/cli.py", "models/job.py", "docs/page.md")
    write(root, ".git/objects/1", ".venv/bin/python", "data/a.jpg", "runs/1/x", "models/__pycache__/job.pyc")
    write(root, "chest/images.u8", "chest/manifest.json", "first/plan.json", "first/edema/0/weights.safetensors")
    write(root, "notes/own.txt", "notes/keep.txt", "deep/skip/big.bin")
    write(root, ".gitignore", text="*.txt\n!keep.txt\n")
    write(root, "deep/.rayignore", text="/skip/\n")
    return root


def test_code_travels_and_data_stays(checkout):
    package = survey(checkout)
    assert set(package.files) == {
        ".gitignore", "deep/.rayignore", "docs/page.md", "models/job.py", "notes/keep.txt", "orchestrator/cli.py",
        "pyproject.toml",
    }  # fmt: skip
    assert package.left_out == {
        ".git": "default", ".venv": "default", "data": "default", "runs": "default", "models/__pycache__": "default",
        "chest": "data set, run or bundle", "first": "data set, run or bundle", "notes/own.txt": ".gitignore",
        "deep/skip": ".rayignore",
    }  # fmt: skip


def test_the_same_files_give_the_same_bytes(checkout, tmp_path):
    archives = [tmp_path / "a.zip", tmp_path / "b.zip"]
    sizes = [pack(survey(checkout), archive) for archive in archives]
    assert sizes == [archive.stat().st_size for archive in archives]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as archive:
        assert set(archive.namelist()) == set(survey(checkout).files)
        assert archive.read("models/job.py") == b"x"


def test_over_the_limit_the_largest_files_are_named(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.packing.LIMIT_BYTES", 10)
    with pytest.raises(ValueError, match=r"would be .* MiB; at most .*rayignore"):
        pack(survey(checkout), tmp_path / "a.zip")


def test_an_installed_hilum_sends_its_packages_alone(checkout):
    (checkout / "pyproject.toml").unlink()
    assert set(survey(checkout).files) == {"orchestrator/cli.py", "models/job.py"}


def test_hidden_packages_are_noticed(checkout):
    write(checkout, ".rayignore", text="/orchestrator/\n")
    with pytest.raises(ValueError, match="does not hold hilum's packages"):
        survey(checkout)


def test_this_checkout_is_small():
    package = survey(PROJECT)
    assert package.size < 50 * 2**20
    assert {"orchestrator/cli.py", "models/job.py", "pathologies/edema.toml"} <= set(package.files)


def test_a_driver_sends_the_checkout_along_unless_its_job_has_brought_it(monkeypatch):
    monkeypatch.delenv(cluster.JOB_MARK, raising=False)
    sent = cluster._code()["runtime_env"]
    assert sent["working_dir"] == str(PROJECT)
    assert {".git", ".venv", "/data", "/runs"} <= set(sent["excludes"])
    monkeypatch.setenv(cluster.JOB_MARK, "{}")
    assert cluster._code() == {}


# -- words


def test_relative_paths_become_absolute_unless_they_travel_along(tmp_path, monkeypatch):
    package = survey(PROJECT)
    words = ["train", "data", "--out=../run", "--findings", "pathologies", "--set", "epochs=3", "--targets", "edema"]
    monkeypatch.chdir(PROJECT)
    checked, moved = submit.checked_words(words, package)
    assert checked == ["train", str(PROJECT / "data"), f"--out={PROJECT.parent / 'run'}", "--findings", "pathologies",
                       "--set", "epochs=3", "--targets", "edema"]  # fmt: skip
    assert moved == ["../run", "data"]
    monkeypatch.chdir(tmp_path)
    assert submit.checked_words(["train", "/data", "--out", "pathologies"], package)[0][-1] == f"{tmp_path}/pathologies"


@pytest.mark.parametrize("words", [[], ["tarin", "data"], ["submit", "--", "train"], ["--out", "x"]])
def test_what_is_no_command_for_a_cluster_is_refused_before_anything_is_sent(words):
    with pytest.raises(ValueError, match=r"no command for a cluster. Known: .*train"):
        submit.checked_words(words, survey(PROJECT))


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
def dashboard():
    """Two raylets on loopback, the head without CPUs for trainings, and a dashboard."""
    pytest.importorskip("aiohttp", reason="jobs need ray[default]")
    import socket

    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
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
            yield f"http://{two.webui_url}"
        finally:
            two.shutdown()


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
    assert "Left out (default): " in notes
    assert ".git" in notes
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
