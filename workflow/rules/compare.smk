# In:   results/runs/
# Out:  results/comparison/, report/comparison/
# Steps: every published value beside ours, which schedule each published row came from, and gradients: what was
#        published and what theory predicts, beside ours


rule compare:
    """Hold what was published against what is reproduced."""
    input:
        results=graph.results_of(jobs),
        notebook="notebooks/agreement.ipynb",
        code=graph.code("compare"),
    output:
        graph.outputs("compare"),
    log:
        "logs/compare.log",
    benchmark:
        "logs/benchmarks/compare.tsv"
    params:
        configuration=graph.configuration("compare", settings),
    message:
        "published against reproduced; progress in {log}"
    shell:
        "{program} compare 2>&1 | tee {log}"
