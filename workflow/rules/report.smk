# In:   report/*.tex, report/sections/, report/references.bib, and all that tables, figures, compare and numbers make
# Out:  report/report.pdf
# Steps: latexmk


rule report:
    """Typeset the report."""
    input:
        text=plan.report_text(),
        code=plan.code("report/typeset.py"),
        numbers="report/numbers.tex",
        studies="report/studies.tex",
        tables=expand("report/tables/{study}.tex", study=studies),
        # of a folder Snakemake compares the time alone, of a small file the content
        figures=ancient(expand("report/figures/{study}", study=studies)),
        hashes=expand("report/figures/{study}.sha256", study=studies),
        comparison=plan.COMPARED if studies else [],
    output:
        paths.REPORT / "report.pdf",
    log:
        "logs/report.log",
    benchmark:
        "logs/benchmarks/report.tsv"
    message:
        "typesetting {output}"
    shell:
        "vanishing report 2>&1 | tee {log}"
