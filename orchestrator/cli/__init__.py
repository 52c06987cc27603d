"""The command line, `hilum ...`: one file of commands per capability, `app` puts them together.

In: words. Out: tables on standard output, notes on standard error, an exit code; no other room prints. From elsewhere
only `app` is imported (`main`; `app` by `cluster.jobs`, to check the words of a job), and `orchestrator.cli:main` is
what the console command calls. Read `app`, then the commands: `datasets`, `training`, `tuning`, `evaluation` (`predict`
and `adapt` too), `comparison`, `cluster`; below them `console`, `progress` (the live table) and `demo`.
"""


def __getattr__(name: str):
    if name == "main":
        from orchestrator.cli.app import main

        return main
    raise AttributeError(f"module 'orchestrator.cli' has no attribute {name!r}")
