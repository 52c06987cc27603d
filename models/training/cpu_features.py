"""What a processor or a GPU computes in, by its flags or its number, without importing torch.

Used by launcher and trainer.
"""

from functools import cache
from pathlib import Path

# Of x86. ARM has a flag of this kind too, but nobody has measured a training there: it computes in fp32.
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
BF16_CARDS, FP16_CARDS = (8, 0), (7, 0)  # CUDA compute capability of the first with such tensor cores: Ampere, Volta


def card_precision(capability: tuple[int, int]) -> str:
    """What precision=auto is on an NVIDIA GPU of this compute capability. Without the tensor cores a format is
    emulated, or as slow as fp32: T4 and V100 (7.5, 7.0) have those of fp16 alone.
    """
    if capability >= BF16_CARDS:
        return "bf16"
    return "fp16" if capability >= FP16_CARDS else "fp32"


def cpu_precision() -> str:
    """bf16 where the processor computes in it; elsewhere it would be emulated and slower than fp32."""
    return "bf16" if BF16_FLAGS & processor_flags() else "fp32"


@cache
def processor_flags() -> frozenset[str]:
    """Instruction set flags of an x86 processor; empty for any other, and where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
