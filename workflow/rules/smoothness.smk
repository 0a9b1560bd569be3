# In:   data/SET.npz, checkpoints/RUN/seedS/, results/runs/RUN/seedS/summary.json, as `gradients`
# Out:  results/analyses/RUN/seedS/smoothness.csv
# Steps: measure loss and gradient at steps along the gradient, at chosen snapshots, on fixed minibatches


use rule gradients as smoothness with:
    output:
        "results/analyses/{run}/seed{seed}/smoothness.csv",
    log:
        "logs/smoothness/{run}-seed{seed}.log",
    benchmark:
        "logs/benchmarks/smoothness/{run}-seed{seed}.tsv"
    params:
        command="smoothness",
        configuration=graph.configuration("smoothness", settings),
