"""Where folders lie: on this machine, or in object storage and mirrored here.

In: a path or a URI as a command was given it. Out: a folder of this machine to work in; what is made there reaches the
storage. From elsewhere are imported `workspace` (`place`, `driving`, `reading_*`, `writing`, `publish`, `refresh`,
`address`), `staging`, `mirror`, `object_store`, `scratch` and `folder_swap`; only `lease` is not. Read `workspace`
(what a command calls), `staging` (data sets and bundles, brought once), `mirror` (runs), `object_store`, `lease` (one
driver per run), `scratch`, `folder_swap` (a folder replaced in one step).
"""
