"""The training of one network, from its settings to its best weights.

In: a `task.Task`: config, targets, pixels, an attempt's folder. Out: `history.jsonl`, checkpoints, `best.safetensors`,
snapshots and the state that others begin with there. From elsewhere are imported `task.Task`, `loop` (`train_target`,
`predict_logits`), `selection`, `device`, `cpu_features`, `distributed`, `checkpoint.PROGRESS` and `lr_range_test`. Read
`loop` (step, epoch, target), `selection` (which epoch is best), `optimisation` (optimiser, schedule, average),
`augment`, `snapshots`, `checkpoint`, `branch` (beginning in the middle of a shared training), then `task`,
`stop_request`, `device` with `cpu_features`, `distributed`, `lr_range_test`.
"""

__all__ = [
    "checkpoint",
    "cpu_features",
    "device",
    "distributed",
    "loop",
    "lr_range_test",
    "optimisation",
    "selection",
    "stop_request",
    "task",
]
