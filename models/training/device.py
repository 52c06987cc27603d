"""Where and how a network computes: device, number format, threads. Resolved from the config and the processor's flags.

Never timed and never taken from how much else is running, so that the same config gives the same weights again.
"""

import contextlib
import dataclasses
import logging
import os
from contextlib import AbstractContextManager

import torch

from models.config import TrainConfig
from models.training.cpu_features import card_precision, cpu_precision
from pathologies.errors import InputError

log = logging.getLogger(__name__)
FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}  # those of autocast


def resolve(config: TrainConfig) -> TrainConfig:
    """The config with `device` and `precision` made definite. Errors: a CUDA device that is not there."""
    device = available_device(config.device)
    precision = config.precision
    if precision == "auto":
        precision = own_card_precision(device) if device.startswith("cuda") else cpu_precision()
    return dataclasses.replace(config, device=device, precision=precision)


def own_card_precision(device: str = "cuda") -> str:
    """What precision=auto is on a GPU of this machine."""
    if torch.version.hip:  # AMD's, whose numbers are not NVIDIA's
        return "bf16"
    return card_precision(torch.cuda.get_device_capability(device))


def available_device(device: str) -> str:
    """`device` with `auto` made definite. Errors: a name that torch does not know, a CUDA device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"Unknown device {device!r}. Known: auto, cpu, cuda, cuda:0, cuda:1, ...")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device={device}, but torch {torch.__version__} finds no GPU here. Use device=cpu or auto.")
    return device


def set_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # the pool between operators can be sized only before its first use
        torch.set_num_interop_threads(1)


def set_repeatable(wanted: bool) -> None:
    """Repeatable operations only, from here on, or any; then an operation without a repeatable form is an error.

    On a GPU torch refuses matrix products in this mode unless cuBLAS has workspaces of a fixed size (cuBLAS manual,
    "Results reproducibility"); it reads their size at the first product of the process.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)


def autocast(config: TrainConfig) -> AbstractContextManager:
    kind = torch.device(config.device).type
    return torch.autocast(kind, dtype=FORMATS.get(config.precision), enabled=config.precision in FORMATS)
