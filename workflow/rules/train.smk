# In:   data/SET.npz
# Out:  checkpoints/RUN/seedS/, results/runs/RUN/seedS/{history.csv,summary.json}
# Steps: train, keep the trajectory, test the weights of the best epoch


rule train:
    """Train one run with one seed; a killed training goes on where it was."""
    input:
        # by content: its configuration, a parameter of this job, says what is in it, and its time says nothing
        data=ancient(settings.data.path),
    output:
        trajectory=directory("checkpoints/{run}/seed{seed}"),
        history="results/runs/{run}/seed{seed}/history.csv",
        summary="results/runs/{run}/seed{seed}/summary.json",
    log:
        "logs/train/{run}-seed{seed}.log",
    benchmark:
        "logs/benchmarks/train/{run}-seed{seed}.tsv"
    threads: lambda wildcards: graph.threads(settings, wildcards.run)
    resources:
        **resources.training(settings, config),
    params:
        configuration=lambda wildcards: graph.configuration(
            "train", settings, wildcards.run
        ),
    message:
        "training {wildcards.run}, seed {wildcards.seed}; progress in {log}"
    shell:
        "{vanishing} train {wildcards.run} --seed {wildcards.seed} 2>&1 | tee {log}"
