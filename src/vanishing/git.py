"""What git knows of the project; all of it also works without git or a repository."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vanishing import environment


def ask(*arguments: str, text: str = "") -> str | None:
    """Return the output of a git command that reads `text`; None without git, a repository or a commit."""
    done = _run(*arguments, text=text)
    return done.stdout if done and done.returncode == 0 else None


def obstacle() -> str | None:
    """Say why git knows no commit of this folder, in its own words; None if it knows one."""
    done = _run("rev-parse", "HEAD")
    if done is None:
        return "git is not installed"
    return None if done.returncode == 0 else next(iter(done.stderr.splitlines()), "git gives no reason")


def _run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str] | None:
    """Run git on the repository of this folder, which GIT_DIR, set in a hook of git's, may not be; None without git."""
    if not shutil.which("git"):
        return None
    return subprocess.run(
        ["git", *arguments], env=environment.child(), input=text, capture_output=True, text=True, check=False
    )


def committed(folder: Path) -> dict[Path, str]:
    """Return the name of the blob of each file of the last commit at or below `folder`, by path."""
    lines = (ask("ls-tree", "-r", "-z", "HEAD", "--", str(folder)) or "").split("\0")
    return {Path(path): entry.split()[2] for entry, path in (line.split("\t", 1) for line in lines if line)}


def blobs(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the blob name that git would give each regular file; reading a pipe or device might never end."""
    plain = [path for path in paths if path.is_file()]
    names = (ask("hash-object", "--stdin-paths", text="".join(f"{path}\n" for path in plain)) or "").split()
    return dict(zip(plain, names, strict=False))
