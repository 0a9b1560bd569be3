# In:   results/runs/
# Out:  results/tables/, report/tables/, report/numbers.tex, report/studies.tex
# Steps: mean and standard deviation over the seeds, every number that the report names


rule tables:
    """Make the tables of all studies, and every number of the report."""
    input:
        results=plan.results_of(jobs),
        code=expand(
            "src/vanishing/{file}",
            file=["captions.py", "published.csv", "results.py", "tables.py"],
        ),
    output:
        csv=directory("results/tables"),
        tex=directory("report/tables"),
        numbers="report/numbers.tex",
        studies="report/studies.tex",
    log:
        "logs/tables.log",
    benchmark:
        "logs/benchmarks/tables.tsv"
    params:
        configuration=plan.tables_configuration(settings),
    message:
        "tables of all studies, and the report's numbers"
    shell:
        "vanishing tables 2>&1 | tee {log}"
