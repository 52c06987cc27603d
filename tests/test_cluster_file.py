"""`ray_cluster.yaml` against Ray's own schema, offline."""

import pytest
import yaml

from orchestrator.code_package import BESIDE, PACKAGES
from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def cluster():
    return yaml.safe_load((PROJECT / "ray_cluster.yaml").read_text(encoding="utf-8"))


@pytest.mark.ray
def test_ray_accepts_the_cluster_file(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_the_head_trains_nothing_and_shows_its_dashboard_to_nobody(cluster):
    start = " ".join(cluster["head_start_ray_commands"])
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_asks_for_the_token(cluster, commands):
    start = " ".join(cluster[commands])
    assert "RAY_AUTH_MODE=token" in start
    assert "RAY_AUTH_TOKEN_PATH" in start


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "deploy/aws.yaml", "deploy/gcp.yaml"])
def test_no_file_of_the_folder_gets_to_another_machine_but_the_code(name):
    mounts = yaml.safe_load((PROJECT / name).read_text(encoding="utf-8"))["file_mounts"]
    token = mounts.pop("~/.ray/hilum_token")
    assert token == "~/.ray/hilum_token"
    assert set(mounts.values()) == {f"./{one}" for one in (*PACKAGES, *BESIDE, "Makefile")}
    assert all(there == f"~/hilum/{here.removeprefix('./')}" for there, here in mounts.items())
