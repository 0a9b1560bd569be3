# In:   results/runs/, results/analyses/
# Out:  report/report.html
# Steps: the answer, every curve and table, and the library that draws them, in one file


rule html:
    """Write the page of results."""
    input:
        results=graph.results_of(jobs),
        analyses=graph.analyses(settings, jobs, config),
        code=graph.code("html"),
    output:
        report("report/report.html", caption="../captions/html.rst", category="Report"),
    log:
        "logs/html.log",
    benchmark:
        "logs/benchmarks/html.tsv"
    params:
        # a function, since Snakemake would take braces in a title for a wildcard
        configuration=lambda _: graph.configuration("html", settings),
    message:
        "page of results"
    shell:
        "{program} html 2>&1 | tee {log}"
