# In:   results/runs/
# Out:  results/comparison/, report/comparison/
# Steps: every published figure beside ours, which schedule each published row came from, and gradients: what was
#        published and what theory predicts, beside ours


rule compare:
    """Hold what was published against what is reproduced."""
    input:
        results=plan.results_of(jobs),
        notebook="notebooks/agreement.ipynb",
        code=plan.code(*plan.COMPARISON),
    output:
        tables=plan.COMPARISONS,
        report=plan.COMPARED,
        notebook="results/comparison/agreement.ipynb",
    log:
        "logs/compare.log",
    benchmark:
        "logs/benchmarks/compare.tsv"
    params:
        configuration=plan.comparison_configuration(settings),
    message:
        "published against reproduced; progress in {log}"
    shell:
        "vanishing compare 2>&1 | tee {log}"
