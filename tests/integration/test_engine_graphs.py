"""The two engines: the same commands, inputs and outputs, whoever calls them."""

import ast
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import examples
from vanishing import cli, config, paths
from vanishing.engines import catalogue, graph, workspace
from vanishing.errors import UserError

PACKAGE = examples.ROOT / "src" / "vanishing"

EXPAND = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import DAGSettings, OutputSettings, ResourceSettings

with SnakemakeApi(OutputSettings(quiet=None)) as api:
    opened = api.workflow(ResourceSettings(cores=4), snakefile=Path("Snakefile"))
    opened.dag(DAGSettings(forceall=True)).summary()
    jobs = opened._workflow.dag.jobs
    found = [
        {
            "rule": job.rule.name, "doc": job.rule.docstring, "command": job.shellcmd, "threads": job.threads,
            "gpu": job.resources.get("gpu", 0), "log": list(job.log), "benchmark": str(job.benchmark or ""),
            "inputs": list(job.input), "outputs": list(job.output), "params": {**dict(job.params.items())},
        }
        for job in jobs
    ]
Path("graph.json").write_text(json.dumps(found, default=str))
"""
"""Expand Snakemake's graph and write its jobs to graph.json."""


PROFILE_FOUND = "Using workflow specific profile profiles/default"
"""What Snakemake says first wherever the project's profile is in force."""


def snakemake(*arguments, folder=None):
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


CORE = ["vgg08", "vgg38", "vgg38_bn", "vgg38_rc", "vgg38_bn_rc", "vgg38_bn_lr2", "vgg38_bn_rc_lr2"]


def lay_out(folder, overlay, studies=None):
    """Lay out the pipeline with the project's own parameters, and `overlay` over them."""
    over = folder / "overlay.yaml"
    over.write_text(yaml.safe_dump(overlay))
    workspace.lay_out(examples.ROOT, folder / "project", over, studies)
    return folder / "project"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with two studies of different seeds, and one run that is told to use the CPU."""
    overlay = {
        "seeds": [0, 7],
        "runs": {"vgg08": {"train": {"device": "cpu", "threads": 3}}},
        "studies": {
            "core": {"runs": CORE, "compare": [["vgg08", "vgg38"]], "seeds": [0, 1]},
            "pair": {"title": "Depth", "runs": ["vgg08", "vgg38"], "draw": ["training"]},
        },
    }
    return lay_out(tmp_path_factory.mktemp("workflow"), overlay, ["core", "pair"])


@pytest.fixture(scope="module")
def jobs(project):
    """Every job of Snakemake's graph but `all`."""
    done = subprocess.run(
        [sys.executable, "-c", EXPAND], cwd=project, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [job for job in json.loads((project / "graph.json").read_text()) if job["rule"] != "all"]


@pytest.fixture(scope="module")
def stages(project):
    """Every stage of DVC's graph: command, inputs but parameters, outputs."""
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        return [
            {
                "command": stage.cmd,
                "inputs": [path for path in inputs(project, stage) if not within(path, ["configuration"])],
                "outputs": [relative(project, out.fs_path) for out in stage.outs],
            }
            for stage in repo.index.stages
            if stage.name != "configure"  # its files hold what Snakemake records as parameters of its jobs
        ]


def inputs(folder, stage):
    return [relative(folder, dep.fs_path) for dep in stage.deps if not hasattr(dep, "params")]


def relative(folder, path):
    return Path(path).relative_to(folder).as_posix()


def command(job):
    """Drop what only Snakemake does: a copy of the output into the job's log."""
    return re.sub(r" 2>&1 \| tee \S+$", "", job["command"])


def within(path, folders):
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def test_both_engines_call_the_same_commands(jobs, stages):
    assert sorted(map(command, jobs)) == sorted(stage["command"] for stage in stages)


def test_every_run_and_seed_is_trained_and_measured(jobs, project):
    study = config.load(project / "params.yaml")
    wanted = {f"vanishing {verb} {run} --seed {seed}" for verb in ("train", "gradients") for run, seed in study.jobs()}
    assert len(wanted) == 2 * (5 * 2 + 2 * 3)  # seeds 0 and 1; for the two runs of `pair` also 7
    assert wanted <= set(map(command, jobs))
    # data and samples; five analyses of `vgg08` and the six others of `core` with seed 0, smoothness with seed 1 too,
    # and the sweep over depths; tables and figures of two studies; comparison, explanation, numbers, page, check,
    # report
    assert len(jobs) == 2 + len(wanted) + 5 * 7 + 7 + 1 + 2 + 2 + 6


def test_both_engines_make_the_same_outputs(jobs, stages):
    by_command = {stage["command"]: set(stage["outputs"]) for stage in stages}
    assert {command(job): set(job["outputs"]) for job in jobs} == by_command


def filled(templates, job):
    """Fill in what the command of a job says of run, seed and study."""
    words = command(job).split()
    fields = {"set": "cifar100", "run": words[2:3], "seed": words[4:5], "study": words[2:3]}
    named = {key: value if isinstance(value, str) else "".join(value) for key, value in fields.items()}
    return {template.format(**named).rstrip("/") for template in templates}


def test_the_catalogue_says_what_the_rules_and_dvc_say(jobs, stages):
    """A row's inputs may name a folder for the files in it; code and the report's hand-written text are told apart."""
    from_dvc = {stage["command"]: stage for stage in stages}
    assert {job["rule"] for job in jobs} == {stage.name for stage in catalogue.STAGES}
    for job in jobs:
        stage = catalogue.stage(job["rule"])
        assert filled([stage.command], job) == {command(job)}
        assert filled(stage.outputs, job) == set(job["outputs"])
        wanted = filled(stage.inputs, job) | {f"src/vanishing/{package}" for package in stage.code}
        if job["rule"] == "report":
            wanted |= {path.as_posix() for path in graph.report_text() if path.parent == paths.REPORT}
            wanted |= {"report/sections"}
        assert set(from_dvc[command(job)]["inputs"]) == wanted, command(job)


def test_every_output_is_ignored_or_committed_and_cleaned(jobs):
    makefile = (examples.ROOT / "Makefile").read_text().replace("\\\n", " ")
    cleaned = re.search(r"^clean:.*\n\trm -rf (.*)$", makefile, re.MULTILINE)[1].split()
    ignored = [line.strip("/") for line in (examples.ROOT / ".gitignore").read_text().splitlines()]
    for output in (Path(output) for job in jobs for output in job["outputs"]):
        assert within(f"{output}", ignored) == (output.parts[0] != "results"), output
        assert within(f"{output}", cleaned) == (output.parts[0] == "report"), output


def test_both_engines_read_the_same_inputs(jobs, stages):
    """Equal up to a folder that stands for the files in it, on either side."""
    by_command = {stage["command"]: stage["inputs"] for stage in stages}
    for job in jobs:
        dvc = by_command[command(job)]
        assert [path for path in job["inputs"] if not within(path, dvc)] == [], command(job)
        assert [path for path in dvc if not within(path, job["inputs"]) and not any(
            within(mine, [path]) for mine in job["inputs"]
        )] == [], command(job)  # fmt: skip


PLUMBING = re.compile(
    r"(__init__|cli|console|environment|errors|files|git|locks|paths|project|stages|config/.*|data/cifar100)\.py"
)
"""What carries what the others write, and facts that never change; the parameters are declared by themselves."""


def imported(source):
    """Name the files of this package that a text of Python imports when it runs."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not isinstance(node, ast.If)]  # what type checkers alone import
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vanishing":
            parts = Path(*node.module.split(".")[1:])
            for each in (parts, *(parts / alias.name for alias in node.names)):
                found |= {f"{each}.py", (each / "__init__.py").as_posix()}
    return {name for name in found if (PACKAGE / name).exists()}


def reached(source):
    """Name the files of the package that a text of Python stands on, directly or not."""
    found, left = set(), imported(source)
    while left:
        name = left.pop()
        if name not in found and not PLUMBING.fullmatch(name):
            found.add(name)
            left |= imported((PACKAGE / name).read_text())
    return found


def source_of(stage):
    """Return the code that runs for a stage: its function, and the notebooks among its inputs."""
    function = next(
        node
        for node in ast.parse((PACKAGE / "stages.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == stage.name
    )
    texts = [ast.unparse(node) for node in function.body]
    for notebook in (name for name in stage.inputs if name.endswith(".ipynb")):
        cells = json.loads((examples.ROOT / notebook).read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        texts.append(re.sub(r"^%.*$", "", code, flags=re.MULTILINE))  # IPython's own commands
    return "\n".join(texts)


@pytest.mark.parametrize("stage", [stage for stage in catalogue.STAGES if stage.code], ids=lambda stage: stage.name)
def test_a_stage_without_a_recipe_is_stale_whenever_a_module_that_it_reaches_changes(jobs, stage):
    """Neither engine follows imports."""
    modules = reached(source_of(stage))
    assert modules
    assert {name.partition("/")[0] for name in modules} <= set(stage.code) | {"engines"}, "beside its packages"
    for job in (job for job in jobs if job["rule"] == stage.name):
        code = {path.removeprefix("src/vanishing/") for path in job["inputs"] if path.startswith("src/")}
        assert {name for name in modules if not name.startswith("engines/")} <= code


def test_a_recipe_stands_for_the_code_of_the_stages_that_cost_hours(jobs):
    for job in jobs:
        if job["rule"] in ("data", "train", "gradients", "trainable_depth"):
            configuration = json.loads(job["params"]["configuration"])
            blocks = [configuration[key] for key in ("data", "train")] if job["rule"] == "train" else [configuration]
            assert all("recipe" in block for block in blocks)
            assert not [path for path in job["inputs"] if path.startswith("src/")]


def test_what_a_killed_training_goes_on_from_is_no_output(jobs):
    """Both engines delete a job's outputs before they run it."""
    outputs = [output for job in jobs for output in job["outputs"]]
    for run, seed in (("vgg08", 0), ("vgg38", 7)):
        assert not within(paths.resume(run, seed).as_posix(), outputs)


def test_dvcs_run_cache_holds_what_costs_hours(project):
    """A persistent output switches it off, and so does one kept out of the cache that is neither metric nor plot."""
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        outs = [(stage.name, out) for stage in repo.index.stages for out in stage.outs]
    assert [out.def_path for _, out in outs if out.persist] == ["report/report.pdf"]  # made in seconds
    costly = [out for name, out in outs if name.partition("@")[0] in ("data", "train", "gradients")]
    assert len(costly) == 1 + 16 * (3 + 1)
    assert not [out.def_path for out in costly if not (out.use_cache or out.metric or out.plot)]


def test_no_input_is_left_that_nothing_makes(jobs, project):
    made = [output for job in jobs for output in job["outputs"]]
    for job in jobs:
        for path in job["inputs"]:
            assert within(path, made) or (project / path).exists(), f"{job['rule']}: {path}"


def test_every_rule_is_documented_logged_and_timed(jobs):
    for job in jobs:
        assert job["doc"], job["rule"]
        assert job["log"][0].startswith("logs/"), job["rule"]
        assert job["benchmark"].startswith("logs/benchmarks/"), job["rule"]
        assert job["command"].endswith(f" 2>&1 | tee {job['log'][0]}")


def test_logs_and_benchmarks_are_no_jobs_in_common(jobs):
    assert len({job["log"][0] for job in jobs}) == len({job["benchmark"] for job in jobs}) == len(jobs)


def test_gpu_jobs_take_the_gpu_and_those_told_to_use_the_cpu_do_not(jobs):
    for job in jobs:
        trains = catalogue.stage(job["rule"]).each == "job" or job["rule"] == "trainable_depth"
        assert job["gpu"] == int(trains and " vgg08 " not in job["command"]), command(job)


def test_threads_are_those_of_the_configuration(jobs):
    assert {job["threads"] for job in jobs if " vgg08 " in job["command"]} == {3}
    assert {job["threads"] for job in jobs if " vgg38 " in job["command"]} == {2}


def test_one_gpu_job_at_a_time_is_the_default():
    profile = yaml.safe_load((examples.ROOT / "profiles/default/config.yaml").read_text())
    assert "gpu=1" in profile["resources"]


def test_snakemake_finds_nothing_to_complain_of_but_two_things_on_purpose(project):
    # Both engines run in the one environment of requirements.lock; a conda environment of Snakemake's alone
    # would let the two give different numbers.
    done = snakemake("--lint", folder=project)
    found = re.findall(r"^ +\* (.*)$", done.stdout + done.stderr, re.MULTILINE)
    # And a parameter with the settings of the command line would make every output stale by a setting of one run.
    outside = "Shell command directly uses variable program from outside of the rule:"
    assert set(found) == {"Specify a conda environment or container for each rule.:", outside}


@pytest.mark.parametrize(
    ("target", "runs"),
    [("pair", {"vgg08", "vgg38"}), ("core", set(CORE)), ("report", set(CORE))],
)
def test_the_target_of_a_study_needs_its_runs_alone(project, target, runs):
    done = snakemake("-n", target, "--forceall", "--printshellcmds", folder=project)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"vanishing train (\w+) ", done.stdout + done.stderr)) == runs


def test_dvc_is_told_of_a_changed_list_of_jobs_before_it_goes_on(project, monkeypatch):
    monkeypatch.chdir(project)
    settings = config.load()
    assert json.loads(paths.JOBS.read_text())["jobs"]["vgg38-7"] == {"run": "vgg38", "seed": 7}
    graph.configure(settings, same_jobs=True)
    paths.JOBS.write_text('{"jobs": {}}')
    with pytest.raises(UserError, match=r"^workflow/jobs\.json: runs, seeds or studies have changed; run the same"):
        graph.configure(settings, same_jobs=True)
    graph.configure(settings, same_jobs=True)


def test_a_dry_run_is_quick(project):
    start = time.monotonic()
    done = snakemake("-n", folder=project)
    print(f"dry run of the study: {time.monotonic() - start:.1f} s")
    assert done.returncode == 0, done.stderr
    assert PROFILE_FOUND in done.stderr + done.stdout  # without it, two runs would share one GPU


def refused(folder, *arguments):
    """Return the one line of a refused dry run, which creates nothing."""
    before = set(folder.rglob("*"))
    done = snakemake("-n", *arguments, folder=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert set(folder.rglob("*")) == before
    lines = [line for line in done.stderr.splitlines() if not line.startswith(PROFILE_FOUND)]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("\nepocs: 3\n", "snakemake: params.yaml: epocs = 3: unknown key"),
        ("\ndata: [\n", "snakemake: params.yaml, line "),
    ],
)
def test_a_mistake_in_the_parameters_is_one_line_and_creates_nothing(tmp_path, mistake, told):
    folder = lay_out(tmp_path, {})
    with (folder / "params.yaml").open("a") as handle:
        handle.write(mistake)
    assert told in refused(folder)


def test_no_parameters_are_one_line(tmp_path):
    folder = lay_out(tmp_path, {})
    (folder / "params.yaml").unlink()
    where = "neither here nor in a folder above; run this in the project's folder"
    assert refused(folder) == f"snakemake: params.yaml: {where}"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("from_result=true", "--config over params.yaml: from_result = True: unknown key; allowed: data, model, "),
        ("seeds=[one]", "--config over params.yaml: seeds.0 = 'one': allowed: an integer"),
        ("runs={vgg_38: {train: {epochs: 3}}}", "--config over params.yaml: runs.vgg_38: no such run; allowed: vgg08"),
        (
            "studies={pair: {title: a\\b}}",
            "--config 'studies={pair: {title: a\\\\b}}': Snakemake would change it on the way to a job; ",
        ),
    ],
)
def test_a_mistake_in_a_setting_on_the_command_line_is_one_line_too(project, setting, told):
    assert refused(project, "--config", setting).startswith(f"snakemake: {told}")


def test_settings_on_the_command_line_are_those_of_the_jobs_and_of_their_commands(project):
    """A seed more, a study of one run, a changed rate and a title with whatever a shell could take for its own."""
    title = "a $(touch x) `touch x` {c} & é"
    settings = ["seeds=[0,3]", "runs={vgg08: {train: {learning_rate: 0.003}}}"]
    settings.append(f"studies={{pair: {{title: {json.dumps(title, ensure_ascii=False)}, runs: [vgg08]}}}}")
    done = snakemake("-n", "pair", "--forceall", "--printshellcmds", "--config", *settings, folder=project)
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(each) for each in re.findall(r"(vanishing .*) 2>&1 \| tee", done.stdout + done.stderr)]
    assert not (project / "x").exists()
    assert {tuple(words[-4:]) for words in commands if "train" in words} == {
        ("train", "vgg08", "--seed", seed) for seed in ("0", "1", "3")
    }
    typed = [f"studies.pair.title={title}", "seeds=[0, 3]", "runs.vgg08.train.learning_rate=0.003"]
    for words in commands:
        options = cli._parser().parse_args(words[1:])
        assert config.read_settings(options.settings) == config.merge(
            config.read_settings(typed), {"studies": {"pair": {"runs": ["vgg08"]}}}
        )


def test_every_rule_hands_on_the_settings_of_the_command_line():
    rules = {path.stem: path.read_text() for path in (examples.ROOT / "workflow/rules").glob("*.smk")}
    assert set(rules) == {stage.name for stage in catalogue.STAGES}
    for name, text in rules.items():
        calls = re.findall(r'^        "(.+) 2>&1 \| tee \{log\}"$', text, re.MULTILINE)
        assert bool(calls) != ("use rule gradients as" in text), name
        assert all(call.startswith("{program} ") for call in calls), name


def test_the_report_alone_needs_neither_data_nor_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = examples.study({"seeds": [0, 1]}, runs=["vgg08", "vgg38", "vgg38_bn"])
    examples.result(study, "vgg08", 1)
    chosen = graph.jobs(study, {"from_results": True})
    assert chosen == [("vgg08", 1)]
    assert graph.drawn(study, chosen) == ["core"]
    assert graph.drawn(study, []) == []
    assert {path.name for path in graph.results_of(chosen)} == {"history.csv", "summary.json", "gradients.csv"}
    assert len(graph.jobs(study, {})) == 6


def test_the_report_alone_has_no_rule_that_could_train(project):
    """Snakemake makes nothing again whose inputs are missing, but a changed parameter would have it train.

    Nor is there the one that wants all results.
    """
    rules = {"data", "train", "gradients", "check"}
    assert rules <= set(snakemake("--list", folder=project).stdout.split())
    listed = snakemake("--list", "--config", "from_results=true", folder=project).stdout.split()
    assert {"tables", "figures", "report"} <= set(listed)
    assert not rules & set(listed)


def configurations(study):
    """Return what each stage's staleness is decided by."""
    texts = graph.configurations(study).items()
    return {path.relative_to(paths.CONFIGURATION).with_suffix("").as_posix(): text for path, text in texts}


ALL = {"train/vgg08", "train/vgg38", "tables/core", "published", "numbers", "html", "check"}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"runs": {"vgg38": {"train": {"learning_rate": 2e-3}}}}, ALL - {"train/vgg08"}),
        ({"train": {"epochs": 3}}, ALL | {"figures/core"}),  # which name the epochs above their panels
        ({"gradients": {"batches": 3}}, {"gradients", "numbers", "html"}),
        ({"data": {"sources": ["elsewhere"]}}, set()),
        ({"data": {"seed": 5}}, {"data", "samples", "trainable_depth"} | ALL),
        ({"studies": {"core": {"title": "Other"}}}, {"figures/core", "tables/core", "numbers", "html"}),
        ({"studies": {"core": {"average": 2}}}, {"figures/core", "tables/core", "numbers", "html"}),
        ({"seeds": [0, 1]}, {"numbers", "html", "check"}),
    ],
)
def test_a_change_makes_stale_what_stands_on_it_and_nothing_else(change, stale):
    before, after = configurations(examples.study()), configurations(examples.study(change))
    assert {stage for stage in before if before[stage] != after[stage]} == stale


def scalars(content):
    """Return every key and value of nested plain values."""
    if isinstance(content, dict):
        return set(content) | scalars(list(content.values()))
    return set().union(*map(scalars, content)) if isinstance(content, list) else {content}


def test_staleness_depends_on_the_parameters_and_on_no_place_time_version_or_revision():
    study = config.load(examples.ROOT / "params.yaml")
    blocks = {"data", "model", "train"}
    runs = [study.run(run).configuration() for run in study.runs]
    said = scalars([study.model_dump(mode="json"), *runs]) | blocks | {study.data.classes}
    said |= set(study.looks.values())
    assert scalars([json.loads(text) for text in configurations(study).values()]) <= said


def test_rules_have_no_parameters_beside_their_configuration(jobs):
    for job in jobs:
        configured = catalogue.stage(job["rule"]).configuration is not None
        assert list(job["params"].keys() - {"command"}) == ["configuration"] * configured


def test_dvc_compares_what_snakemake_records_as_parameters(project, jobs):
    """The file that a stage of DVC depends on holds, to the letter, the parameter of the same job in Snakemake."""
    from dvc.repo import Repo

    study = config.load(project / "params.yaml")
    texts = {path.as_posix(): text for path, text in graph.configurations(study).items()}
    recorded = {command(job): job["params"].get("configuration") for job in jobs}
    with Repo(str(project)) as repo:
        for stage in repo.index.stages:
            files = [path for path in inputs(project, stage) if within(path, ["configuration"])]
            if stage.name in ("configure", "report"):
                assert files == []
            else:
                assert [texts[path].strip() for path in files] == [recorded[stage.cmd]], stage.name


def test_the_curves_of_each_study_overlay_in_a_plot_a_metric(project):
    """DVC draws the histories of all its trainings, by a template that it finds and that has their axes."""
    from dvc.repo import Repo

    study = config.load(project / "params.yaml")
    with Repo(str(project)) as repo:
        definitions = next(repo.plots.collect())["workspace"]["definitions"]["data"]["workflow/dvc.yaml"]["data"]
        template = json.loads((Path(repo.plots.templates_dir) / "curves.json").read_text())
    titles = {"training loss": "train_loss", "validation accuracy": "val_accuracy"}
    assert set(definitions) == {f"{key}: {title}" for key in study.studies for title in titles}
    for name, plot in definitions.items():
        key, title = name.split(": ")
        assert (plot["x"], plot["template"]) == ("epoch", "curves")
        histories = [
            paths.results(run, seed) / "history.csv" for run, seed in study.jobs() if run in study.study(key).runs
        ]
        assert plot["y"] == {path.as_posix(): titles[title] for path in histories}
    assert template["encoding"]["x"]["field"] == "<DVC_METRIC_X>"
    assert template["encoding"]["y"]["field"] == "<DVC_METRIC_Y>"


def test_the_plots_that_are_committed_are_those_of_the_parameters():
    assert (examples.ROOT / paths.PLOTS).read_text() == graph.plots(config.load(examples.ROOT / "params.yaml"))


def test_dvc_checks_the_parameters_before_anything_else(project):
    """DVC removes a stage's outputs before it runs: what refuses a mistake must own none that cost anything."""
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        reading = {stage.name for stage in repo.index.stages if any(hasattr(dep, "params") for dep in stage.deps)}
    assert reading == {"configure"}
