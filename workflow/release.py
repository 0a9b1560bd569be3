"""Builds what a release consists of, in build/release/: source archive, manifest of the committed results, checksums.

Usage: release.py, in the project's folder.
"""

import contextlib
import gzip
import hashlib
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

import yaml

from vanishing import environment, files, git, project
from vanishing.engines import graph
from vanishing.errors import UserError, line
from vanishing.verify import manifest

FOLDER = Path("build") / "release"
SUMS = "SHA256SUMS"
SHOWN = 5
"""Files that an error names."""


def release() -> None:
    """Write all files of the release; `UserError` if something is not committed, or versions differ."""
    check_committed()
    name = f"vanishing-{version()}"
    archive = packed(f"{name}/")
    content = {f"{name}.tar.gz": archive, f"{name}-manifest.json": described(archive, name).encode()}
    content[SUMS] = "".join(f"{hashlib.sha256(each).hexdigest()}  {file}\n" for file, each in content.items()).encode()
    for file, each in content.items():
        files.write(FOLDER / file, each)
        print(FOLDER / file)


def check_committed() -> None:
    """Raise `UserError` if the archive, which is made of the last commit, would not be what is here."""
    if why := git.obstacle():
        raise UserError(f"no commit to make an archive of: {why}")
    status = git.ask("status", "--porcelain", "--no-renames", "-z") or ""
    if changed := [entry[3:] for entry in status.split("\0") if entry]:
        names = ", ".join(changed[:SHOWN]) + ", ..." * (len(changed) > SHOWN)
        raise UserError(f"not committed: {names}; commit them, or put them aside with `git stash --include-untracked`")


def version() -> str:
    """Return the version of the release; `UserError` if a file, or the environment, has another one."""
    text = {name: Path(name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md")}
    said = {
        "pyproject.toml": tomllib.loads(text["pyproject.toml"])["project"]["version"],
        "CITATION.cff": yaml.safe_load(text["CITATION.cff"])["version"],
        ".zenodo.json": json.loads(Path(".zenodo.json").read_text(encoding="utf-8"))["version"],
        "CHANGELOG.md": next(iter(re.findall(r"^## \[(\d[^\]]*)\]", text["CHANGELOG.md"], re.MULTILINE)), "none"),
        "the environment (`make setup`)": importlib.metadata.version("vanishing"),
    }
    if len(set(said.values())) > 1:
        raise UserError(f"versions differ: {', '.join(f'{name} has {each}' for name, each in said.items())}")
    return said["pyproject.toml"]


def packed(prefix: str) -> bytes:
    """Return the archive of the last commit: the same bytes each time, whatever the user's settings."""
    command = ["git", "-c", "tar.umask=0022", "archive", "--format=tar", f"--prefix={prefix}", "HEAD"]
    tar = subprocess.run(command, env=environment.child(), stdout=subprocess.PIPE, check=True).stdout
    compressed = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=compressed, mtime=0) as handle:
        handle.write(tar)
    return compressed.getvalue()


def described(archive: bytes, name: str) -> str:
    """Return the manifest of what is in the archive, as `vanishing manifest` gives it where that is unpacked."""
    revision = (git.ask("rev-parse", "HEAD") or "").strip()
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as members:
        members.extractall(folder, filter="data")
        with contextlib.chdir(Path(folder) / name):
            project.check_code()
            repeats = manifest.collect(graph.load())["repeats"]
    return manifest.as_text({"revision": revision, "repeats": repeats})


if __name__ == "__main__":
    try:
        release()
    except (UserError, OSError) as error:
        sys.exit(f"make release: {line(error)}")
