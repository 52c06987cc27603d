"""What this machine's processor can do, by its flags, without importing torch. Used by launcher and trainer."""

from functools import cache
from pathlib import Path

BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def cpu_precision() -> str:
    """bf16 where the processor computes in it; elsewhere it would be emulated and slower than fp32."""
    return "bf16" if BF16_FLAGS & processor_flags() else "fp32"


@cache
def processor_flags() -> frozenset[str]:
    """Instruction set flags; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
