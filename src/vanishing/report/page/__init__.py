"""The page of results: one file, `report/report.html`, that opens from disk and needs no network.

`content` gathers what it shows, `answer` says it in sentences, and `render` puts both into the template. Its script
draws with Vega-Lite, which `vl-convert-python` ships as one JavaScript file: a figure is a description in JSON, drawn
as SVG with labels for screen readers, and, with Vega's own interpreter in place of `eval`, under a policy that allows
the page's own code and nothing else.
"""
