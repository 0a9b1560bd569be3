"""What holds of the repository as a whole: nothing unsafe in the code, everything pinned, every parameter explained."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import examples
from vanishing import config
from vanishing.config import strict_yaml
from vanishing.engines import workspace

PACKAGE = examples.ROOT / "src" / "vanishing"
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
LONGEST_FUNCTION = 60
"""Lines, docstring included."""


def calls(tree):
    """Yield (dotted name, call) of every call in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def nodes(kind):
    return [(name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kind)]


def test_nothing_is_evaluated_or_run_by_a_shell():
    forbidden = {"eval", "exec", "compile", "os.system", "os.popen", "__import__", "subprocess.getoutput"}
    for module, tree in TREES.items():
        for name, call in calls(tree):
            assert name not in forbidden, f"{module}:{call.lineno}"
            assert not any(word.arg == "shell" for word in call.keywords), f"{module}:{call.lineno}"


def test_no_pickle_is_ever_loaded():
    for module, tree in TREES.items():
        assert not re.search(r"import c?[Pp]ickle\b", ast.unparse(tree)), module
        for name, call in calls(tree):
            assert name not in {"torch.load", "pd.read_pickle"}, f"{module}:{call.lineno}"
            allowed = [ast.literal_eval(word.value) for word in call.keywords if word.arg == "allow_pickle"]
            assert not any(allowed), f"{module}:{call.lineno}"


def test_no_call_turns_off_the_check_of_a_servers_identity():
    for module, tree in TREES.items():
        for _, call in calls(tree):
            assert not any(word.arg == "verify" for word in call.keywords), f"{module}:{call.lineno}"


def test_secrets_of_remotes_are_ignored_by_git():
    done = subprocess.run(["git", "check-ignore", "-q", ".dvc/config.local"], cwd=examples.ROOT, check=False)
    assert done.returncode in (0, 128), "128: not a git repository"


def test_no_secret_is_in_the_committed_settings_of_dvc():
    """The place of a remote may be there (docs/remotes.md), without a password in its address."""
    text = (examples.ROOT / ".dvc" / "config").read_text()
    assert not re.search(
        r"password|passphrase|key|token|secret|credential|connection|://[^/@\s]*:[^/@\s]*@", text, re.I
    )


def test_what_the_security_notes_name_is_there():
    text = (examples.ROOT / "SECURITY.md").read_text()
    modules = set(re.findall(r"\| `([\w/.]+)` \|$", text, re.MULTILINE))
    assert len(modules) == 13
    for name in modules:
        assert (PACKAGE / name).exists(), name
    for name in re.findall(r"`((?:tests|\.ci)/[\w./]+)`", text):
        assert (examples.ROOT / name).exists(), name


def test_yaml_is_read_by_safe_loaders_alone():
    for module, tree in TREES.items():
        for name, call in calls(tree):
            if name == "yaml.load":
                assert "Loader=StrictLoader" in ast.unparse(call), f"{module}:{call.lineno}"
            assert name not in {"yaml.unsafe_load", "yaml.full_load"}, f"{module}:{call.lineno}"
    assert issubclass(strict_yaml.StrictLoader, yaml.SafeLoader)


def test_no_function_is_long():
    for module, node in nodes(ast.FunctionDef):
        assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{module}: {node.name}"


def test_every_exception_is_handled():
    for module, handler in nodes(ast.ExceptHandler):
        assert handler.type is not None, f"{module}:{handler.lineno} catches everything"
        assert not all(isinstance(item, ast.Pass) for item in handler.body), f"{module}:{handler.lineno} hides errors"


def test_no_assert_guards_what_a_user_hands_in():
    assert [f"{module}:{node.lineno}" for module, node in nodes(ast.Assert)] == []


BRIDGES = ["engines/lock.py", "engines/remote.py", "engines/sync.py", "engines/typed.py"]


def test_only_the_bridges_and_the_notebooks_know_the_engines():
    for module, node in nodes((ast.Import, ast.ImportFrom)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        engines = {name.split(".")[0] for name in names} & {"snakemake", "dvc"}
        assert not engines or module in BRIDGES, f"{module}:{node.lineno}"


OPTIONAL = {"triton"}
"""Comes with PyTorch for CUDA, and is imported where there is a GPU alone."""


def test_every_imported_package_is_declared_and_every_declared_one_used():
    project = tomllib.loads((examples.ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[A-Za-z0-9._-]+", text)[0].replace("-", "_").lower() for text in project["dependencies"]}
    names = {"pyyaml": "yaml", "pillow": "pil", "vl_convert_python": "vl_convert"}
    imported = set()
    for _, node in nodes((ast.Import, ast.ImportFrom)):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        imported |= {module.partition(".")[0].lower() for module in modules}
    foreign = imported - {name.lower() for name in sys.stdlib_module_names} - {"vanishing", ""} - OPTIONAL
    installed = {names.get(name, name) for name in declared}
    assert foreign - installed == set()
    assert installed - foreign == {"ipykernel"}, "run as a program"


LAYERS = (
    "errors", "environment", "paths", "console", "locks", "files", "project", "git", "config", "data", "training",
    "results", "analysis", "report", "engines", "verify", "sharing", "weights", "stages", "look", "complete", "cli",
)  # fmt: skip
"""Of the package, each above those before it; `__init__`, the public API, imports from any when it is called."""


def imports():
    """Yield every import of this package in itself as a pair of files; what type checkers alone read is left out."""
    for module, tree in TREES.items():
        branches = (item for item in ast.walk(tree) if isinstance(item, ast.If))
        guarded = (item for item in branches if ast.unparse(item.test) == "TYPE_CHECKING")
        typing = {id(node) for item in guarded for node in ast.walk(item)}
        for node in ast.walk(tree):
            taken = isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "vanishing"
            if taken and id(node) not in typing:
                base = Path(*node.module.split(".")[1:])
                for name in (base / alias.name for alias in node.names):
                    files = (f"{name}.py", f"{name}/__init__.py", f"{base}.py", f"{base / '__init__.py'}")
                    yield module, next(file for file in files if file in TREES)


def test_nothing_imports_upwards():
    ranks = {name: at for at, name in enumerate(LAYERS)}
    for module, imported in imports():
        if not module.startswith("__"):
            own, other = (name.partition("/")[0].removesuffix(".py") for name in (module, imported))
            assert ranks[other] <= ranks[own], f"{module} imports {imported}"


def test_no_imports_go_in_a_circle():
    needed: dict[str, set[str]] = {name: set() for name in TREES}
    for module, other in imports():
        if module != other:
            needed[module].add(other)
    while free := {name for name, others in needed.items() if not others & set(needed)}:
        needed = {name: others for name, others in needed.items() if name not in free}
    assert needed == {}


def test_every_package_is_pinned_by_version_and_hash():
    text = (examples.ROOT / "requirements.lock").read_text()
    packages = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert len(packages) > 50
    for package in packages:
        assert re.match(r"[A-Za-z0-9._-]+==[^\s;]+", package), package.splitlines()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", package), package.splitlines()[0]
    assert "://" not in text
    assert "-index" not in text


def test_every_dependency_is_locked():
    project = tomllib.loads((examples.ROOT / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==", (examples.ROOT / "requirements.lock").read_text(), re.MULTILINE))
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower() for requirement in wanted}
    assert names <= {name.lower() for name in locked}


def test_no_committed_file_names_a_home_directory():
    homes = re.compile(rb"/(?:home|Users)/(?!someone\b)[A-Za-z]\w*|/roo[t]/|[A-Z]:\\Users")
    for path in (examples.ROOT / name for name in examples.committed()):
        if path.name not in ("test_repository.py", "requirements.lock"):
            found = homes.search(path.read_bytes())
            assert not found, f"{path.name}: {found[0]!r}"


def test_generated_files_are_not_committed():
    generated = ("data/", "checkpoints/", "report/tables/", "report/figures/", "report/build/", "logs/", ".snakemake/")
    names = examples.committed()
    assert [name for name in names if name.startswith(generated)] == []
    assert "report/report.pdf" not in names


MADE = ["data/x.npz", "checkpoints/x/seed0/best.safetensors", "configuration/data.json", "report/report.pdf", "build/x"]
SCRATCH = [".snakemake/log/x", ".vanishing/resume/x", "logs/x", "checkpoints/x/seed0/.snakemake_timestamp"]


@pytest.mark.parametrize("name", MADE + SCRATCH)
def test_git_ignores_what_can_be_made_again(name):
    done = subprocess.run(["git", "check-ignore", "-q", name], cwd=examples.ROOT, check=False)
    assert done.returncode in (0, 128), "128: not a git repository"


@pytest.mark.parametrize("name", SCRATCH)
def test_dvc_ignores_the_scratch_of_both_engines(name, tmp_path):
    """Snakemake's mark in a folder that it makes would make DVC's record of the folder another."""
    from dvc.repo import Repo

    workspace.lay_out(examples.ROOT, tmp_path, None)
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.touch()
    with Repo(str(tmp_path)) as repo:
        assert repo.dvcignore.is_ignored_file(str(path))


def test_dvc_links_no_output_to_the_bytes_in_its_cache():
    """Copies and reflinks, DVC's default, are safe from whoever writes in place; hard links are not."""
    for text in ((examples.ROOT / ".dvc" / "config").read_text(), workspace.DVC_CONFIG):
        assert "link" not in text


THROWN_AWAY = ("verify/rebuild.py", "report/typeset.py")
"""Modules that copy folders: into one that is thrown away, or is kept for the reader alone."""


def test_files_are_written_by_the_one_function_that_replaces_them():
    """In place, a kill would leave half an output, and a write would go through a link into DVC's cache."""
    opened = set()
    for module, tree in TREES.items():
        for name, call in calls(tree):
            verb, arguments = name.rpartition(".")[2], list(map(ast.unparse, call.args))
            assert verb not in {"write_text", "write_bytes", "hardlink_to", "copyfile"}, module
            assert verb != "copytree" or module in THROWN_AWAY, module
            assert verb != "to_csv" or not arguments, f"{module}:{call.lineno} writes a table itself"
            assert verb not in {"savez", "savefig"} or arguments[0] == "handle", f"{module}:{call.lineno}"
            if verb in ("open", "fdopen") and re.search(r"'[rbt]*[wax+][bt+]*'", ast.unparse(call)):
                opened.add(f"{module}: {name}")
    opened.remove("cli.py: Path(os.devnull).open")
    opened.remove("engines/progress.py: self._path.open")  # for TensorBoard, which reads on where it has stopped
    assert opened == {"files.py: os.fdopen", "data/downloads.py: partial.open"}  # which goes on with half a download


def test_every_parameter_is_explained_beside_it():
    block = ""
    for line in (examples.ROOT / "params.yaml").read_text().splitlines():
        key = re.match(r"( {0,4})([a-z_0-9]+):", line)  # deeper are the entries of the list of sources
        if key and not key[1]:
            block = key[2]
        if key and block in ("data", "model", "train", "gradients"):
            assert " # " in line or line == f"{block}:", f"{block}: {key[2]} is not explained"


def test_what_the_comments_of_choices_offer_is_what_is_allowed():
    """`a | b | c` beside a key is the whole set of its values."""
    text = (examples.ROOT / "params.yaml").read_text()
    for block, model in (("data", config.Data), ("model", config.Model), ("train", config.Train)):
        schema = model.model_json_schema()["properties"]
        part = re.search(rf"^{block}:.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)[0]
        for key, entry in schema.items():
            if "enum" in entry:
                comment = re.search(rf"^  {key}: .*?# (.*)$", part, re.MULTILINE)[1]
                offered = re.findall(r"\w+", re.sub(r"\(.*?\)|,.*", "", comment))
                assert offered == [str(value) for value in entry["enum"]], f"{block}.{key}"


def test_the_makefile_explains_every_target():
    text = (examples.ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    for target in targets:
        assert re.search(rf"^{target}:.*## \S", text, re.MULTILINE), target
