"""A RUN: planned, and trained with one isolated process per (target, member), under Ray or inline.

In: a `plan.TrainRequest`. Out: a RUN: `plan.json`, a folder per job, `ledger.jsonl`. From elsewhere are imported
`launch`, `plan`, `tuned_settings`, `backbones`, `environment`, `memory`, `recipe`, `schedule`, `resources`,
`ray_session`, `liveness` and `socket_probe`. Read `launch`; `plan` with what it calls (`job_config`, `recipe`,
`shared_start`, `target_files`, `multilabel`, `tuned_settings`, `backbones`, `initial_weights`, `changed_settings`,
`config_repair`, `batch_backoff`); `heads`, the plan of heads on a frozen encoder, through which `launch` asks for any
plan; `worker` and `remote_worker`, which run in the training process, with its
`environment`; `resources`, `memory`, `schedule`, `last_round`, `dependants`; `monitor`, `liveness`, `retries`; last
`ray_session`, `private_ray`, `ray_worker_start`, and `socket_probe`, which the doctor uses.
"""
