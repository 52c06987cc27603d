"""The training of one network, from its settings to its best weights.

In: a `loop.Task`: config, targets, pixels, an attempt's folder. Out: `history.jsonl`, checkpoints, `best.safetensors`
and snapshots there. From elsewhere are imported `loop` (`Task`, `train_target`, `predict_logits`), `selection`,
`device`, `cpu_features`, `distributed`, `checkpoint.PROGRESS` and `lr_range_test`. Read
`loop` (step, epoch, target), `selection` (which epoch is best), `optimisation` (optimiser, schedule, average),
`augment`, `snapshots`, `checkpoint`, then `device` with `cpu_features`, `distributed`, `lr_range_test`.
"""
