"""`python -m orchestrator.predict`: `hilum predict` for a script that has no console commands on its path.

The work is done in orchestrator.inference.predict.
"""

import sys

from orchestrator.cli.app import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
