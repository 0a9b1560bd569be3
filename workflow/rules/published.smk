# In:   results/runs/
# Out:  results/comparison/, report/comparison/
# Steps: every published value beside ours, which schedule each published row came from, and gradients: what was
#        published and what theory predicts, beside ours


rule published:
    """Hold what was published against what is reproduced."""
    input:
        results=graph.results_of(jobs),
        notebook="notebooks/agreement.ipynb",
        code=graph.code("published"),
    output:
        report(
            "results/comparison/published.csv",
            caption="../captions/published.rst",
            category="Published values",
        ),
        [path for path in graph.outputs("published") if "published.csv" not in path],
    log:
        "logs/published.log",
    benchmark:
        "logs/benchmarks/published.tsv"
    params:
        configuration=graph.configuration("published", settings),
    message:
        "published against reproduced; progress in {log}"
    shell:
        "{program} published 2>&1 | tee {log}"
