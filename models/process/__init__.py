"""One training as an isolated process: begun, watched over, taken up again, published.

In: a DATASET and a target's folder with `config.json` and `targets.npz`. Out: `weights.safetensors`,
`predictions.parquet`, of some shared networks `branch.ckpt`, and, last, `outcome.json`, which says ok or what went
wrong. From elsewhere are imported `job` (`run_job`, `open_task`, `Superseded`), `resume.ended_as`,
`supervision.Orphaned` and `signals.end_as_by_ctrl_c` (the command line's). Read `job`, `resume` (from whose checkpoint
it goes on), `supervision`, `signals` (SIGTERM), `watchdog` (a step that hangs), `rank_worker` (more GPUs than one).
"""

__all__ = ["job", "resume", "signals", "supervision", "watchdog"]
