"""`python -m orchestrator.cli`, as a job's command is."""

from orchestrator.cli.app import main

main()
