# In:   data/SET.npz, checkpoints/RUN/seedS/, results/runs/RUN/seedS/summary.json, as `gradients`
# Out:  results/analyses/RUN/seedS/effective_depth.csv
# Steps: cut out single blocks, and split the gradient by the length of its path, at chosen snapshots


use rule gradients as effective_depth with:
    output:
        "results/analyses/{run}/seed{seed}/effective_depth.csv",
    log:
        "logs/effective_depth/{run}-seed{seed}.log",
    benchmark:
        "logs/benchmarks/effective_depth/{run}-seed{seed}.tsv"
    params:
        command="effective_depth",
        configuration=graph.configuration("effective_depth", settings),
