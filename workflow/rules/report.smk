# In:   report/*.tex, report/sections/, report/references.bib, and all that tables and figures make
# Out:  report/report.pdf
# Steps: latexmk


rule report:
    """Typeset the report."""
    input:
        text=plan.report_text(),
        code="src/vanishing/report.py",
        tables="report/tables",
        numbers="report/numbers.tex",
        studies="report/studies.tex",
        figures=expand("report/figures/{study}", study=plan.drawn(settings, jobs)),
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
