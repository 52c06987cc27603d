"""models/training/cpu_features.py: number formats from the processor's flags."""

from pathlib import Path

import pytest

from models.training import cpu_features

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512_bf16 amx_tile\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd bf16\n"


@pytest.fixture
def flags_of(monkeypatch):
    def read(text):
        cpu_features.processor_flags.cache_clear()
        monkeypatch.setattr(Path, "read_text", lambda path, **options: text)
        return cpu_features.processor_flags()

    yield read
    monkeypatch.undo()
    cpu_features.processor_flags.cache_clear()


def test_flags_are_whole_words_of_the_first_processor(flags_of):
    assert flags_of(INTEL) == {"fpu", "avx2", "avx512_bf16", "amx_tile"}
    assert flags_of("model name\t: unknown\n") == frozenset()


@pytest.mark.parametrize(
    ("flags", "precision"),
    [("avx2 avx512f", "fp32"), ("avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("avx512_bf16x amx_tile", "fp32")],
)
def test_bf16_only_where_the_processor_computes_in_it(flags_of, flags, precision):
    flags_of(f"flags : {flags}\n")
    assert cpu_features.cpu_precision() == precision


def test_arm_computes_in_fp32(flags_of):
    """Its processors may have instructions for bf16; a training in it was not measured there."""
    assert flags_of(ARM) == frozenset()
    assert cpu_features.cpu_precision() == "fp32"


def test_a_system_that_does_not_tell(monkeypatch):
    def absent(path, **options):
        raise FileNotFoundError(path)

    cpu_features.processor_flags.cache_clear()
    monkeypatch.setattr(Path, "read_text", absent)
    assert cpu_features.cpu_precision() == "fp32"
    cpu_features.processor_flags.cache_clear()
