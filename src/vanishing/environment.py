"""What of the user's environment reaches a result: nothing of this process's arithmetic, little of its children."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vanishing.errors import UserError

ARITHMETIC = re.compile(
    r"(DNNL|ONEDNN|MKL|MKLDNN|OPENBLAS|BLIS|NPY|KMP|GOMP|CUBLAS|CUBLASLT|CUDNN|TRITON)_\w+"
    r"|(TORCH|OMP|PYTORCH_TUNABLEOP)_\w+|NVIDIA_TF32_OVERRIDE|DISABLE_ADDMM_CUDA_LT|GLIBC_TUNABLES"
)
"""Variables by which the libraries of linear algebra choose other instructions, precisions, or numbers of threads.

Under the same configuration they give other sums, or, as OMP_THREAD_LIMIT and OMP_DYNAMIC do, threads that wait for
each other without end. ATEN_CPU_CAPABILITY is left to the user, since a summary names its effect, and so is
OMP_NUM_THREADS, which PyTorch's own setting overrides.
"""

HARMLESS = re.compile(
    r"OMP_(WAIT_POLICY|NUM_THREADS)|\w*(VERBOSE|CACHE|PATH|PTXAS|HOME|LOG|AFFINITY|PROC_BIND|PLACES|DISPLAY)\w*"
)
"""Those of them that say where files are, what is printed, and on which cores threads run and how they wait."""

NUMPY_THREADS = "OPENBLAS_NUM_THREADS"
"""NumPy's matrix products and eigenvalues differ in their last bits from one number of threads to another."""

LOADER = ("GLIBC_TUNABLES",)
"""Those that act before a program runs, so that removing them comes too late; they are recorded."""

KEPT = (
    "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "OMP_WAIT_POLICY",
)  # fmt: skip
"""What a program that makes part of the report inherits: where programs, libraries and room for files are."""

ROOM = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - mkdtemp draws the names, and makes what nobody else can read
"""Where there is room for files that no result depends on."""

PLAIN_BYTES = 60
"""Longest path of a folder for sockets, which have 107 bytes and names of their own."""


def settle() -> None:
    """Make this process independent of the user's settings; call it before PyTorch, NumPy or pandas are imported.

    Switches of the arithmetic go, and NumPy sums in one thread, however many cores there are. Programs of this Python's
    environment come first in `PATH`, activated or not. Where the system knows no name or home of the user, as in many
    containers, both are made up. `PYTHONPATH`, which modules of clusters set for every program, adds nothing but this
    package.
    """
    for name in [name for name in os.environ if _switches(name) and name not in LOADER]:
        del os.environ[name]
    os.environ[NUMPY_THREADS] = "1"
    _find_own_programs()
    _name_user()
    _ignore_other_packages()


def switches() -> str:
    """Name the variables that change the arithmetic of this process: those that `settle` could not remove, or all.

    Without `settle`, as in a notebook, libraries have read whatever the user has set.

    Returns:
        Names and values, sorted, or their hash where they would be long; an empty text if there are none.
    """
    found = sorted(f"{name}={value}" for name, value in os.environ.items() if _switches(name))
    text = ascii(" ".join(found))[1:-1]
    return text if len(text) <= 200 else f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def _switches(name: str) -> bool:
    """Whether a variable changes sums, beside those that `devices.configure` sets or overrides itself."""
    if name in ("CUBLAS_WORKSPACE_CONFIG", NUMPY_THREADS) or HARMLESS.fullmatch(name):
        return False
    return bool(ARITHMETIC.fullmatch(name))


def child(**own: str) -> dict[str, str]:
    """Return the environment of a program that makes part of the report: a few of the user's variables, and `own`."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    fixed = {"LC_ALL": "C.UTF-8", "TZ": "UTC", NUMPY_THREADS: "1", "PYTHONSAFEPATH": "1"}  # no modules of the folder
    return kept | fixed | own


@contextlib.contextmanager
def replaced(variables: dict[str, str]) -> Iterator[None]:
    """Have this process, and what it starts, see these variables alone."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def plain_folder() -> Iterator[Path]:
    """Make a temporary folder with a short path of plain characters, as sockets and LaTeX need it.

    Raises:
        UserError: neither `TMPDIR` nor `/tmp` gives one.
    """
    for parent in (os.environ.get("TMPDIR", ""), *ROOM):
        if len(os.fsencode(parent)) <= PLAIN_BYTES and re.fullmatch(r"/[A-Za-z0-9_./-]+", parent):
            with contextlib.suppress(OSError):
                made = Path(tempfile.mkdtemp(prefix="vanishing-", dir=parent))
                break
    else:
        raise UserError(
            f"TMPDIR: no folder for temporary files; set it to one that can be written, has at most {PLAIN_BYTES} "
            "characters, and only letters, digits, '_', '.', '-' among them"
        )
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _find_own_programs() -> None:
    """Put the programs of this Python's environment first in `PATH`."""
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = f"{own}{os.pathsep}{path}"


def _name_user() -> None:
    """Give the user a home and a name, which the engines ask for, where the system has none."""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        entry = None
        os.environ.setdefault("USER", f"uid{os.getuid()}")
    home = os.environ.get("HOME") or (entry.pw_dir if entry else "")
    os.environ["HOME"] = home if home.strip("/") and os.access(home, os.R_OK | os.X_OK) else str(_own_home())


def _own_home() -> Path:
    """Make a home that nobody else can write settings into, which programs would obey; once for all processes."""
    home = Path(tempfile.gettempdir()) / f"vanishing-home-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    status = home.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix="vanishing-home-"))
    return home


def _ignore_other_packages() -> None:
    """Forget the folders of `PYTHONPATH`, but for that of this package."""
    own = Path(__file__).resolve().parents[1]
    named = [each for each in os.environ.pop("PYTHONPATH", "").split(os.pathsep) if each]
    other = {str(Path(each).absolute()) for each in named if Path(each).resolve() != own}
    sys.path[:] = [each for each in sys.path if each not in other]
    if own in [Path(each).resolve() for each in named]:
        os.environ["PYTHONPATH"] = str(own)
