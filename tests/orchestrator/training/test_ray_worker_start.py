"""orchestrator/training/ray_worker_start.py: a worker begins as by Ray's own command, without a Ray imported on
the way.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.training import ray_worker_start
from orchestrator.training.ray_worker_start import CONTEXT, command

PROGRAM = ["/ray/default_worker.py", "--node-ip-address=127.0.0.1", "--worker-id=ab"]
PYTHON = ["--language=PYTHON"]


def words(**context):
    return [*PROGRAM, *PYTHON, CONTEXT + json.dumps(context)]


def test_variables_go_into_the_environment_and_the_rest_is_the_worker():
    variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    given = words(env_vars=variables, py_executable=sys.executable, command_prefix=[], override_worker_entrypoint=None)
    assert command(given) == ([sys.executable, *PROGRAM], variables)
    assert command([*PROGRAM, *PYTHON]) == ([sys.executable, *PROGRAM], {})


@pytest.mark.parametrize(
    "context",
    [
        {"py_executable": "/other/python"},
        {"command_prefix": ["nice"]},
        {"java_jars": ["a.jar"]},
        {"override_worker_entrypoint": "/inside/worker.py"},
        {"something_new": 1},
        {"env_vars": {"PATH": "/mine:${PATH}"}},
    ],
)
def test_what_it_does_not_know_is_left_to_rays_own(context):
    (python, program, *rest), variables = command(words(**context))
    assert (python, rest, variables) == (sys.executable, words(**context), {})
    assert program.endswith("ray/_private/workers/setup_worker.py")
    assert Path(program).is_file()


def test_another_language_is_left_to_rays_own():
    given = [*PROGRAM, "--language=JAVA"]
    assert command(given)[0][2:] == given


def test_run_as_rays_raylet_runs_it(tmp_path):
    """By its path, with the variables that were there and those of the context; the process stays the same."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\nprint(os.getpid(), sys.argv[1:], os.environ['A'], os.environ['B'], 'ray' in sys.modules)\n"
    )
    given = [str(program), "--b=2", *PYTHON, CONTEXT + json.dumps({"env_vars": {"B": "new"}})]
    child = subprocess.Popen(
        [sys.executable, ray_worker_start.__file__, *given],
        env={"A": "old", "B": "old"},
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = child.communicate(timeout=60)
    assert out.split("\n")[0] == f"{child.pid} ['--b=2'] old new False"


def test_it_loads_little():
    """It runs once for every target; what it loads has to be worth less than the import of ray that it spares."""
    code = f"import runpy, sys; sys.argv = ['x']; runpy.run_path({ray_worker_start.__file__!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"ray", "argparse", "asyncio", "numpy", "logging"} & set(loaded)
