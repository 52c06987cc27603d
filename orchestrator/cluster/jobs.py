"""A command as a job on a Ray cluster: check it here, send it with hilum's code, follow its log.

In: the words of a hilum command and the address of a cluster's dashboard. Out: a job, its log, its exit code. Called by
`hilum submit`, `jobs`, `logs` and `stop`. The job runs on the head, so it goes on when this process ends.
"""

import asyncio
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.code_package import FINDINGS
from orchestrator.training.ray_session import SETTINGS
from pathologies.errors import InputError

DASHBOARD = "http://127.0.0.1:8265"
POLL_SECONDS = 0.3
AGENT_SECONDS = 90  # that a cluster may need after its start until it takes jobs
RETRY_SECONDS = 2
LOST_SECONDS = 600  # without an answer, until a job is no longer followed
LONGEST_PAUSE = 20  # seconds between two tries
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
NOT_AS_A_JOB = ("submit", "jobs", "logs", "stop")
LOCAL_DIR = "local-dir:"  # a backbone that timm reads from a folder


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    words: tuple[str, ...]  # a hilum command, without `hilum`
    archive: Path  # the packed code
    python: str = "python"  # the interpreter on the head
    environment: dict[str, str] = field(default_factory=dict)


def connect(address: str | None) -> Any:
    """Ray's client at `address`, else RAY_API_SERVER_ADDRESS, else this machine's dashboard."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray.job_submission import JobSubmissionClient

    wanted = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DASHBOARD
    if not wanted.startswith(("http://", "https://")):
        raise InputError(
            f"--address {wanted!r} is not a dashboard's address. Give http://HOST:8265, for example {DASHBOARD} "
            "through `ray dashboard ray_cluster.yaml` or `ssh -L 8265:127.0.0.1:8265 HEAD`."
        )
    try:
        return JobSubmissionClient(wanted)
    except ConnectionError as error:
        raise InputError(
            f"No Ray dashboard answers at {wanted}. Start the cluster (`ray up ray_cluster.yaml`), or forward the "
            f"port (`ray dashboard ray_cluster.yaml`), or correct --address. ({error})"
        ) from error
    except RuntimeError as error:
        if "ray[default]" in str(error):
            raise InputError(
                "Jobs need Ray's dashboard client: pip install 'ray[default]', here and on the head."
            ) from error
        raise InputError(f"The Ray dashboard at {wanted} refused the connection: {error}") from error


def checked_words(words: Sequence[str], commands: Mapping[str, Any]) -> tuple[list[str], Path | None]:
    """The words as the cluster will read them, and the folder of findings that travels with them.

    commands: click's, by name, as the command line has them. Any other relative path is refused: nothing of this folder
    is sent. Errors: also those of the command line itself, here rather than after the upload.
    """
    if not words or words[0] not in commands or words[0] in NOT_AS_A_JOB:
        allowed = ", ".join(name for name in commands if name not in NOT_AS_A_JOB)
        got = " ".join(words[:1]) or "nothing"
        raise InputError(f"hilum submit -- COMMAND ...: {got} is no command for a cluster. Known: {allowed}")
    given = commands[words[0]].make_context(words[0], list(words[1:])).params
    findings = given.pop("findings", None)
    staying = sorted({path for name, value in given.items() for path in _paths(name, value) if _is_relative(path)})
    if staying:
        absolute = ", ".join(str(Path(path).absolute()) for path in staying)
        raise InputError(
            f"Files of this folder are not sent with a job, so {', '.join(staying)} would mean nothing there. Give "
            f"absolute paths that every node sees, or URIs; from here they would be {absolute}."
        )
    if findings is None or not _is_relative(str(findings)):
        return list(words), None
    return _with_findings(words), Path(findings)


def _paths(name: str, value: Any) -> list[str]:
    """The paths that a parameter of a command gives, in whatever form."""
    values = value if isinstance(value, list | tuple) else [value]
    found = [str(one) for one in values if isinstance(one, Path)]
    if name == "inputs":  # of predict: films, folders and globs
        return [str(one) for one in values]
    for word in values if name in ("set_", "option") else ():
        setting, _, text = word.partition("=")
        if (
            setting in ("init", "pretrained")
            and text.lower() not in ("", "true", "false")
            or (name == "option" and Path(text).exists())
        ):
            found.append(text)
        if setting == "backbone" and text.startswith(LOCAL_DIR):
            found.append(text.removeprefix(LOCAL_DIR))
    return found


def _is_relative(path: str) -> bool:
    return not (os.path.isabs(path) or "://" in path or ":/" in path)


def _with_findings(words: Sequence[str]) -> list[str]:
    """The same words with the folder of findings as the job finds it."""
    option, before = "--findings", ["", *words[:-1]]
    return [
        FINDINGS if last == option else f"{option}={FINDINGS}" if word.startswith(f"{option}=") else word
        for last, word in zip(before, words, strict=True)
    ]


def submit(client: Any, request: SubmitRequest) -> str:
    """Upload (once for the same files) and start; returns the job's id."""
    words = [request.python, "-m", "orchestrator.cli", *request.words]
    job = f"hilum-{request.words[0]}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid() % 10000:04d}"
    deadline, lost = time.monotonic() + AGENT_SECONDS, False
    while True:
        try:
            return client.submit_job(
                entrypoint=f"exec {shlex.join(words)}",  # no shell in between, so that a stop reaches the command
                submission_id=job,
                runtime_env={"working_dir": str(request.archive), "env_vars": request.environment},
                metadata={"hilum": shlex.join(request.words)},
            )
        except (OSError, RuntimeError) as error:
            if lost and f"{job} already exists" in str(error):  # it was taken, and the answer was lost
                return job
            lost = lost or isinstance(error, OSError)
            # a cluster that has just started answers before the agents that take jobs are up: error 500, "try again"
            if not is_lost(error) or time.monotonic() > deadline:
                raise InputError(f"The cluster does not take the job: {str(error)[:300]}{_hint(error)}") from error
            time.sleep(RETRY_SECONDS)


def _hint(error: Exception) -> str:
    if "No available agent" not in str(error):
        return ""
    return (
        " The head's agent does not serve: another process may hold its port. Read dashboard_agent.log on the head, or "
        "start the head with --dashboard-agent-listen-port=PORT."
    )


def is_lost(error: Exception) -> bool:
    """Whether the way to the cluster failed, or the cluster for the moment; an answer such as 404 is not that."""
    if isinstance(error, RuntimeError):  # Ray's client puts everything into this class
        return "status code 5" in str(error) or "WebSocket" in str(error)
    # of `requests`, all are OSErrors; of `aiohttp`, not those of a server that went away in the middle of an answer
    return isinstance(error, OSError) or type(error).__module__.startswith("aiohttp.")


class Log:
    """A job's log on its way: every connection gets all of it again, and each character is passed on once."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write, self.seen = write, 0

    def take(self, text: str, at: int = 0) -> int:
        """`text` begins at character `at` of the log; returns where it ends."""
        end = at + len(text)
        if end > self.seen:
            self.write(text[self.seen - end :])
            self.seen = end
        return end


def follow(client: Any, job: str, write: Callable[[str], None], tell: Callable[[str], None] = lambda text: None) -> int:
    """Pass the log on until the job has ended; returns its exit code.

    A lost connection is taken up again where the log was; for LOST_SECONDS in a row, and `tell` hears of it.
    Errors: InputError after that, and for a job that the cluster no longer knows.
    """
    log, failures, since = Log(write), 0, 0.0
    while True:
        try:
            ended = (
                str(client.get_job_status(job).value) in ENDED
            )  # asked first: what it wrote last is in the log below
            if failures > 1:
                tell(f"The cluster answers again; {job} is followed on.")
            failures = 0
            if ended:
                log.take(client.get_job_logs(job))
                return exit_code(client, job)
            asyncio.run(_tail(client, job, log))
        except Exception as error:  # of three libraries, and without a common class
            since = since if failures else time.monotonic()
            failures += 1
            if not is_lost(error):
                raise InputError(f"The cluster does not tell of {job}: {str(error)[:300]}") from error
            if time.monotonic() - since > LOST_SECONDS:
                raise InputError(
                    f"The cluster has not answered for {LOST_SECONDS / 60:g} minutes ({str(error)[:200]}). That says "
                    f"nothing of the job: with the way to the cluster open again, `hilum logs {job}` follows it."
                ) from error
            if failures == 2:  # one that comes back at once is not worth a word
                tell(
                    f"The connection to the cluster is lost. {job} goes on there; trying again for up to "
                    f"{LOST_SECONDS / 60:g} minutes."
                )
        time.sleep(min(POLL_SECONDS * 2**failures, LONGEST_PAUSE))


async def _tail(client: Any, job: str, log: Log) -> None:
    """Follow the log to its end, or to that of the connection."""
    at = 0
    async for text in client.tail_job_logs(job):
        at = log.take(text, at)


def exit_code(client: Any, job: str) -> int:
    """The command's own; 1 where it has none because it never ran, 130 where it was stopped."""
    details = client.get_job_info(job)
    if details.driver_exit_code is not None:
        return int(details.driver_exit_code)
    return {"SUCCEEDED": 0, "STOPPED": 130}.get(str(details.status.value), 1)


def stop(client: Any, job: str, seconds: float = 30) -> str:
    """Ask the job to end and wait for it; returns its status."""
    require_job(client, job)
    client.stop_job(job)
    deadline = time.monotonic() + seconds
    while str(client.get_job_status(job).value) not in ENDED and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return str(client.get_job_status(job).value)


def require_job(client: Any, job: str) -> None:
    known = [one.submission_id for one in client.list_jobs() if one.submission_id]
    if job not in known:
        raise InputError(f"No job {job!r} there. Known: {', '.join(sorted(known)) or 'none'}")


def job_rows(client: Any) -> list[list[str]]:
    """id, status, exit code, started, minutes, command; newest first."""
    rows = []
    for one in sorted(client.list_jobs(), key=lambda job: job.start_time or 0, reverse=True):
        if not one.submission_id:  # a driver that somebody started without submitting it
            continue
        began = (one.start_time or 0) / 1000
        ended = one.end_time / 1000 if one.end_time else time.time()
        command = (one.metadata or {}).get("hilum") or one.entrypoint
        code = "" if one.driver_exit_code is None else str(one.driver_exit_code)
        start = datetime.fromtimestamp(began, UTC).isoformat(" ", "seconds").removesuffix("+00:00") if began else ""
        minutes = f"{(ended - began) / 60:.1f}" if began else ""
        rows.append([one.submission_id, str(one.status.value).lower(), code, start, minutes, command])
    return rows
