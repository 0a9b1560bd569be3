# In:   results/runs/, results/tables/, results/comparison/
# Out:  results/checks.csv
# Steps: what must hold of any results, and the tables against a recomputation; without a file if anything does not


rule check:
    """Check the results: complete, possible, as theory has them, and the tables recomputed."""
    input:
        results=plan.results_of(jobs),
        tables=expand(
            "results/tables/{study}{kind}.csv",
            study=studies,
            kind=["", "-differences"],
        ),
        comparison=plan.COMPARISONS,
        code=plan.code(*plan.CHECK),
    output:
        paths.CHECKS,
    log:
        "logs/check.log",
    benchmark:
        "logs/benchmarks/check.tsv"
    params:
        configuration=plan.check_configuration(settings),
    message:
        "the results under test: {output}"
    shell:
        "vanishing check 2>&1 | tee {log}"
