"""The command with which a Ray of our own begins a worker, in the place of Ray's `setup_worker.py`.

In: Ray's words for it: the worker's program and its options, `--language=` and `--serialized-runtime-env-context=`.
Out: this process is that worker. Called by the raylet. Ray's own one imports all of ray to set a few environment
variables, and the worker then imports ray again. What this one does not know, it leaves to Ray's.
"""

import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="


def command(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(the command to become, what its environment has besides)."""
    context = json.loads(_value(words, CONTEXT) or "{}")
    if _value(words, LANGUAGE) != "PYTHON" or not _variables_alone(context):
        return [sys.executable, _rays_own(), *words], {}
    return [sys.executable, *(word for word in words if not word.startswith((CONTEXT, LANGUAGE)))], _variables(context)


def _value(words: Sequence[str], option: str) -> str:
    return next((word.removeprefix(option) for word in words if word.startswith(option)), "")


def _variables_alone(context: dict[str, Any]) -> bool:
    """This interpreter, and no variable that stands for another."""
    further = any(value for name, value in context.items() if name not in ("env_vars", "py_executable"))
    same = context.get("py_executable") in (None, sys.executable)
    return same and not further and not any("$" in value for value in _variables(context).values())


def _variables(context: dict[str, Any]) -> dict[str, str]:
    return context.get("env_vars") or {}


def _rays_own() -> str:
    (package,) = find_spec("ray").submodule_search_locations  # found, not imported
    return os.path.join(package, "_private", "workers", "setup_worker.py")


if __name__ == "__main__":
    became, variables = command(sys.argv[1:])
    os.execve(became[0], became, os.environ | variables)
