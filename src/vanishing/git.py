"""What git knows of the project; all of it also works without git or a repository."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def ask(*arguments: str, text: str = "") -> str | None:
    """Return the output of a git command that reads `text`; None without git, a repository or a commit."""
    if not shutil.which("git"):
        return None
    done = subprocess.run(["git", *arguments], input=text, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def committed(folder: Path) -> dict[Path, str]:
    """Return the name of the blob of each file of the last commit at or below `folder`, by path."""
    lines = (ask("ls-tree", "-r", "-z", "HEAD", "--", str(folder)) or "").split("\0")
    return {Path(path): entry.split()[2] for entry, path in (line.split("\t", 1) for line in lines if line)}


def blobs(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the blob name that git would give each regular file; reading a pipe or device might never end."""
    plain = [path for path in paths if path.is_file()]
    names = (ask("hash-object", "--stdin-paths", text="".join(f"{path}\n" for path in plain)) or "").split()
    return dict(zip(plain, names, strict=False))
