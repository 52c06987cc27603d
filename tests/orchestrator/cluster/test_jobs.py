"""orchestrator/cluster/jobs.py, following a job: Ray's own client, and a way to the cluster that fails."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from orchestrator.cluster import jobs as submit

pytest.importorskip("aiohttp", reason="jobs need ray[default]")
LINES = "one\ntwo\nthree\nfour\n"


class Cluster:
    """A job server on loopback as Ray's client speaks to it: a job that writes LINES while its log is followed.

    Every failure that is planned happens once: `cut` ends a followed log after so many characters without a farewell,
    `away` drops so many requests, and `broken` answers so many with error 500.
    """

    def __init__(self) -> None:
        self.cut: list[int] = []
        self.away, self.broken = 0, 0
        self.status = "RUNNING"
        self.requests = 0

    async def answer(self, request):
        from aiohttp import web

        self.requests += 1
        if request.path == "/api/version":
            return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})
        if self.away:
            self.away -= 1
            request.transport.abort()
            return web.Response()
        if self.broken:
            self.broken -= 1
            return web.Response(status=500, text="No available agent")
        if request.path.endswith("/tail"):
            return await self.tail(request)
        if request.path.endswith("/logs"):
            return web.json_response({"logs": LINES})
        if not request.path.endswith("/job"):
            return web.Response(status=404, text="does not exist")
        details = {"type": "SUBMISSION", "submission_id": "job", "status": self.status, "entrypoint": "exec python"}
        return web.json_response(details | {"driver_exit_code": 3 if self.status == "FAILED" else None})

    async def tail(self, request):
        from aiohttp import web

        socket = web.WebSocketResponse()
        await socket.prepare(request)
        stop = self.cut.pop(0) if self.cut else None
        for start in range(0, len(LINES[:stop]), 3):
            await socket.send_str(LINES[:stop][start : start + 3])
        if stop is None:
            self.status = "FAILED"
            await socket.close()
        else:
            request.transport.abort()
        return socket


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Cluster]:
    from aiohttp import web

    monkeypatch.setattr(submit, "POLL_SECONDS", 0.01)
    one, loop, ready = Cluster(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", one.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        one.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(serve()), loop.run_forever()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield one
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def follow(cluster, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    log, told = [], []
    client = submit.connect(cluster.address)
    return lambda job="job": (submit.follow(client, job, log.append, told.append), "".join(log), told)


@pytest.mark.parametrize("cut", [[], [5], [9, 2, 14]])
def test_a_log_that_is_cut_goes_on_where_it_was(cluster, follow, cut):
    cluster.cut = cut
    assert follow() == (3, LINES, [])


@pytest.mark.parametrize("failure", [{"away": 1}, {"away": 5, "cut": [7]}, {"broken": 4, "cut": [0, 3]}])
def test_a_cluster_that_does_not_answer_for_a_while_is_waited_for_with_a_word(cluster, follow, failure):
    for name, value in failure.items():
        setattr(cluster, name, value)
    code, log, told = follow()
    assert (code, log) == (3, LINES)
    assert len(told) == (0 if failure == {"away": 1} else 2)
    assert all("job goes on there; trying again for up to 10 minutes" in line for line in told[:1])
    assert all("answers again" in line for line in told[1:])


def test_what_it_said_last_is_not_lost_with_the_answer_about_its_end(cluster, follow):
    cluster.status, cluster.away = "FAILED", 3
    assert follow()[:2] == (3, LINES)


def test_a_cluster_that_stays_away_is_a_sentence_that_says_nothing_of_the_job(cluster, follow, monkeypatch):
    monkeypatch.setattr(submit, "LOST_SECONDS", 0.2)
    cluster.away = 10**6
    with pytest.raises(ValueError, match=r"has not answered for .* minutes .*`hilum logs job` follows it"):
        follow()
    assert cluster.requests < 20, "the pauses grow"


def test_a_job_that_the_cluster_does_not_know_is_not_waited_for(cluster, follow):
    with pytest.raises(ValueError, match="does not tell of other.*404"):
        follow("other")


def test_a_job_whose_acceptance_was_lost_is_not_sent_twice(tmp_path, monkeypatch):
    """The client's request arrives, the answer does not; the same id is refused the second time."""
    monkeypatch.setattr(submit, "RETRY_SECONDS", 0)
    taken = []

    class Losing:
        def submit_job(self, submission_id, **job):
            taken.append(submission_id)
            if len(taken) == 1:
                raise ConnectionResetError("Connection reset by peer")
            raise RuntimeError(f"status code 500: Job with submission_id {submission_id} already exists. Please")

    request = submit.SubmitRequest(words=("doctor",), archive=tmp_path / "checkout.zip")
    assert submit.submit(Losing(), request) == taken[0] == taken[1]
