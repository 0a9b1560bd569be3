# In:   data/SET.npz
# Out:  results/analyses/trainable_depth.csv
# Steps: train plain networks of many depths for a short time each; a killed sweep resumes after its last network


rule trainable_depth:
    """Find how deep a plain network can be and still train."""
    input:
        data=ancient(settings.data.path),
    output:
        graph.outputs("trainable_depth"),
    log:
        "logs/trainable_depth.log",
    benchmark:
        "logs/benchmarks/trainable_depth.tsv"
    threads: settings.trainable_depth.threads
    resources:
        **resources.sweeping(settings, config),
    params:
        configuration=graph.configuration("trainable_depth", settings),
    message:
        "plain networks of many depths; progress in {log}"
    shell:
        "{vanishing} trainable_depth 2>&1 | tee {log}"
