import os

import pytest

import examples
from vanishing import config, files
from vanishing.engines import workspace
from vanishing.errors import UserError

READ = ("Snakefile", "dvc.yaml", ".dvcignore", "workflow/rules/", "notebooks/", "report/")
"""What of the repository the two engines and the commands read, beside params.yaml and .dvc/config."""


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def origin(tmp_path):
    """A small project: a Snakefile, a source and the project's parameters."""
    folder = tmp_path / "origin"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "Snakefile").write_text("rule all:\n")
    (folder / "notebooks" / "training.ipynb").write_text("{}")
    (folder / "params.yaml").write_text((examples.ROOT / "params.yaml").read_text())
    return folder


def test_every_committed_file_that_the_pipeline_reads_is_laid_out(tmp_path):
    wanted = {path for path in examples.committed() if path.startswith(READ)}
    assert len(wanted) > 40
    workspace.lay_out(examples.ROOT, tmp_path / "copy", None)
    wanted.add("profiles/default/config.yaml")  # in the project behind a link
    assert wanted <= files_below(tmp_path / "copy")


def test_the_code_is_found_where_it_is_in_the_project_and_not_copied(tmp_path):
    link = tmp_path / "copy" / "src"

    def lay_out():
        workspace.lay_out(examples.ROOT, tmp_path / "copy", None)
        assert link.is_symlink()
        assert (link / "vanishing").samefile(examples.ROOT / "src" / "vanishing")

    lay_out()
    lay_out()
    link.unlink()
    (link / "vanishing").mkdir(parents=True)  # a copy, as earlier versions made it
    lay_out()
    link.unlink()
    link.symlink_to(tmp_path / "moved")
    lay_out()


def test_nothing_that_the_pipeline_makes_is_laid_out(origin, tmp_path):
    for made in ("results/tables/core.csv", "data/cifar100.npz", "report/numbers.tex", "report/report.pdf"):
        (origin / made).parent.mkdir(parents=True, exist_ok=True)
        (origin / made).write_text("made")
    workspace.lay_out(origin, tmp_path / "copy", None)
    assert files_below(tmp_path / "copy") == {
        "Snakefile", "notebooks/training.ipynb", "params.yaml", "workflow/jobs.json", "workflow/dvc.yaml",
        ".dvc/config", ".vanishing/workspace",
    }  # fmt: skip


def test_the_parameters_are_those_of_the_project_with_the_overlay_laid_over(origin, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("train: {epochs: 3}\nmodel: {filters: 16}\n")
    workspace.lay_out(origin, tmp_path / "copy", overlay)
    changed, before = config.load(tmp_path / "copy" / "params.yaml"), config.load(origin / "params.yaml")
    assert (changed.train.epochs, changed.model.filters) == (3, 16)
    assert changed.runs == before.runs
    assert list(changed.runs) == list(before.runs)  # their order gives the colours
    assert changed.train.batch_size == before.train.batch_size


def test_the_demonstration_is_laid_out_with_its_own_parameters(tmp_path):
    workspace.lay_out(examples.ROOT, tmp_path / "copy", examples.ROOT / "workflow" / "demo.yaml")
    assert config.load(tmp_path / "copy" / "params.yaml").data.set == "generated"


def test_a_file_that_has_not_changed_keeps_its_time(origin, tmp_path):
    copy = tmp_path / "copy"
    workspace.lay_out(origin, copy, None)
    for path in files_below(copy):
        os.utime(copy / path, (1, 1))
    (origin / "notebooks" / "training.ipynb").write_text("changed")
    workspace.lay_out(origin, copy, None)
    assert (copy / "params.yaml").stat().st_mtime == 1
    assert (copy / ".dvc" / "config").stat().st_mtime == 1
    assert (copy / "notebooks" / "training.ipynb").stat().st_mtime > 1
    assert (copy / "notebooks" / "training.ipynb").read_text() == "changed"


def test_a_source_that_the_project_no_longer_has_goes_and_results_stay(origin, tmp_path):
    copy = tmp_path / "copy"
    workspace.lay_out(origin, copy, None)
    (copy / "results").mkdir()
    (copy / "results" / "history.csv").write_text("kept")
    (origin / "notebooks" / "training.ipynb").rename(origin / "notebooks" / "other.ipynb")
    workspace.lay_out(origin, copy, None)
    assert [path.name for path in (copy / "notebooks").iterdir()] == ["other.ipynb"]
    assert (copy / "results" / "history.csv").read_text() == "kept"


EDITS = [
    "params.yaml",
    "Snakefile",
    "notebooks/training.ipynb",
]


@pytest.mark.parametrize("path", EDITS)
def test_an_edited_source_is_kept_under_another_name_and_told(origin, tmp_path, path, capsys):
    copy = tmp_path / "copy"
    workspace.lay_out(origin, copy, None)
    before, kept = (copy / path).read_bytes(), copy / ".vanishing" / "edited" / path
    (copy / path).write_text("mine")
    workspace.lay_out(origin, copy, None)
    assert (copy / path).read_bytes() == before
    assert kept.read_text() == "mine"
    assert capsys.readouterr().err == f"{copy / path}: was edited; is now {kept}, and laid out anew\n"
    (copy / path).write_text("mine again")
    workspace.lay_out(origin, copy, None)
    assert (kept.read_text(), kept.with_name(f"{kept.name}.2").read_text()) == ("mine", "mine again")
    capsys.readouterr()
    workspace.lay_out(origin, copy, None)
    assert capsys.readouterr().err == ""


def test_an_edited_source_that_the_project_no_longer_has_is_kept_too(origin, tmp_path, capsys):
    copy = tmp_path / "copy"
    workspace.lay_out(origin, copy, None)
    (copy / "notebooks" / "training.ipynb").write_text("mine")
    (origin / "notebooks" / "training.ipynb").unlink()
    workspace.lay_out(origin, copy, None)
    assert not (copy / "notebooks" / "training.ipynb").exists()
    assert (copy / ".vanishing" / "edited" / "notebooks" / "training.ipynb").read_text() == "mine"
    assert "notebooks/training.ipynb: was edited; is now " in capsys.readouterr().err


def test_sources_of_a_clone_for_windows_are_not_taken_for_edited(origin, tmp_path, capsys):
    copy, notebook = tmp_path / "copy", origin / "notebooks" / "training.ipynb"
    notebook.write_bytes(b"{\r\n}\r\n")
    workspace.lay_out(origin, copy, None)
    notebook.write_bytes(b"{\r\n \r\n}\r\n")
    workspace.lay_out(origin, copy, None)
    assert (copy / "notebooks" / "training.ipynb").read_bytes() == b"{\n \n}\n"
    assert capsys.readouterr().err == ""


def test_what_a_workspace_of_an_earlier_version_holds_is_kept_where_it_differs(origin, tmp_path):
    """Its mark lists no hashes, so that nothing says who has changed what."""
    copy = tmp_path / "copy"
    workspace.lay_out(origin, copy, None)
    (copy / ".vanishing" / "workspace").write_text("laid out by `vanishing workspace`\n")
    (copy / "params.yaml").write_text("mine")
    workspace.lay_out(origin, copy, None)
    assert files_below(copy / ".vanishing" / "edited") == {"params.yaml"}


def test_a_users_own_notebook_settings_of_dvc_and_copy_of_the_code_stay(origin, tmp_path):
    """DVC's say where the data is pushed; a copy of the code, which a link replaces, is kept under another name."""
    copy = tmp_path / "copy"
    workspace.lay_out(examples.ROOT, copy, None)
    own = ["notebooks/mine.ipynb", ".dvc/config", "src/vanishing/cures.py"]
    (copy / "src").unlink()
    for path in own:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_text("# mine")
    workspace.lay_out(examples.ROOT, copy, None)
    own[-1] = f".vanishing/edited/{own[-1]}"
    assert [(copy / path).read_text() for path in own] == ["# mine"] * 3


def test_a_mark_from_elsewhere_has_nothing_removed_but_sources(origin, tmp_path):
    copy = tmp_path / "copy"
    workspace.lay_out(origin, copy, None)
    for path in ("thesis.tex", "copy/results.csv"):
        (tmp_path / path).write_text("mine")
    with (copy / ".vanishing" / "workspace").open("a") as mark:
        mark.writelines(
            f"{files.sha256(tmp_path / 'thesis.tex')}  {path}\n" for path in ("../thesis.tex", "results.csv")
        )
    workspace.lay_out(origin, copy, None)
    assert (tmp_path / "thesis.tex").exists()
    assert (copy / "results.csv").exists()


@pytest.mark.parametrize("folder", [".", "notebooks/.."])
def test_the_project_itself_is_refused(origin, monkeypatch, folder):
    monkeypatch.chdir(origin)
    before = (origin / "params.yaml").read_text()
    with pytest.raises(UserError, match="is the project itself; name another folder"):
        workspace.lay_out(origin, origin / folder, None)
    assert (origin / "params.yaml").read_text() == before


def test_a_folder_with_files_of_somebody_elses_is_refused_and_left_alone(origin, tmp_path):
    theirs = tmp_path / "thesis" / "notebooks" / "thesis.ipynb"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(UserError, match="neither empty nor laid out by this command"):
        workspace.lay_out(origin, tmp_path / "thesis", None)
    assert files_below(tmp_path / "thesis") == {"notebooks/thesis.ipynb"}


def test_a_folder_that_is_no_project_is_refused(tmp_path):
    with pytest.raises(UserError, match="no Snakefile here; run this in the project's folder"):
        workspace.lay_out(tmp_path, tmp_path / "copy", None)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {epocs: 3}\n", "overlay.yaml: train.epocs = 3: unknown key"),
        ("train: {epochs: 0}\n", "overlay.yaml: train.epochs = 0: allowed: greater than or equal to 1"),
        ("- 1\n", "overlay.yaml: must be a mapping"),
    ],
)
def test_a_mistake_in_the_overlay_is_one_line_and_lays_nothing_out(origin, tmp_path, text, told):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text)
    with pytest.raises(config.ParameterError) as raised:
        workspace.lay_out(origin, tmp_path / "copy", overlay)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "copy").exists()


def test_a_missing_overlay_is_named(origin, tmp_path):
    with pytest.raises(config.ParameterError, match=r"none\.yaml: cannot be read: No such file"):
        workspace.lay_out(origin, tmp_path / "copy", tmp_path / "none.yaml")


@pytest.mark.parametrize(("overlay", "epochs"), [("demo.yaml", 6), ("every_run.yaml", 4)])
def test_what_is_to_take_minutes_leaves_no_run_its_hundreds_of_epochs(overlay, epochs, tmp_path):
    studies = ["core"] if overlay == "demo.yaml" else None
    workspace.lay_out(examples.ROOT, tmp_path / "copy", examples.ROOT / "workflow" / overlay, studies)
    settings = config.load(tmp_path / "copy" / "params.yaml")
    assert {run for run in settings.runs if settings.run(run).train.epochs > epochs} == set()
