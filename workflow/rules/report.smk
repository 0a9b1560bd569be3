# In:   report/*.tex, report/sections/, report/references.bib, and what samples, tables, figures, published and numbers make
# Out:  report/report.pdf
# Steps: latexmk


rule report:
    """Typeset the report."""
    input:
        text=graph.report_text(),
        code=graph.code("report"),
        numbers=graph.outputs("numbers"),
        # without data, the report has the page of the data set only if it is there
        samples=graph.outputs("samples") if not graph.from_results(config) else [],
        tables=expand("report/tables/{study}.tex", study=studies),
        # of a folder Snakemake compares the time alone, of a small file the content
        figures=ancient(expand("report/figures/{study}", study=studies)),
        hashes=expand("report/figures/{study}.sha256", study=studies),
        parts=ancient("report/why/parts"),
        why=["report/why/parts.sha256", "report/why/why.tex", "report/why/numbers.tex"],
        comparison=graph.outputs("published", "report/") if studies else [],
    output:
        # an earlier one stays until there is another, for where LaTeX is missing
        update(
            report(
                "report/report.pdf",
                caption="../captions/report.rst",
                category="Report",
            )
        ),
    log:
        "logs/report.log",
    benchmark:
        "logs/benchmarks/report.tsv"
    message:
        "typesetting {output}"
    shell:
        "{program} report 2>&1 | tee {log}"
