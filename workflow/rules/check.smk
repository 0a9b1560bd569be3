# In:   results/runs/, results/tables/, results/comparison/
# Out:  results/checks.csv
# Steps: what must hold of any results, and the tables against a recomputation; without a file if anything does not


rule check:
    """Check the results: complete, possible, as theory has them, and the tables recomputed."""
    input:
        results=graph.results_of(jobs),
        tables=expand(
            "results/tables/{study}{kind}.csv",
            study=studies,
            kind=["", "-differences"],
        ),
        comparison=graph.outputs("compare", "results/"),
        # which removes the tables of studies that are no more
        numbers="report/numbers.tex",
        code=graph.code("check"),
    output:
        "results/checks.csv",
    log:
        "logs/check.log",
    benchmark:
        "logs/benchmarks/check.tsv"
    params:
        configuration=graph.configuration("check", settings),
    message:
        "the results under test: {output}"
    shell:
        "vanishing check 2>&1 | tee {log}"
