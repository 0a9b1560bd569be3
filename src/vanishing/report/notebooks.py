"""Figure notebooks, run by papermill and stripped of whatever changes from one run to the next."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from vanishing import config, environment, files, locks, paths, project
from vanishing.errors import UserError
from vanishing.report.captions import CAPTIONS

SOURCES = Path("notebooks")
"""One notebook for each figure family, committed without outputs."""

KERNEL = [
    "--IPKernelApp.exec_lines=import matplotlib; matplotlib.rcdefaults()",  # not a `matplotlibrc` in the folder
    "--IPKernelApp.ignore_cwd=True",  # nor a module there
    "--IPKernelApp.log_level=50",  # it would call the end of a kernel an error; what fails in a cell is told anyway
]
"""Arguments of the kernel."""


def draw_study(key: str, settings: config.Parameters) -> None:
    """Run the notebooks of a study: figures into `report/figures/`, what was run into `results/notebooks/`.

    They are run as one, since half the time of each is what it imports. The figures' SHA-256, as `sha256sum` writes
    them, stand beside their folder, and change with them alone.

    Raises:
        ParameterError: there is no such study.
        UserError: a cell failed; the error says which and why, and what was written stays as it was.
    """
    block = settings.study(key)
    executed = execute([SOURCES / f"{family}.ipynb" for family in block.draw], {"study": key}, settings)
    files.write(paths.NOTEBOOKS / f"{key}.ipynb", executed)
    drawn = outputs(key, block)
    missing = [path for path in drawn if not path.exists()]
    if missing:
        raise UserError(f"{missing[0]}: no notebook of study {key!r} has drawn it")
    files.write(paths.FIGURES / f"{key}.sha256", _hashes(drawn))


def outputs(key: str, study: config.Study) -> list[Path]:
    """List the files that the figures of a study are saved in."""
    return [paths.FIGURES / key / f"{name}.pdf" for family in study.draw for name in CAPTIONS[family]]


def draw_comparison() -> None:
    """Run the notebook that holds published numbers against ours; errors as in `draw_study`."""
    files.write(paths.COMPARISON / "agreement.ipynb", execute([SOURCES / "agreement.ipynb"], {}))


def draw_analyses(names: Sequence[str], settings: config.Parameters) -> None:
    """Run the notebooks of analyses as one: figures into `report/why/parts/`; errors as in `draw_study`.

    Without an analysis there is a notebook without cells. The hashes of the figures and tables stand beside the folder.
    """
    parts = paths.WHY / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    empty = f"{nbformat.writes(nbformat.v4.new_notebook())}\n"
    executed = execute([SOURCES / f"{name}.ipynb" for name in names], {}, settings) if names else empty
    files.write(paths.RESULTS / "why.ipynb", executed)
    files.write(paths.WHY / "parts.sha256", _hashes(sorted(parts.glob("[!.]*"))))


def _hashes(found: Iterable[Path]) -> str:
    return "".join(f"{files.sha256(path)}  {path}\n" for path in found)


def execute(sources: Sequence[Path], values: dict[str, str], settings: config.Parameters | None = None) -> str:
    """Run notebooks as one in the project's folder, and return it as text.

    Args:
        sources: the notebooks.
        values: what papermill enters in the first.
        settings: what `config.load` returns in them; by default what `params.yaml` says.
    """
    logging.getLogger("papermill").setLevel(logging.WARNING)
    with environment.plain_folder() as folder, environment.replaced(_own_settings()):
        _list_fonts(Path(os.environ["MPLCONFIGDIR"]))
        os.environ["JUPYTER_RUNTIME_DIR"] = str(folder)
        if settings:
            os.environ[config.VARIABLE] = str(folder / "params.yaml")
            files.write(folder / "params.yaml", settings.model_dump_json())  # JSON is YAML
        try:
            executed = papermill.execute_notebook(
                join(sources),
                None,
                values,
                kernel_name="python3",
                cwd=Path.cwd(),
                progress_bar=False,
                config=_kernel(folder),
                extra_arguments=KERNEL,
            )
        except PapermillExecutionError as error:
            problem = " ".join(f"{error.ename}: {error.evalue}".split())
            raise UserError(f"{_place(error.source, sources)} failed: {problem}") from None
        except RuntimeError as error:  # nbclient's and jupyter_client's
            problem = " ".join(str(error).split())
            raise UserError(
                f"{', '.join(map(str, sources))}: the kernel did not start, or died: {problem}; "
                "the same command tries again"
            ) from None
    return f"{nbformat.writes(normalise(executed))}\n"


def join(sources: Sequence[Path]) -> NotebookNode:
    """Return notebooks as one, with the parameters of the first."""
    first, *others = [nbformat.read(path, as_version=4) for path in sources]
    for other in others:
        first.cells += [cell for cell in other.cells if "parameters" not in cell.metadata.get("tags", [])]
    return normalise(first)


def _place(source: str, notebooks: Sequence[Path]) -> str:
    """Name the cell with that `source`, and its number among the code of its notebook."""
    for path in notebooks:
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        if source in cells:
            return f"{path}: cell {1 + cells.index(source)}"
    return f"{notebooks[0]}: its parameters"


def _list_fonts(cache: Path) -> None:
    """Have matplotlib list the fonts into its `cache`, once and outside of any notebook.

    A kernel would print that this takes long, or that another process holds the list, even one killed long ago.
    """
    listed = cache / f"fonts-of-{version('matplotlib')}"
    with locks.hold(cache / "fonts.lock", wait=float("inf")):
        if not listed.exists():
            for left in cache.glob("*.matplotlib-lock"):
                left.unlink()
            command = [sys.executable, "-c", "import matplotlib.font_manager"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UserError(f"matplotlib cannot list the fonts: {done.stderr.strip().rpartition(chr(10))[2]}")
            listed.touch()


def _own_settings() -> dict[str, str]:
    """Return the environment of a kernel: its settings, its fonts and its code are the project's, not the user's."""
    names = ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "MPLCONFIGDIR")
    own = {name: (paths.SCRATCH / "kernel" / name.lower()).resolve() for name in names}
    for folder in own.values():
        folder.mkdir(parents=True, exist_ok=True)
    return environment.child(
        **{name: str(folder) for name, folder in own.items()},
        JUPYTER_NO_CONFIG="1",
        PYDEVD_DISABLE_FILE_VALIDATION="1",  # the kernel's debugger would warn of frozen modules
        PYTHONPATH=str(project.RUNNING.parent),
    )


def _kernel(folder: Path) -> Config:
    """Have this interpreter run a kernel, spoken to through sockets that are files in a folder of its own.

    A kernel `python3` that the user has installed may be another Python's. TCP ports can clash between kernels that
    start at the same time, and so can the files that the kernel manager would name itself, in the working directory.
    """
    return Config(
        {
            "KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"},
            "KernelSpecManager": {"kernel_dirs": [], "ensure_native_kernel": True},
        }
    )


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Drop times, durations, paths and versions from an executed notebook, and number its cells.

    What a cell prints becomes one output: a kernel on a busy machine may send it in several.
    """
    notebook.metadata = NotebookNode(kernelspec=notebook.metadata.kernelspec)
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place}"
        cell.metadata = NotebookNode(tags=cell.metadata.get("tags", []))
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    nbformat.validate(notebook)
    return notebook


def _joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Return the outputs of a cell with texts that follow one another on the same stream in one."""
    found: list[NotebookNode] = []
    for output in outputs:
        if found and output.output_type == "stream" == found[-1].output_type and output.name == found[-1].name:
            found[-1].text += output.text
        else:
            found.append(output)
    return found
