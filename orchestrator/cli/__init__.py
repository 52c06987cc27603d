"""The command line, `hilum ...`: one file of commands per group of `hilum --help`, `app` puts them together.

In: words. Out: tables on standard output, notes on standard error, an exit code; no other room prints. From elsewhere
only `app.main` is imported; `orchestrator.cli:main` is what the console command calls. Read `app`, then the commands:
`demo`, `datasets`, `training` and `tuning`, `evaluation`, `inference`, `cluster`; below them `options` (groups,
examples) and `console` (lines, tables, the live table).
"""

__all__ = ["app"]


def __getattr__(name: str):
    if name == "main":
        from orchestrator.cli.app import main

        return main
    raise AttributeError(f"module 'orchestrator.cli' has no attribute {name!r}")
