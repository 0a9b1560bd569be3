# In:   data/SET.npz, checkpoints/RUN/seedS/, results/runs/RUN/seedS/summary.json, as `gradients`
# Out:  results/analyses/RUN/seedS/landscape.csv
# Steps: measure the loss on random cuts, and on the plane of the trajectory


use rule gradients as landscape with:
    output:
        "results/analyses/{run}/seed{seed}/landscape.csv",
    log:
        "logs/landscape/{run}-seed{seed}.log",
    benchmark:
        "logs/benchmarks/landscape/{run}-seed{seed}.tsv"
    params:
        command="landscape",
        configuration=graph.configuration("landscape", settings),
