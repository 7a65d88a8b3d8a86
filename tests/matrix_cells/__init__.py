"""One test matrix of what people put beside this pack: guiders, patches, prompts, runs and other packs' mechanisms.

A `Graph` is a workflow of the host with a tiny model. `guiders`, `core_nodes` and `packs` make its rows, found in the
host's own tree where they are the host's. `truth` keeps the attention calls that really ran, at the kernel, and
`verdict` compares what this pack showed and did with them.
"""
