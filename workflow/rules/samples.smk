# In:   data/SET.npz
# Out:  report/samples/
# Steps: images of every class, and one image as training augments it


rule samples:
    """Draw a page of the data set for the report."""
    input:
        data=ancient(settings.data.path),
        code=graph.code("samples"),
    output:
        graph.outputs("samples"),
    log:
        "logs/samples.log",
    benchmark:
        "logs/benchmarks/samples.tsv"
    params:
        configuration=graph.configuration("samples", settings),
    message:
        "a page of the data set"
    shell:
        "{program} samples 2>&1 | tee {log}"
