"""What the doctor checks on the machine that it is called on: the upload, and who may use the cluster.

In: the cluster's address, the environment. Out: checks. Called by the doctor.
"""

import os
import stat
from pathlib import Path

from orchestrator.cluster import own_cluster
from orchestrator.packing import survey
from orchestrator.verdicts import Check


def judge_connection(address: str | None) -> list[Check]:
    """What stands on this machine: the upload, and who may use the cluster."""
    return [_upload(), _token(remote=not own_cluster(address))]


def _upload() -> Check:
    try:
        package = survey()
    except ValueError as error:
        return Check(what="upload", level="problem", found=str(error), advice="Start hilum from a whole checkout.")
    behind = ", ".join(f"{name} ({reason})" for name, reason in package.left_out.items())
    return Check(
        what="upload",
        level="warning" if behind else "ok",
        found=f"{len(package.files)} files, {package.size / 2**20:.1f} MiB",
        advice=f"Not sent to a cluster, though it lies in a package's folder: {behind}." if behind else "",
    )


def _token(remote: bool) -> Check:
    mode = os.environ.get("RAY_AUTH_MODE", "disabled" if not remote else "")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.is_file():
        rights = stat.S_IMODE(path.stat().st_mode)
        if rights & 0o077:
            return Check(
                what="token",
                level="problem" if remote else "warning",
                found=f"{path} has rights {rights:o}",
                advice=f"Others can read it: chmod 600 {path}, and make a new one if the machine is shared.",
            )
    if mode == "token":
        if not path.is_file() and not os.environ.get("RAY_AUTH_TOKEN"):
            return Check(
                what="token",
                level="problem",
                found=f"RAY_AUTH_MODE=token, but no {path}",
                advice=f"openssl rand -hex 32 > {path} && chmod 600 {path}, the same on every node.",
            )
        return Check(what="token", level="ok", found=f"asked for, in {path}")
    if remote:
        return Check(
            what="token",
            level="warning",
            found=f"RAY_AUTH_MODE={mode or 'not set'}",
            advice="Who reaches the ports of this cluster may run anything there. Set RAY_AUTH_MODE=token on "
            "every node and here, or keep the cluster in a closed network.",
        )
    return Check(what="token", level="ok", found="not needed: Ray on this machine only")
