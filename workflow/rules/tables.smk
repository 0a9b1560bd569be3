# In:   results/runs/ of a study
# Out:  results/tables/STUDY*.csv, report/tables/STUDY*.tex
# Steps: mean and standard deviation over the seeds, differences by seed, published beside reproduced


rule tables:
    """Make the tables of one study."""
    input:
        results=lambda wildcards: graph.results_of(
            graph.study_jobs(settings, jobs, wildcards.study)
        ),
        code=graph.code("tables"),
    output:
        report(
            graph.outputs("tables", "results/"),
            caption="../captions/tables.rst",
            category="Tables",
            subcategory="{study}",
        ),
        graph.outputs("tables", "report/"),
    log:
        "logs/tables/{study}.log",
    benchmark:
        "logs/benchmarks/tables/{study}.tsv"
    params:
        configuration=lambda wildcards: graph.configuration(
            "tables", settings, wildcards.study
        ),
    message:
        "tables of {wildcards.study}"
    shell:
        "{program} tables {wildcards.study} 2>&1 | tee {log}"
