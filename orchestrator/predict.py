"""`python -m orchestrator.predict`: `hilum predict` for a script that has no console commands on its path.

Imported, it stands for the function of the same name, `orchestrator.api.predict`, which it would hide otherwise: what a
module puts in its own place in `sys.modules` is what its package then has under its name.
"""

import sys

if __name__ == "__main__":
    from orchestrator.cli.app import main

    main(["predict", *sys.argv[1:]])
else:
    from orchestrator.api import predict

    sys.modules[__name__] = predict
