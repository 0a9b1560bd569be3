"""DVC's remote, where data and checkpoints are shared: its errors in one line, and objects that are damaged there.

An object is a file whose name is its MD5, or a list of a directory's files (`.dir`).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vanishing.console import say
from vanishing.errors import AGAIN, UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

ADD = "`dvc remote add --default NAME PLACE` names one (docs/remotes.md)"


class Remote:
    """The default remote of the project.

    Args:
        repo: the project as DVC sees it.
    """

    def __init__(self, repo: Repo) -> None:
        self._repo, self._lists = repo, 0
        self._objects = repo.cloud.get_remote_odb()
        self.name = repo.config["core"]["remote"]
        place, fs = repo.config["remote"][self.name]["url"], self._objects.fs
        there = fs.exists(fs.parent(fs.parent(self._objects.path)))  # connects: the error of a fetch names no cause
        if fs.protocol == "local" and not there:  # DVC would make it, be it where a disk is not mounted
            raise UserError(f"{place}: no such directory; mount the disk, or make it with `mkdir -p`")

    def push(self) -> None:
        """Send every object that `dvc.lock` names and the remote does not list; those that are there are trusted."""
        say(f"objects sent to '{self.name}': {self._repo.push()}")

    def bring_list(self, digest: str) -> bool:
        """Bring the list of a directory's files into the cache; False if it is missing or damaged on the remote.

        DVC takes a list from the remote unread, and puts each file where the list says, be it outside the project.
        """
        content = self._read(digest)
        if content is None or hashlib.md5(content, usedforsecurity=False).hexdigest() != digest.removesuffix(".dir"):
            return False
        self._repo.cache.local.add_bytes(digest, content)
        self._lists += 1
        return True

    def pull(self, outputs: Sequence[Path]) -> UserError | None:
        """Bring outputs of stages into the cache and the checkout, but nothing that is damaged.

        Lists of the files of directories must be in the cache: see `bring_list`.

        Returns:
            DVC's complaint, which seldom says of what: it is then not in the cache.
        """
        from dvc.exceptions import CheckoutError, DownloadError
        from dvc.output import ObjectFormatError

        if not (targets := list(map(str, outputs))):
            return None  # DVC would take an empty list for all outputs
        try:
            say(f"objects brought from '{self.name}': {self._lists + self._repo.fetch(targets)}")
            self._repo.checkout(targets, allow_missing=True)  # what no engine has built yet, and what is damaged
        except (ObjectFormatError, DownloadError, CheckoutError) as error:
            return _told(error)
        return None

    def intact(self, digest: str) -> bool:
        """Read an object, and return whether it is there and is what its name says."""
        found = hashlib.md5(usedforsecurity=False)
        try:
            with self._objects.fs.open(self._objects.oid_to_path(digest), "rb") as handle:
                while block := handle.read(1 << 20):
                    found.update(block)
        except FileNotFoundError:
            return False
        return found.hexdigest() == digest.removesuffix(".dir")

    def _read(self, digest: str) -> bytes | None:
        try:
            content: bytes = self._objects.fs.cat_file(self._objects.oid_to_path(digest))
        except FileNotFoundError:
            return None
        return content

    def replace(self, digest: str) -> None:
        """Put the object of the cache in place of what the remote has under its name."""
        cache, path = self._repo.cache.local, self._objects.oid_to_path(digest)
        with contextlib.suppress(FileNotFoundError):
            self._objects.fs.remove(path)
        self._objects.add(cache.oid_to_path(digest), cache.fs, digest, check_exists=False)


@contextlib.contextmanager
def opened() -> Iterator[Remote]:
    """Open the default remote; whatever fails there until the block ends is a `UserError`.

    What arrives is compared with its hash (`verify`), which DVC leaves out by default.
    """
    from dvc.logger import set_loggers_level
    from dvc.repo import Repo

    try:
        # above warnings: a study that is trained in part has one for each output that is missing
        with set_loggers_level(logging.ERROR), Repo() as plain:
            name = plain.config["core"].get("remote")
            if not name:
                raise UserError(f"DVC has no default remote; {ADD}")
            with Repo(config={"remote": {name: {"verify": True}}}) as repo:
                yield Remote(repo)
    except UserError:
        raise
    except Exception as error:  # storage of each kind has errors of its own, which are no DvcException
        raise _told(error) from error


def _told(error: Exception) -> UserError:
    """Return an error of DVC's, or of the storage, in a line with the next step."""
    said = " ".join(str(error).split()).replace("`--force`", "`dvc checkout --force`").rstrip(".")
    step = "`vanishing share --all` mends it" if "is corrupted" in said else f"see docs/remotes.md, then {AGAIN}"
    return UserError(f"remote: {said or type(error).__name__}; {step}")
