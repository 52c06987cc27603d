"""`python -m orchestrator.cli`, as a job's command is."""

from orchestrator.cli.cli import main

main()
