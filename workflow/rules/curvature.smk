# In:   data/SET.npz, checkpoints/RUN/seedS/, results/runs/RUN/seedS/summary.json, as `gradients`
# Out:  results/analyses/RUN/seedS/curvature.csv
# Steps: find eigenvalues and the spectral density of the Hessian at chosen snapshots


use rule gradients as curvature with:
    output:
        "results/analyses/{run}/seed{seed}/curvature.csv",
    log:
        "logs/curvature/{run}-seed{seed}.log",
    benchmark:
        "logs/benchmarks/curvature/{run}-seed{seed}.tsv"
    params:
        command="curvature",
        configuration=graph.configuration("curvature", settings),
