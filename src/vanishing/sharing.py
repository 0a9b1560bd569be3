"""Results handed on: `vanishing share` checks, pushes and commits them, and `vanishing restore` brings them back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vanishing import config, git, paths
from vanishing.console import counted, say
from vanishing.engines import lock, remote, sync
from vanishing.errors import UserError
from vanishing.results import store
from vanishing.verify import dvc_lock
from vanishing.verify.mismatch import Mismatch

PAGES = ("README.md", "docs/results.md", "docs/analyses.md", "docs/result.svg")
RECORD = (dvc_lock.LOCK, paths.RESULTS, *map(Path, PAGES))
"""What `share` commits: DVC's record, the results, and what `vanishing readme` writes."""

SOURCES = ("src", "notebooks", "report", "workflow")
"""Folders in which a file that git does not know may be one that the results stand on."""


def share(settings: config.Parameters, every: bool = False) -> None:
    """Check what is here, push data and checkpoints to DVC's remote, and commit the record.

    The commit comes last, so that none names an object which the remote lacks; pushing it is the user's own affair.

    Args:
        settings: of the study.
        every: also read every object on the remote, and replace those that are damaged.

    Raises:
        UserError: an engine or a training is at work; no remote, or out of reach; changes that are not committed; a
            file does not match its record.
    """
    from vanishing.report import readme  # with them come PyTorch and seaborn, which a restore can do without
    from vanishing.verify import run

    lock.check_idle("vanishing share")  # whose results would be committed unchecked
    if why := git.obstacle():
        raise UserError(f"no commit to add to: {why}; without git, `dvc push` alone hands on data and checkpoints")
    with remote.opened():
        pass  # an error now, and not after minutes of checks
    _check_committed()
    sync.bring_together(settings)
    run.verify(settings)
    readme.write_readme(settings)
    with remote.opened() as storage:
        for path, digest, _ in _objects() if every else ():
            if dvc_lock.kept(digest) and not storage.intact(digest):
                storage.replace(digest)
                say(f"{path}: '{storage.name}' had no intact copy, now it has")
        storage.push()
    trainings = counted(len(list(store.available(settings))), "training")
    made = git.commit([path for path in RECORD if path.exists()], f"Record the results of {trainings}")
    print("committed; `git push` hands it on" if made else "nothing new to commit")


def restore(settings: config.Parameters) -> None:
    """Bring data and checkpoints from DVC's remote, and tell both engines what is here.

    Raises:
        UserError: an engine or a training is at work; no remote, or out of reach; an object is missing or damaged.
    """
    lock.check_idle("vanishing restore")
    with remote.opened() as storage:
        if not dvc_lock.LOCK.exists():
            raise UserError(f"{dvc_lock.LOCK}: missing; nothing has been shared yet")
        outputs = [(path, digest) for stage in dvc_lock.read() for path, digest in stage.outputs.items()]
        complaint = storage.pull([path for path, digest in outputs if _listed(storage, digest)])
        missing = [each for each in _objects() if not dvc_lock.kept(each[1])]
        lost = [each for each in missing if not storage.intact(each[1])]
    if complaint and not lost:
        raise complaint
    for path, digest, command in lost:
        print(Mismatch(path, f"{digest} ({dvc_lock.LOCK})", f"no intact copy on '{storage.name}'", command))
    sync.bring_together(settings)
    if lost:
        raise UserError(
            f"not restored: {len(lost)}; `vanishing share --all` mends the remote, where they are whole or made again"
        )


def _listed(storage: remote.Remote, digest: str) -> bool:
    """Return whether an output is a file, or its list is in the cache now."""
    return not digest.endswith(dvc_lock.DIRECTORY) or dvc_lock.kept(digest) or storage.bring_list(digest)


def _objects() -> Iterator[tuple[Path, str, str]]:
    """Yield each object that `dvc.lock` names: the file or directory, its hash, and the command that makes it."""
    for digest, (stage, path) in dvc_lock.owners(dvc_lock.read()):
        if paths.RESULTS not in path.parents:  # which git has
            yield path, digest, stage.command


def _check_committed() -> None:
    """Check that all that the results stand on is committed: else nobody could build on the record."""
    changed = git.ask("diff", "--relative", "--name-only", "-z", "HEAD") or ""
    unknown = git.ask("ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES) or ""
    found = [Path(name) for name in (changed + unknown).split("\0") if name]
    if left := [path for path in found if not any(each == path or each in path.parents for each in RECORD)]:
        names = ", ".join(map(str, left[: sync.SHOWN])) + ", ..." * (len(left) > sync.SHOWN)
        raise UserError(f"not committed: {names}; commit them, or put them aside with `git stash --include-untracked`")
