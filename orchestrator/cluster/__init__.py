"""Ray clusters seen from outside a run: commands as jobs, nodes examined.

In: the address of a cluster, the words of a command or what `hilum train` would be asked for. Out: a job with its log
and exit code, checks with what to do. The command line alone imports from here: `doctor` and `jobs`. Read `jobs`; then
`doctor`, `node_facts` (what is looked at on a node), `checks` (what it means), `driver_checks` (on this machine),
`probes`. What is sent to a cluster, says `orchestrator/code_package.py`.
"""

__all__ = ["doctor", "jobs"]
