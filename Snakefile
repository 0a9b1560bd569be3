# The study as Snakemake schedules it; dvc.yaml says the same to DVC, and params.yaml lists the runs for both.
#
#   snakemake --cores 4 --resources gpu=1     everything, ending in report/report.pdf
#   snakemake --cores 4 depth                 one study: its runs, tables and figures
#   snakemake --cores 2 report --config from_results=true     the report from results/ alone (`make report`)
#   snakemake --cores 2 --config 'train={epochs: 50}'         with another setting (docs/experiments.md)

import sys

from snakemake.utils import min_version

from vanishing import environment, project
from vanishing.engines import graph, links, lock, resources, typed
from vanishing.errors import UserError

min_version("9.14")
environment.settle()


try:
    project.check_code()
    # before Snakemake reads the file: its own complaints name neither line nor key
    overrides = graph.laid_over(config)
    settings = graph.load(overrides, "--config")
    program = graph.program(overrides)
    stages = graph.stages(config)
    jobs = graph.jobs(settings, config)
    studies = graph.drawn(settings, jobs)
    if workflow.is_main_process:
        options = typed.options(sys.argv)
        graph.check_targets(options.targets, settings, stages, studies)
        graph.check_typed(options.config or [])
        lock.clear()
        lock.guard(sys.argv)
        if not options.dryrun:
            links.release()
except UserError as error:
    print(f"snakemake: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


configfile: "params.yaml"


# the profile says the same, but another one, or `--workflow-profile none`, may be in its place
if "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)


# Ctrl-C reaches a job's shell and its `tee` too: both wait for the command, which saves its state and says where.
# With `--quiet rules` what commands print goes to their logs alone
screen = (
    "> /dev/null" if "rules" in map(str, workflow.output_settings.quiet or ()) else ""
)
shell.prefix(
    f"set -euo pipefail; trap : INT TERM; tee() (trap '' INT TERM; exec tee \"$@\" {screen}); "
)


wildcard_constraints:
    run="[a-z][a-z0-9_]*",
    seed="[0-9]+",
    study="[a-z][a-z0-9_]*",


onstart:
    if workflow.is_main_process:
        try:
            lock.take(sys.argv)
        except UserError as error:
            print(f"snakemake: {error}", file=sys.stderr)
            sys.exit(1)


rule all:
    """Build everything."""
    default_target: True
    input:
        graph.wanted(settings, stages, jobs, studies),


for stage in stages:

    include: f"workflow/rules/{stage.name}.smk"


for study in studies:

    rule:
        name:
            study
        input:
            graph.wanted(
                settings,
                [stage for stage in stages if stage.each],
                graph.study_jobs(settings, jobs, study),
                [study],
            ),
