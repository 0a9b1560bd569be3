# In:   results/runs/
# Out:  report/numbers.tex, report/studies.tex
# Steps: every number that the report's prose names, and the layout of the studies that have results


rule numbers:
    """Write every number that the report names."""
    input:
        results=plan.results_of(jobs),
        code=plan.code(*plan.NUMBERS),
    output:
        numbers="report/numbers.tex",
        studies="report/studies.tex",
    log:
        "logs/numbers.log",
    benchmark:
        "logs/benchmarks/numbers.tsv"
    params:
        configuration=plan.numbers_configuration(settings),
    message:
        "numbers of the report"
    shell:
        "vanishing numbers 2>&1 | tee {log}"
