"""Many targets: plan, launch, combine, predict, show. Ray is used in this package only.

`from orchestrator import prepare, train, tune, ensemble, evaluate, predict, compare, load_bundle`: the functions of
`orchestrator.api`, which is imported when the first of them is asked for.

`models` and `pathologies` are common names: another project's module in the working folder may stand before ours on the
import path. Ours lie beside this package, so they are put first; one that is already loaded is an error.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

__all__ = ["compare", "ensemble", "evaluate", "load_bundle", "predict", "prepare", "train", "tune"]
_HOME = Path(__file__).resolve().parent.parent


def _is_ours(name: str) -> bool:
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec else None
    return origin is not None and Path(origin).resolve() == _HOME / name / "__init__.py"


for _name in ("models", "pathologies"):
    if not _is_ours(_name):
        if _name in sys.modules:
            raise ImportError(
                f"The module {_name!r} that is already loaded ({getattr(sys.modules[_name], '__file__', 'unknown')}) "
                f"is not hilum's. Start hilum in a Python process of its own, or rename that module."
            )
        sys.path.insert(0, str(_HOME))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
