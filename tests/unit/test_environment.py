import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import users

from vanishing import environment
from vanishing.errors import UserError

SWITCHES = {
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX2",
    "OMP_DYNAMIC": "true",
    "OMP_THREAD_LIMIT": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "CUBLASLT_WORKSPACE_SIZE": "0",
    "DISABLE_ADDMM_CUDA_LT": "1",
    "PYTORCH_TUNABLEOP_ENABLED": "1",
}
LEFT = {
    "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "OMP_PROC_BIND": "true",
    "KMP_AFFINITY": "x", "DNNL_VERBOSE": "1", "TORCH_HOME": "x", "TRITON_CACHE_DIR": "x", "TORCH_LOGS": "x",
    "MKLEIN": "x",
}  # fmt: skip
"""What changes no sum, or is recorded in another way, and what only looks alike."""


def printed(code: str, *python: str, **variables: str) -> str:
    """Return what a Python that has settled prints, among these variables alone."""
    command = [*(python or (sys.executable,)), "-c", f"from vanishing import environment\n{code}"]
    own = {"PYTHONPATH": str(Path(environment.__file__).parents[1])}
    done = subprocess.run(command, env=own | variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_switch_of_the_arithmetic_goes_and_nothing_else(monkeypatch):
    with environment.replaced(SWITCHES | LEFT):
        environment.settle()
        kept = dict(os.environ)
    assert not SWITCHES.keys() & kept.keys()
    assert kept.items() >= LEFT.items()
    assert kept["OPENBLAS_NUM_THREADS"] == "1"


def test_a_process_that_has_not_settled_names_its_switches():
    with environment.replaced(LEFT):
        assert environment.switches() == ""
    with environment.replaced({"MKL_CBWR": "COMPATIBLE", "DNNL_X": "\u00e91", **LEFT}):
        assert environment.switches() == r"DNNL_X=\xe91 MKL_CBWR=COMPATIBLE"
    with environment.replaced({"MKL_CBWR": "x" * 200}):
        assert re.fullmatch("sha256 [0-9a-f]{64}", environment.switches())


def test_what_the_loader_has_read_before_the_program_stays_named():
    tunables = "glibc.cpu.hwcaps=-AVX2"
    found = printed("environment.settle(); print(environment.switches())", GLIBC_TUNABLES=tunables)
    assert found == f"GLIBC_TUNABLES={tunables}"


def test_programs_of_this_environment_are_found_without_its_activation():
    code = "import os; environment.settle(); print(os.environ['PATH'])"
    own = str(Path(sys.executable).parent)
    assert printed(code, PATH="/usr/bin:/bin") == f"{own}:/usr/bin:/bin"
    assert printed(code, PATH=f"{own}:/bin") == f"{own}:/bin"
    assert printed(code).startswith(f"{own}:")


def test_a_user_without_a_home_that_can_be_written_gets_one():
    code = "import os, pathlib; environment.settle(); print(os.access(pathlib.Path.home(), os.W_OK))"
    for home in ({}, {"HOME": ""}, {"HOME": "/proc/nothing"}, {"HOME": "/"}):
        assert printed(code, **home) == "True"


def test_a_home_that_can_be_read_stays(tmp_path):
    assert printed("import os; environment.settle(); print(os.environ['HOME'])", HOME=str(tmp_path)) == str(tmp_path)


def test_nobody_else_writes_settings_into_a_home_that_is_made_up(tmp_path):
    code = "import os; environment.settle(); print(os.environ['HOME'])"
    variables = {"HOME": "/nothing", "TMPDIR": str(tmp_path)}
    made = Path(printed(code, **variables))
    assert made == tmp_path / f"vanishing-home-{os.getuid()}"
    assert made.stat().st_mode & 0o777 == 0o700
    assert printed(code, **variables) == str(made)
    made.chmod(0o777)
    other = Path(printed(code, **variables))
    assert other != made
    assert other.stat().st_mode & 0o777 == 0o700


def test_a_user_id_without_an_entry_gets_a_name_and_a_home():
    code = (
        "import getpass, os, pathlib; environment.settle(); print(getpass.getuser(), os.access(pathlib.Path.home(), 2))"
    )
    assert printed(code, *users.nameless(), sys.executable, PATH=os.environ["PATH"]) == "uid54321 True"


def test_modules_of_a_cluster_shadow_no_package_of_the_lock(tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('another numpy')")
    own = Path(environment.__file__).parents[1]
    both = f"{tmp_path}:{own}"
    code = "environment.settle(); import numpy, os; print(numpy.__name__, os.environ['PYTHONPATH'])"
    assert printed(code, PYTHONPATH=both) == f"numpy {own}"


def test_a_child_sees_a_few_of_the_users_variables():
    with environment.replaced({"PATH": "/bin", "TEXINPUTS": "/x", "MATPLOTLIBRC": "/y", "LC_ALL": "tr_TR.UTF-8"}):
        own = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
        assert environment.child(A="1") == {"PATH": "/bin", "A": "1"} | own


def test_variables_come_back_after_a_failure():
    before = dict(os.environ)
    with pytest.raises(KeyError), environment.replaced({"A": "1"}):
        assert dict(os.environ) == {"A": "1"}
        raise KeyError
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", ["x" * 100, "a b", "a:b", "a$b", "\u00e9"])
def test_a_plain_folder_is_elsewhere_where_tmpdir_is_not_plain(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / name))
    with environment.plain_folder() as folder:
        (folder / "file").touch()
        assert folder.parent in map(Path, environment.ROOM)
    assert not folder.exists()


def test_a_plain_folder_is_where_tmpdir_says(monkeypatch):
    with environment.plain_folder() as outer:
        monkeypatch.setenv("TMPDIR", str(outer))
        with environment.plain_folder() as folder:
            assert folder.parent == outer


def test_no_plain_folder_is_an_error_that_says_what_to_set(monkeypatch):
    def refuse(**_: object) -> str:
        raise PermissionError

    monkeypatch.setattr(environment.tempfile, "mkdtemp", refuse)
    message = r"^TMPDIR: no folder for temporary files; set it to one that can be written"
    with pytest.raises(UserError, match=message), environment.plain_folder():
        pass
