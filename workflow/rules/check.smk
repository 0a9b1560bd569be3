# In:   results/runs/
# Out:  results/checks.csv
# Steps: what must hold of any results; without a file if anything does not


rule check:
    """Check that the results are complete, possible, and as theory predicts."""
    input:
        results=graph.results_of(jobs),
        code=graph.code("check"),
    output:
        report("results/checks.csv", caption="../captions/check.rst", category="Checks"),
    log:
        "logs/check.log",
    benchmark:
        "logs/benchmarks/check.tsv"
    params:
        configuration=graph.configuration("check", settings),
    message:
        "the results under test: {output}"
    shell:
        "{program} check 2>&1 | tee {log}"
