"""What git knows of the project; all of it also works without git or a repository."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vanishing import environment
from vanishing.errors import UserError


def ask(*arguments: str, text: str = "") -> str | None:
    """Return the output of a git command that reads `text`; None without git, a repository or a commit."""
    done = _run(*arguments, text=text)
    return os.fsdecode(done.stdout) if done and done.returncode == 0 else None


def obstacle() -> str | None:
    """Say why git knows no commit of this folder, in its own words; None if it knows one."""
    done = _run("rev-parse", "HEAD")
    if done is None:
        return "git is not installed"
    return None if done.returncode == 0 else next(iter(os.fsdecode(done.stderr).splitlines()), "git gives no reason")


def _run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[bytes] | None:
    """Run git on the repository of this folder, which GIT_DIR, set in a hook of git's, may not be; None without git."""
    if not shutil.which("git"):
        return None
    return subprocess.run(
        ["git", *arguments], env=environment.child(), input=os.fsencode(text), capture_output=True, check=False
    )


def restores(path: Path, digest: str, algorithm: str = "sha256") -> str | None:
    """Return the command that brings a file of this hash back from the last commit; None if that has none."""
    done = _run("show", f"HEAD:./{path.as_posix()}")
    if not done or done.returncode or hashlib.new(algorithm, done.stdout, usedforsecurity=False).hexdigest() != digest:
        return None
    return checkout(path)


def checkout(path: Path, record: str = "git checkout HEAD --") -> str:
    """Return the command that brings a file back from git's last commit, or from another record.

    First the file goes: by its size and time, git and DVC may take one with a flipped bit for the right one.
    """
    return f"{shlex.join(['rm', '-f', str(path)])} && {record} {shlex.quote(str(path))}"


def commit(paths: Sequence[Path], message: str) -> bool:
    """Commit these paths alone, as the user whose environment this is; False if nothing differs from the last commit.

    Raises:
        UserError: git makes no commit; it has said why.
    """
    named = ["--", *map(str, paths)]
    for arguments in (["add", "--all", *named], ["commit", "--quiet", "--message", message, *named]):
        if ask("status", "--porcelain", *named) == "":
            return False
        if subprocess.run(["git", *arguments], check=False).returncode:
            raise UserError("git makes no commit, for the reason above; mend it, then run the same command to resume")
    return True


def committed(folder: Path) -> dict[Path, str]:
    """Return the name of the blob of each file of the last commit at or below `folder`, by path."""
    lines = (ask("ls-tree", "-r", "-z", "HEAD", "--", str(folder)) or "").split("\0")
    return {Path(path): entry.split()[2] for entry, path in (line.split("\t", 1) for line in lines if line)}


def blobs(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the blob name that git would give each regular file; reading a pipe or device might never end."""
    plain = [path for path in paths if path.is_file()]
    names = (ask("hash-object", "--stdin-paths", text="".join(f"{path}\n" for path in plain)) or "").split()
    return dict(zip(plain, names, strict=False))
