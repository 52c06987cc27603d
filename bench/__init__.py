"""Measurements, each `python -m bench.<name>` with `--help` and `--check`."""
