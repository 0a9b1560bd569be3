# In:   results/runs/ of a study, notebooks/
# Out:  report/figures/STUDY/, report/figures/STUDY.sha256, results/notebooks/STUDY.ipynb
# Steps: papermill runs the notebooks of the study as one; times, paths and identifiers are taken out


rule figures:
    """Draw the figures of one study in its notebooks."""
    input:
        results=lambda wildcards: graph.results_of(
            graph.study_jobs(settings, jobs, wildcards.study)
        ),
        notebooks=["notebooks/training.ipynb", "notebooks/gradient_flow.ipynb"],
        code=graph.code("figures"),
    output:
        figures=report(
            directory("report/figures/{study}"),
            patterns=["{name}.pdf"],
            caption="../captions/figures.rst",
            category="Figures",
            subcategory="{study}",
            labels={"figure": "{name}"},
        ),
        hashes="report/figures/{study}.sha256",
        notebook="results/notebooks/{study}.ipynb",
    log:
        "logs/figures/{study}.log",
    benchmark:
        "logs/benchmarks/figures/{study}.tsv"
    params:
        configuration=lambda wildcards: graph.configuration(
            "figures", settings, wildcards.study
        ),
    message:
        "figures of {wildcards.study}; progress in {log}"
    shell:
        "{program} figures {wildcards.study} 2>&1 | tee {log}"
