"""Records as DVC writes them, whatever runs are called, and set-ups of DVC that differ from the project's own."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from engines import lay_out, run

import examples
from vanishing import config, files, paths
from vanishing.engines import graph, links
from vanishing.errors import UserError
from vanishing.verify import dvc_lock

NAMES = ["no", "on", "off", "yes", "y", "n", "null", "true", "e1", "inf", "nan", "none"]
"""Of runs: words that YAML 1.1 or 1.2 reads as something else where they are not quoted, and some that look like it."""


def as_dvc_writes(content):
    """Write YAML as DVC does, in version 1.2."""
    from dvc.utils.serialize import dumps_yaml

    return dumps_yaml(json.loads(json.dumps(content)))  # no object twice, for which it would set an anchor


def test_a_record_with_any_name_of_a_run_is_read_as_dvc_writes_it(tmp_path):
    outs = [{"path": "x", "hash": "md5", "md5": "0" * 32, "size": 5}]
    stage = {"cmd": "x", "params": {"params.yaml": {"runs": {name: {} for name in NAMES}}}, "outs": outs}
    text = as_dvc_writes({"schema": "2.0", "stages": {f"train@{name}-0": stage for name in NAMES}})
    assert "\n          no: {}\n" in text, "else this test would be for nothing"
    (tmp_path / "dvc.lock").write_text(text)
    assert [stage.name for stage in dvc_lock.read(tmp_path / "dvc.lock")] == [f"train@{name}-0" for name in NAMES]


def test_parameters_with_any_name_of_a_run_are_read_whoever_has_written_them(tmp_path):
    """With `-S` DVC writes the file anew, and drops the quotes that it does not need."""
    content = examples.content() | {
        "runs": {name: {} for name in NAMES},
        "studies": {"off": {"title": "T", "runs": NAMES}},
    }
    for block in content["analyses"].values():
        block["runs"] = ["no"]
    ours, dvcs = tmp_path / "ours.yaml", tmp_path / "dvcs.yaml"
    ours.write_text(config.text(content))
    dvcs.write_text(as_dvc_writes(content))
    assert "\n  'no': {}\n" in ours.read_text()
    assert "\n  no: {}\n" in dvcs.read_text()
    assert config.read(ours) == config.read(dvcs) == content
    assert list(config.load(dvcs).runs) == list(config.load(ours).runs) == NAMES


@pytest.mark.parametrize("written", ["ours", "DVC's"])
def test_both_engines_plan_a_run_called_no(tmp_path, written):
    lay_out(tmp_path, {"no": {"model": {"blocks": 0}}, "null": {"model": {"blocks": 0}}})
    content = config.read(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text(config.text(content) if written == "ours" else as_dvc_writes(content))
    run(tmp_path, "vanishing", "configure")
    stages = run(tmp_path, "dvc", "stage", "list", "--names-only").split()
    assert {"train@no-0", "gradients@null-0"} <= set(stages)
    commands = run(tmp_path, "snakemake", "-n", "--printshellcmds")
    assert "vanishing train no --seed 0" in commands
    assert "vanishing gradients null --seed 0" in commands


def test_configure_names_the_way_that_works_at_once_in_an_experiment(tmp_path, monkeypatch):
    """Its copy of the project goes with it, and the list of jobs that was written there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_EXP_NAME", "some-name")
    with pytest.raises(UserError) as raised:
        graph.configure(examples.study(), same_jobs=True)
    assert str(raised.value) == (
        "workflow/jobs.json: runs, seeds or studies have changed; make the change in params.yaml, type "
        "`vanishing configure`, then `dvc exp run` without -S for it"
    )
    graph.configure(examples.study(), same_jobs=True)


@pytest.fixture
def linked(tmp_path, monkeypatch):
    """An output as DVC links it: read-only, and one file with an object of its cache."""
    monkeypatch.chdir(tmp_path)
    output, cached = Path("report/report.pdf"), Path(".dvc/cache/files/md5/00/1")
    files.write(cached, "cached")
    cached.chmod(0o444)
    os.utime(cached, (1e9, 1e9))
    output.parent.mkdir()
    output.hardlink_to(cached)
    return output, cached


def test_an_output_that_is_hard_linked_to_the_cache_becomes_a_file_of_its_own(linked):
    output, cached = linked
    links.release()
    assert (output.read_text(), output.stat().st_mtime) == ("cached", 1e9)
    assert output.stat().st_mode & 0o200
    assert not output.samefile(cached)
    assert cached.stat().st_mode & 0o777 == 0o444
    assert list(Path("report").iterdir()) == [output]


@pytest.mark.parametrize("kind", ["read-only by the user", "writable", "symbolic link", "none of the outputs"])
def test_what_snakemake_may_replace_or_a_user_protects_stays(linked, kind):
    output, cached = linked
    if kind == "none of the outputs":
        output = output.rename("report/thesis.pdf")
    else:
        output.unlink()
    if kind == "read-only by the user":
        output.write_text("mine")
        output.chmod(0o444)
    if kind == "writable":
        cached.chmod(0o644)
        output.hardlink_to(cached)
    if kind == "symbolic link":
        output.symlink_to(Path("..") / cached)
    before = output.lstat()
    links.release()
    assert output.lstat() == before


def test_a_project_in_a_folder_of_another_repository_has_its_record(tmp_path):
    """DVC takes the repository above for its own, and its record is the same."""
    folder = tmp_path / "thesis" / "study"
    lay_out(folder, {})
    shutil.copy(examples.ROOT / ".gitignore", folder)
    (folder / ".dvc/config").write_text((examples.ROOT / ".dvc/config").read_text())
    subprocess.run(["git", "init", "--quiet", folder.parent], check=True)
    run(folder, "dvc", "repro", "configure")
    record = (folder / "dvc.lock").read_bytes()
    printed = run(folder, "vanishing", "sync")
    assert "stages entered in DVC's record: 0" in printed
    assert (folder / "dvc.lock").read_bytes() == record


def test_sync_enters_stages_in_the_cache_that_the_users_settings_name(tmp_path, monkeypatch):
    """Else `dvc repro` would look elsewhere."""
    lay_out(tmp_path / "study", {})
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "settings"))
    run(tmp_path / "study", "dvc", "config", "--global", "cache.dir", str(tmp_path / "disk"))
    assert "stages entered in DVC's record: 1 (configure)" in run(tmp_path / "study", "vanishing", "sync")
    assert list((tmp_path / "disk/files/md5").glob("??/*"))
    assert not list((tmp_path / "study/.dvc").glob("cache/files/md5/??/*"))
    assert json.loads(run(tmp_path / "study", "dvc", "status", "--json", "configure")) == {}


@pytest.mark.parametrize("missing", [paths.JOBS, paths.CONFIGURATION])
def test_what_dvc_reads_is_written_before_it_is_asked(tmp_path, missing):
    lay_out(tmp_path, {})
    run(tmp_path, "vanishing", "configure")
    shutil.rmtree(tmp_path / missing) if (tmp_path / missing).is_dir() else (tmp_path / missing).unlink()
    run(tmp_path, "vanishing", "sync")
    assert (tmp_path / missing).exists()


def test_dvcs_record_has_the_same_bytes_whichever_engine_has_built(build, tmp_path):
    """A sync makes of Snakemake's the one that `dvc repro` writes, and leaves that one as it is."""
    by_dvc = build("dvc")
    for engine in ("snakemake", "dvc"):
        folder = Path(shutil.copytree(build(engine), tmp_path / engine))
        run(folder, "vanishing", "sync")
        assert (folder / "dvc.lock").read_bytes() == (by_dvc / "dvc.lock").read_bytes(), engine
