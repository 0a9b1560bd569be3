# In:   data/SET.npz, checkpoints/RUN/seedS/, results/runs/RUN/seedS/summary.json
# Out:  results/runs/RUN/seedS/gradients.csv
# Steps: measure dL/dW of every weight layer at every snapshot, on fixed minibatches


rule gradients:
    """Measure the gradient flow along one trajectory."""
    input:
        data=ancient(settings.data.path),
        # of a folder Snakemake compares the time alone, of a small file the content: the summary has the hashes
        trajectory=ancient("checkpoints/{run}/seed{seed}"),
        summary="results/runs/{run}/seed{seed}/summary.json",
    output:
        "results/runs/{run}/seed{seed}/gradients.csv",
    log:
        "logs/gradients/{run}-seed{seed}.log",
    benchmark:
        "logs/benchmarks/gradients/{run}-seed{seed}.tsv"
    threads: lambda wildcards: graph.threads(settings, wildcards.run)
    resources:
        **resources.measuring(settings, config),
    params:
        command="gradients",
        configuration=graph.configuration("gradients", settings),
    message:
        "{params.command} of {wildcards.run}, seed {wildcards.seed}; progress in {log}"
    shell:
        "{vanishing} {params.command} {wildcards.run} --seed {wildcards.seed} 2>&1 | tee {log}"
