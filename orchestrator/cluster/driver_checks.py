"""What the doctor checks on the machine that it is called on: the upload, and who may use Ray.

In: the cluster's address and the connected Ray, the environment. Out: checks. Called by the doctor.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from orchestrator.cluster.checks import Check
from orchestrator.code_package import survey
from orchestrator.ray_address import own_cluster
from orchestrator.training import socket_probe

DEFAULT_TOKEN = Path.home() / ".ray" / "auth_token"  # where Ray looks for that of a cluster


def judge_connection(address: str | None, ray: ModuleType) -> list[Check]:
    """The upload, and who may use this Ray: clients without its token try to."""
    head = ray.get_runtime_context().gcs_address
    if own_cluster(address):
        sockets = socket_probe.listeners(socket_probe.process_tree(os.getpid()))
        return [
            _upload(),
            judge_reach(sockets, {how: socket_probe.try_client(head, how) for how in socket_probe.STRANGERS}),
        ]
    return [_upload(), judge_token(socket_probe.try_client(head, socket_probe.WITHOUT_TOKEN))]


def judge_reach(sockets: list[socket_probe.Listener], outcomes: Mapping[str, str]) -> Check:
    """Of a Ray on this machine, from where its processes listen and what happened to each kind of client."""
    beyond = [one for one in sockets if not one.on_loopback]
    where = ", ".join(f"{one.process} on {one.address}:{one.port}" for one in beyond) or "all on loopback"
    clients = "; ".join(f"a client {how}: {outcome}" for how, outcome in outcomes.items())
    found = f"measured: {len(sockets)} listening sockets, {where}; {clients}"
    if socket_probe.LET_IN in outcomes.values():
        advice = "Who reaches these ports may run anything here. Take the version of Ray in constraints.txt."
        return Check(what="access", level="problem", found=found, advice=advice)
    if beyond or not sockets or set(outcomes.values()) != {socket_probe.REFUSED}:
        advice = "Expected were sockets on loopback alone and refusals. Take the version of Ray in constraints.txt."
        return Check(what="access", level="warning", found=found, advice=advice)
    return Check(what="access", level="ok", found=found)


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


def judge_token(outcome: str) -> Check:
    """Of a cluster, from what happened to a client without a token and from what stands here."""
    mode, path = os.environ.get("RAY_AUTH_MODE", ""), Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or DEFAULT_TOKEN)
    measured = f"a client without a token: {outcome}"
    rights = stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0
    if rights & 0o077:
        advice = f"Others can read it: chmod 600 {path}, and make a new one if the machine is shared."
        return Check(what="token", level="problem", found=f"{path} has rights {rights:o}; {measured}", advice=advice)
    if outcome == socket_probe.LET_IN:
        advice = (
            "Who reaches the ports of this cluster may run anything there. Set RAY_AUTH_MODE=token on every node and "
            "here, or keep the cluster in a closed network."
        )
        found = f"RAY_AUTH_MODE={mode or 'not set'}; measured: {measured}"
        return Check(what="token", level="warning", found=found, advice=advice)
    if mode == "token" and not path.is_file() and not os.environ.get("RAY_AUTH_TOKEN"):
        advice = f"openssl rand -hex 32 > {path} && chmod 600 {path}, the same on every node."
        return Check(what="token", level="problem", found=f"RAY_AUTH_MODE=token, but no {path}", advice=advice)
    level = "ok" if outcome == socket_probe.REFUSED else "warning"
    advice = "" if level == "ok" else "Whether the cluster asks for a token could not be measured from here."
    return Check(what="token", level=level, found=f"measured: {measured}", advice=advice)
