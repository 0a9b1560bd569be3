# In:   results/runs/ of a study
# Out:  results/tables/STUDY*.csv, report/tables/STUDY*.tex
# Steps: mean and standard deviation over the seeds, differences by seed, published beside reproduced


rule tables:
    """Make the tables of one study."""
    input:
        results=lambda wildcards: plan.results_of(
            plan.study_jobs(settings, jobs, wildcards.study)
        ),
        code=plan.code(*plan.TABLES),
    output:
        expand(
            "{folder}/{{study}}{kind}.{type}",
            zip,
            folder=["results/tables"] * 2 + ["report/tables"] * 3,
            kind=["", "-differences"] * 2 + ["-dynamics"],
            type=["csv"] * 2 + ["tex"] * 3,
        ),
    log:
        "logs/tables/{study}.log",
    benchmark:
        "logs/benchmarks/tables/{study}.tsv"
    params:
        configuration=lambda wildcards: plan.tables_configuration(
            settings, wildcards.study
        ),
    message:
        "tables of {wildcards.study}"
    shell:
        "vanishing tables {wildcards.study} 2>&1 | tee {log}"
