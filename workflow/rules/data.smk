# In:   any source of the images (params.yaml: data.sources)
# Out:  data/SET.npz
# Steps: read the first source that works, check its content, hold out the validation images


rule data:
    """Make the training, validation and test arrays."""
    output:
        settings.data.path,
    log:
        "logs/data.log",
    benchmark:
        "logs/benchmarks/data.tsv"
    params:
        configuration=graph.configuration("data", settings),
    message:
        "images: {output}"
    shell:
        "{program} data 2>&1 | tee {log}"
