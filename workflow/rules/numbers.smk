# In:   results/runs/
# Out:  report/numbers.tex, report/studies.tex, report/overview.pdf
# Steps: every number that the report's prose names, the layout of the studies that have results, and the first figure


rule numbers:
    """Write every number that the report names."""
    input:
        results=graph.results_of(jobs),
        code=graph.code("numbers"),
    output:
        graph.outputs("numbers"),
    log:
        "logs/numbers.log",
    benchmark:
        "logs/benchmarks/numbers.tsv"
    params:
        # a function, since Snakemake would take braces in a title for a wildcard
        configuration=lambda _: graph.configuration("numbers", settings),
    message:
        "numbers of the report"
    shell:
        "{program} numbers 2>&1 | tee {log}"
