"""The files of `results/runs`, statistics over seeds, the published numbers, and the checks."""
