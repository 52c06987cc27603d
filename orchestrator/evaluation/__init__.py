"""What answers are worth: a bundle on a part, two runs, prediction tables from anywhere.

In: a BUNDLE and a DATASET; two RUNs; tables and a truth. Out: tables with patient-level intervals, sentences, pictures.
The command line alone imports from here: `evaluate_bundle`, `compare_runs`, `compare_runs_report`, `compare_tables`,
`compare_tables_report` and `scoring`. Read `scoring` (the one evaluation), `evaluate_bundle` with `conformal_coverage`,
`uncertain_labels` and `plots`; then `compare_runs`, `training_cost`, `compare_runs_report`; then `alignment`,
`table_blends`, `compare_tables`, `compare_tables_report`, `compare_tables_plots`.
"""

__all__ = [
    "compare_runs",
    "compare_runs_report",
    "compare_tables",
    "compare_tables_report",
    "evaluate_bundle",
    "scoring",
]
