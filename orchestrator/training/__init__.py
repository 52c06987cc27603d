"""A planned RUN, trained with one isolated process per job, under Ray or inline.

In: a `TrainRequest`. Out: a RUN: a folder per job with `outcome.json`, `ledger.jsonl`. From elsewhere are imported
`launch`, `environment`, `schedule`, `resources`, `ray_session`, `private_ray`, `worker`, `monitor` and `socket_probe`.
Read `launch`; `worker` and `remote_worker`, which run in the training process, with its `environment`; `resources`,
`schedule` (which first), `dependants`; `monitor`, `retries`; last `ray_session` (a cluster, and whether it still
stands), `private_ray`, `ray_worker_start`, and `socket_probe`, which the doctor uses.
"""

__all__ = ["environment", "launch", "monitor", "private_ray", "ray_session", "resources", "schedule", "socket_probe",
           "worker"]  # fmt: skip
