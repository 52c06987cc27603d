"""Ray clusters seen from outside a run: the code sent there, commands as jobs, nodes examined.

In: the address of a cluster, the words of a command or what `hilum train` would be asked for. Out: a zip of the code, a
job with its log and exit code, checks with what to do. The command line imports `doctor`, `jobs` and `package`;
`orchestrator.training` imports `package` (the code) and `node_facts` (the GPUs of a node). Read `package`, `jobs`; then
`doctor`, `node_facts` (what is looked at on a node), `checks` (what it means), `driver_checks` (on this machine),
`probes`.
"""
