# In:   data/SET.npz, checkpoints/RUN/seedS/, results/runs/RUN/seedS/summary.json, as `gradients`
# Out:  results/analyses/RUN/seedS/signal.csv
# Steps: measure activations and gradients of every layer at chosen snapshots, on fixed minibatches


use rule gradients as signal with:
    output:
        "results/analyses/{run}/seed{seed}/signal.csv",
    log:
        "logs/signal/{run}-seed{seed}.log",
    benchmark:
        "logs/benchmarks/signal/{run}-seed{seed}.tsv"
    params:
        command="signal",
        configuration=graph.configuration("signal", settings),
