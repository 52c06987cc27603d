"""Which trainings a RUN has, and the files that each one works from; nothing is trained here.

In: a `job_config.TrainRequest` and a DATASET. Out: `plan.json`, and a folder per job with `config.json` and
`targets.npz`. From elsewhere are imported `job_config` (`TrainRequest`, `Job`), `plan`, `heads`,
`recipe`, `target_files`, `tuned_settings`, `backbones`, `memory`, `batch_backoff` and `changed_settings`. Read `plan`
with what it calls: `recipe` (start and folds), `job_config` (a job's settings), `shared_start`, `multilabel` (shared
networks), `tuned_settings`, `backbones`, `initial_weights`, `target_files` (what a network learns from),
`changed_settings`, `config_repair`, `batch_backoff` (a config that was damaged, changed, or found no memory); `memory`
(what a training will need); `heads`, the plan of heads on a frozen encoder, through which the launcher asks for any.
"""

__all__ = ["backbones", "batch_backoff", "changed_settings", "heads", "job_config", "memory", "multilabel", "plan",
           "recipe", "target_files", "tuned_settings"]  # fmt: skip
