"""The files under deploy/, offline: Ray's own schema, bash, the keys that KubeRay needs."""

import subprocess

import pytest
import yaml

from tests.conftest import PROJECT

DEPLOY = PROJECT / "deploy"
LAUNCHER = ("aws.yaml", "gcp.yaml")


def load(name: str) -> dict:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


@pytest.mark.ray
@pytest.mark.parametrize("name", LAUNCHER)
def test_ray_accepts_the_cloud_files(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load(name))
    validate_config(config)
    assert set(config["available_node_types"]) == {"head", "gpu"}


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_head_trains_nothing_and_workers_are_spot_machines_with_a_gpu(name):
    cluster = load(name)
    kinds = cluster["available_node_types"]
    assert kinds["head"]["resources"]["CPU"] == 0
    assert kinds["gpu"]["resources"]["GPU"] >= 1
    node = kinds["gpu"]["node_config"]
    assert "spot" in (str(node.get("InstanceMarketOptions")) + str(node.get("scheduling"))).lower()
    assert cluster["max_workers"] >= kinds["gpu"]["max_workers"] > kinds["gpu"]["min_workers"] == 0


@pytest.mark.parametrize("name", LAUNCHER)
@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_cloud_node_asks_for_the_token_and_finds_our_python(name, commands):
    start = " ".join(load(name)[commands])
    assert "RAY_AUTH_MODE=token" in start
    assert "RAY_AUTH_TOKEN_PATH=$HOME/.ray/hilum_token" in start
    assert "PATH=$HOME/hilum/.venv/bin:$PATH" in start
    assert "--dashboard-host=0.0.0.0" not in start
    assert ("--dashboard-host=127.0.0.1" in start) == (commands == "head_start_ray_commands")


def test_bash_reads_the_slurm_script():
    done = subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sh")], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


def fake_slurm(folder, command: str):
    """`srun` and `scontrol` that do what Slurm would for one node; `ray` that shows its words and runs `command`."""
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    scripts = {"scontrol": "echo node1; echo node2", "srun": 'shift; exec "$@"', "ray": f'echo "$@"; {command}'}
    for name, text in scripts.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n", encoding="ascii")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "8",
            "SLURM_GPUS_ON_NODE": "2"}  # fmt: skip


@pytest.mark.parametrize("code", [0, 3])
def test_the_slurm_script_starts_ray_on_all_nodes_and_returns_the_exit_code(tmp_path, code):
    import sys

    environment = fake_slurm(tmp_path, f'stat -c %a "$RAY_AUTH_TOKEN_PATH"; exit {code}')
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    words = ["bash", str(DEPLOY / "slurm.sh"), "train", "/shared/data", "--out", "/shared/run"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == code, done.stderr
    said, rights = done.stdout.splitlines()
    assert said.startswith("symmetric-run --address node1:20007 --min-nodes 2 --num-cpus=8 --num-gpus=2")
    assert said.endswith("-- python -m orchestrator.cli train /shared/data --out /shared/run")
    assert rights == "600"
    assert not list(tmp_path.glob(".ray_token*"))


@pytest.mark.ray
def test_ray_knows_the_options_of_the_slurm_script():
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    words = [
        "--address",
        "node1:20007",
        "--min-nodes",
        "2",
        "--num-cpus=8",
        "--num-gpus=2",
        "--include-dashboard=false",
    ]
    kept = " ".join(curate_and_validate_ray_start_args(words))
    assert "--num-cpus=8" in kept
    assert "--num-gpus=2" in kept


def test_the_kuberay_job_has_what_kuberay_needs():
    job = load("kuberay_rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"].startswith("python -m orchestrator.cli train ")
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    pinned = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster['rayVersion']}" in [line.split("[")[0] + line.partition("]")[2] for line in pinned] + pinned
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for template in (cluster["headGroupSpec"]["template"], group["template"]):
        (container,) = template["spec"]["containers"]
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["resources"]["limits"] == container["resources"]["requests"]


def test_the_image_copies_what_is_installed():
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for name in ("pyproject.toml", "constraints.txt", "pathologies", "models", "orchestrator", "Makefile"):
        assert name in text
        assert (PROJECT / name).exists()
    assert "USER hilum" in text
