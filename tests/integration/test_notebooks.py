import json
import shutil
import subprocess
from pathlib import Path

import engines
import nbclient
import nbformat
import pandas as pd
import pytest
import yaml
from matplotlib import font_manager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import examples
from vanishing import config, paths, stages
from vanishing.engines import workspace
from vanishing.errors import UserError
from vanishing.report import notebooks
from vanishing.report.captions import CAPTIONS
from vanishing.report.why import section
from vanishing.results import store

COMMITTED = sorted((examples.ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, str(tmp_path))  # execute() sets them; monkeypatch puts them back
    return tmp_path


def test_there_is_a_notebook_for_every_figure_family_and_one_for_the_comparison():
    assert {path.stem for path in COMMITTED} == {*CAPTIONS, "agreement", *section.TITLES}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebooks_hold_no_outputs_and_are_as_the_project_writes_them(path):
    notebook = nbformat.read(path, as_version=4)
    for place, cell in enumerate(notebook.cells):
        assert cell.id == f"cell-{place}"
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert path.read_text(encoding="utf-8") == f"{nbformat.writes(notebook)}\n"
    tagged = sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    assert tagged == (path.stem in CAPTIONS)  # the comparison is of no one study


def test_times_paths_and_identifiers_are_dropped():
    cell = new_code_cell("1 + 1", id="8f1a", execution_count=3, outputs=[new_output("stream", text="2")])
    cell.metadata = {"papermill": {"duration": 0.1, "start_time": "2026-01-01"}, "tags": ["parameters"]}
    notebook = new_notebook(cells=[cell, new_markdown_cell("text")])
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python", "version": "3.11.7"},
        "papermill": {"input_path": "/home/someone/notebook.ipynb", "end_time": "2026-01-01"},
    }
    normal = notebooks.normalise(nbformat.from_dict(notebook))
    text = nbformat.writes(normal)
    assert [cell.id for cell in normal.cells] == ["cell-0", "cell-1"]
    assert normal.cells[0].metadata == {"tags": ["parameters"]}
    assert normal.cells[0].outputs[0].text == "2"
    assert not [word for word in ("papermill", "someone", "2026", "duration", "3.11.7", "8f1a") if word in text]


def notebook(folder, *cells):
    path = folder / "small.ipynb"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}), path)
    return path


def test_what_a_cell_prints_is_one_output_however_many_times_the_kernel_sent_it():
    def printed(text, name="stdout"):
        return nbformat.v4.new_output("stream", text=text, name=name)

    shown = nbformat.v4.new_output("display_data", {"text/plain": "figure"})
    outputs = [printed("a\n"), printed("b\n"), printed("c\n", "stderr"), shown, printed("d\n"), printed("e\n")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python"}}
    (cell,) = notebooks.normalise(nbformat.from_dict(notebook)).cells
    assert [output.get("text") for output in cell.outputs] == ["a\nb\n", "c\n", None, "d\ne\n"]


def test_notebooks_are_joined_with_the_parameters_of_the_first(folder):
    for name in ("training", "gradient_flow"):
        cells = [new_code_cell("study = 'core'", metadata={"tags": ["parameters"]}), new_code_cell(f"draw({name!r})")]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / f"{name}.ipynb")
    joined = notebooks.join([folder / "training.ipynb", folder / "gradient_flow.ipynb"])
    assert [cell.source for cell in joined.cells] == ["study = 'core'", "draw('training')", "draw('gradient_flow')"]
    assert [cell.id for cell in joined.cells] == ["cell-0", "cell-1", "cell-2"]


def test_a_failing_cell_of_the_second_is_told_by_its_place_there(folder):
    first = notebook(folder, "1 + 1", "2 + 2").rename(folder / "first.ipynb")
    with pytest.raises(UserError, match=r"small.ipynb: cell 2 failed: ZeroDivisionError: division by zero$"):
        notebooks.execute([first, notebook(folder, "3 + 3", "1 / 0")], {})


def test_a_failing_cell_is_one_line_that_names_notebook_cell_and_error(folder):
    path = notebook(folder, "study = 'core'", "raise ValueError('no such\\ncolour')")
    with pytest.raises(UserError, match=r"small.ipynb: cell 2 failed: ValueError: no such colour$"):
        notebooks.execute([path], {})


def test_a_kernel_is_spoken_to_by_files_of_its_own_and_not_by_ports(folder):
    path = notebook(folder, "from ipykernel import get_connection_info", "print(get_connection_info())")
    told = [nbformat.reads(notebooks.execute([path], {}), as_version=4).cells[1].outputs[0].text for _ in range(2)]
    first, second = map(json.loads, told)
    assert first["transport"] == second["transport"] == "ipc"
    assert first["ip"] != second["ip"]


def test_a_kernel_calls_nothing_an_error_but_what_fails_in_a_cell(folder, capfd):
    """It would call the signal that ends it one, now and then."""
    path = notebook(folder, "get_ipython().kernel.log.error('KeyboardInterrupt caught in kernel.')")
    assert nbformat.reads(notebooks.execute([path], {}), as_version=4).cells[0].outputs == []
    assert "KeyboardInterrupt" not in "".join(capfd.readouterr())


def test_a_notebook_is_told_the_settings_of_its_command_and_nothing_of_where_they_are(folder):
    Path("params.yaml").write_text(config.text(examples.content()))
    path = notebook(folder, "from vanishing import config", "print(config.load().train.epochs)")
    told = [notebooks.execute([path], {}, config.load(overrides={"train": {"epochs": n}})) for n in (5, 6)]
    assert [nbformat.reads(each, as_version=4).cells[1].outputs[0].text for each in told] == ["5\n", "6\n"]
    Path("params.yaml").write_text(config.text(examples.content({"train": {"epochs": 6}})))
    assert notebooks.execute([path], {}) == told[1]


def test_a_killed_kernels_lock_on_the_list_of_fonts_does_not_speak_in_a_notebook(folder):
    cache = folder / ".vanishing" / "kernel" / "mplconfigdir"
    cache.mkdir(parents=True)
    lock = cache / f"fontlist-v{font_manager.FontManager.__version__}.json.matplotlib-lock"
    lock.touch()
    executed = nbformat.reads(notebooks.execute([notebook(folder, "import matplotlib.font_manager")], {}), as_version=4)
    assert executed.cells[0].outputs == []
    assert not lock.exists()


def test_the_fonts_are_listed_once_and_anew_after_a_kill(folder, monkeypatch):
    monkeypatch.setenv("MPLCONFIGDIR", str(folder))
    listed = folder / f"fontlist-v{font_manager.FontManager.__version__}.json"
    listed.write_text('{"half')
    notebooks._list_fonts(folder)
    assert "DejaVu Sans" in {font["name"] for font in json.loads(listed.read_text())["ttflist"]}
    monkeypatch.setattr(notebooks.subprocess, "run", None)
    notebooks._list_fonts(folder)


def test_an_unknown_study_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"^study 'cor' is not configured; allowed: core$"):
        notebooks.draw_study("cor", examples.study())


@pytest.fixture
def project(folder):
    """Lay out the pipeline with the results of a small study."""
    workspace.lay_out(examples.ROOT, folder, None)
    configured = examples.content()
    Path("params.yaml").write_text(yaml.safe_dump(configured))
    for run in configured["runs"]:
        examples.result(config.load(), run)
    return folder


def drawn_of_core():
    made = [paths.NOTEBOOKS / "core.ipynb", *(paths.FIGURES / "core").iterdir()]
    return {path: path.read_bytes() for path in made}


def test_a_notebook_gives_the_same_text_and_figures_each_time(project):
    def run():
        notebooks.draw_study("core", config.load())
        return drawn_of_core()

    first = run()
    assert {path for path in first if path.suffix == ".pdf"} == set(
        notebooks.outputs("core", config.load().studies["core"])
    )
    assert not [path for path, content in first.items() if str(project).encode() in content]
    assert b'"image/png"' in first[paths.NOTEBOOKS / "core.ipynb"]
    hashes = paths.FIGURES / "core.sha256"
    drawn = config.load().studies["core"]
    assert len(hashes.read_text().splitlines()) == len(notebooks.outputs("core", drawn)) == 9
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", hashes], check=True)
    shutil.rmtree(paths.SCRATCH)
    assert run() == first
    shutil.rmtree(paths.FIGURES)
    notebooks.execute([notebooks.SOURCES / "gradient_flow.ipynb"], {"study": "core"})  # without those before it
    alone = {path: path.read_bytes() for path in (paths.FIGURES / "core").iterdir()}
    assert len(alone) == len(CAPTIONS["gradient_flow"])
    assert {path: first[path] for path in alone} == alone


def test_a_users_settings_change_no_byte_and_a_kernel_ends_without_a_word(project, tmp_path_factory):
    assert engines.run(project, "vanishing", "figures", "core") == ""
    first = drawn_of_core()
    shutil.rmtree(paths.FIGURES)
    variables = engines.hostile(tmp_path_factory.mktemp("user"))
    variables["PYTHONPATH"] += f":{examples.ROOT / 'src'}"  # where this Python has another checkout installed
    shutil.copy(variables["MATPLOTLIBRC"], "matplotlibrc")
    assert engines.run(project, "vanishing", "figures", "core", **variables) == ""
    assert drawn_of_core() == first


def test_without_the_defaults_a_matplotlibrc_would_change_the_pictures(project, monkeypatch, tmp_path_factory):
    shutil.copy(engines.hostile(tmp_path_factory.mktemp("user"))["MATPLOTLIBRC"], "matplotlibrc")

    def pictures():
        executed = nbformat.reads(notebooks.execute([notebooks.SOURCES / "training.ipynb"], {}), as_version=4)
        shown = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
        return [output.data["image/png"] for output in shown if "image/png" in output.get("data", {})]

    own = pictures()
    assert len(own) >= 2
    monkeypatch.setattr(notebooks, "KERNEL", [each for each in notebooks.KERNEL if "rcdefaults" not in each])
    assert [one == other for one, other in zip(own, pictures(), strict=True)] == [False] * len(own)


@pytest.mark.parametrize(
    ("name", "figure"),
    [("training", "report/figures/core/loss.pdf"), ("trainable_depth", "report/why/parts/trainable_depth-loss.pdf")],
)
def test_a_notebook_that_jupyter_opens_in_its_folder_draws_for_the_project(project, name, figure):
    row = {"initialisation": "default", "precision": "fp32", "layers": 8, "seed": 0, "standard_errors": 20.0}
    row |= {"signal": 1e-3, "entry_gradient": 1e-6, "epoch": 1, "val_loss": 2.0}
    store.write_table(paths.TRAINABLE_DEPTH, pd.DataFrame([row]))
    opened = nbformat.read(notebooks.SOURCES / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(opened, resources={"metadata": {"path": str(notebooks.SOURCES)}}).execute()
    assert Path(figure).stat().st_size > 1000
    assert not [path for path in notebooks.SOURCES.iterdir() if path.suffix != ".ipynb"]


def test_the_comparison_gives_its_tables_and_its_figure_the_same_each_time(folder):
    workspace.lay_out(examples.ROOT, folder, None)
    settings = config.load()
    for run in ("vgg08", "vgg08_it", "vgg38_bn_rc_lr2"):
        examples.result(settings, run)

    def run():
        stages.published(settings)
        made = [path for part in (paths.COMPARISON, Path("report/comparison")) for path in sorted(part.iterdir())]
        return {path: path.read_bytes() for path in made}

    first = run()
    assert [path.name for path in first] == [
        "agreement.ipynb", "brackets.csv", "gradients.csv", "initialisation.csv", "published.csv", "scatter.csv",
        "schedules.csv", "agreement.pdf", "gradients.tex", "initialisation.tex", "published.tex", "scatter.tex",
        "schedules.tex",
    ]  # fmt: skip
    assert run() == first


def test_a_study_without_results_is_told_in_one_line(folder):
    workspace.lay_out(examples.ROOT, folder, None)
    with pytest.raises(UserError, match=r"^notebooks/training.ipynb: cell \d failed: UserError: study 'core' has no"):
        notebooks.draw_study("core", config.load())
    assert not paths.NOTEBOOKS.exists()
