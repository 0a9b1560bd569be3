# In:   results/analyses/, notebooks/
# Out:  report/why/, results/why.ipynb
# Steps: tables and values of every analysis; papermill runs their notebooks as one


rule explain:
    """Draw and tabulate what the analyses found."""
    input:
        results=graph.analyses(settings, jobs, config),
        notebooks=graph.notebooks("explain"),
        code=graph.code("explain"),
    output:
        parts=report(
            directory("report/why/parts"),
            patterns=["{name}.pdf"],
            caption="../captions/why.rst",
            category="Analyses",
            labels={"figure": "{name}"},
        ),
        hashes="report/why/parts.sha256",
        text=["report/why/why.tex", "report/why/numbers.tex"],
        notebook="results/why.ipynb",
    log:
        "logs/explain.log",
    benchmark:
        "logs/benchmarks/explain.tsv"
    params:
        configuration=graph.configuration("explain", settings),
    message:
        "why it works; progress in {log}"
    shell:
        "{program} explain 2>&1 | tee {log}"
