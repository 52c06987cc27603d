"""The command line, `hilum ...`: one file of commands per capability, `app` puts them together."""


def __getattr__(name: str):
    if name == "main":
        from orchestrator.cli.app import main

        return main
    raise AttributeError(f"module 'orchestrator.cli' has no attribute {name!r}")
