"""Where folders lie: on this machine, or in object storage and mirrored here.

In: a path or a URI as a command was given it. Out: a folder of this machine to work in; what is made there reaches the
storage. From elsewhere are imported `workspace` (`Workspace`, `DrivenRun`, `place`, `append_line`), `staging`,
`mirror`, `object_store`, `scratch` and `folder_swap`; only `lease` is not. Read `workspace` (what a command opens),
`staging` (data sets and bundles, brought once), `mirror` (runs), `object_store`, `lease` (one driver per run),
`scratch`, `folder_swap` (a folder replaced in one step).
"""

__all__ = ["folder_swap", "mirror", "object_store", "scratch", "staging", "workspace"]
