"""How long do the labels of a file of CheXpert's size take? Reading, auditing and splitting 223,414 rows on one core.

In: nothing, or a label file of your own (--labels). Out: a table of seconds, the process's peak memory, and the largest
difference of a finding's positive rate between two parts. With --check, exit code 1 where a stated figure is missed: an
audit (reading and all filters) of at most 10 s and 1 GB, a split of at most 60 s with differences under 0.5 points.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.formatting import aligned
from pathologies.findings.catalog import load_catalog
from pathologies.labels.audit import audit_labels
from pathologies.labels.filters import filter_frame
from pathologies.sources.registry import read_labels
from pathologies.splits.assignment import assign_parts, check_disjoint, positive_rates

MOST_AUDIT_SECONDS, MOST_GIGABYTES, MOST_SPLIT_SECONDS, MOST_POINTS = 10, 1.0, 60, 0.5


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.labels", description=__doc__.split("\n\n")[0])
    parser.add_argument("--labels", type=Path, help="a CheXpert label file; none: a generated one of the same size")
    parser.add_argument("--check", action="store_true", help="exit 1 where a stated figure is missed")
    options = parser.parse_args(words)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        labels = options.labels or _generate(Path(folder) / "train.csv")
        rows, faults = measure(labels)
    print(aligned(("step", "figure", "stated"), rows))
    for fault in faults:
        print(f"missed: {fault}")
    return int(bool(options.check and faults))


def measure(labels: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Rows of the table, and which stated figures are missed."""
    catalog = load_catalog()
    source, reading = timed(lambda: read_labels("chexpert", labels))
    _, auditing = timed(lambda: audit_labels(source.frame, catalog))
    filters = {"frontal": True, "first_studies": 4, "projections": ("AP", "PA")}
    _, filtering = timed(lambda: audit_labels(filter_frame(source.frame, **filters)[0], catalog))
    memory = peak_gigabytes()
    parts, splitting = timed(lambda: assign_parts(source.frame, source.findings))
    check_disjoint(source.frame, parts)
    rates = 100 * positive_rates(source.frame, parts, source.findings)
    points = float((rates.max() - rates.min()).max())
    figures = {
        "reading, s": (reading, None),
        "audit, s": (auditing, None),
        "filters and their audit, s": (filtering, None),
        "all of the audit, s": (reading + auditing + filtering, MOST_AUDIT_SECONDS),
        "peak memory until here, GB": (memory, MOST_GIGABYTES),
        "split into four parts, s": (splitting, MOST_SPLIT_SECONDS),
        "largest difference of a positive rate, points": (points, MOST_POINTS),
    }
    rows = [(name, f"{value:.3f}", "" if most is None else f"<= {most:g}") for name, (value, most) in figures.items()]
    faults = [f"{name} is {value:.3f}" for name, (value, most) in figures.items() if most is not None and value > most]
    return [(f"rows {len(source.frame):,}", "", ""), *rows], faults


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def peak_gigabytes() -> float:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))[1]) / 2**20


def _generate(path: Path) -> Path:
    """In a process of its own, so that its memory is not counted here."""
    import subprocess

    code = "import sys; from pathlib import Path; from tests.chexpert_like import write_chexpert_like as w; "
    code += "w(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=Path(__file__).parent.parent)
    return path


if __name__ == "__main__":
    sys.exit(main())
