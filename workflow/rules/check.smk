# In:   results/runs/
# Out:  results/checks.csv
# Steps: what must hold of any results; without a file if anything does not


rule check:
    """Check that the results are complete, possible, and as theory predicts."""
    input:
        results=plan.results_of(jobs),
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
