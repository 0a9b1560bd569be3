"""The stages of the pipeline as Snakemake and DVC schedule them, and what runs several trainings in one process."""
