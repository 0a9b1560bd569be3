"""DVC's record, `dvc.lock`, and the cache behind it, hashed without DVC: it trusts what it has hashed once."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vanishing import config, files, git, paths
from vanishing.engines import catalogue, graph, sync
from vanishing.errors import UserError
from vanishing.verify.mismatch import Mismatch, Scope, guarded, problem, remove

LOCK = Path("dvc.lock")
CACHE = Path(".dvc") / "cache"
"""Where DVC's cache is unless its configuration says otherwise."""

DIRECTORY = ".dir"
"""What ends the hash of a directory: it is that of a list of its files."""

IGNORED = frozenset({".snakemake_timestamp", "__pycache__"})
"""Files and folders that `.dvcignore` leaves out."""


MAX_BYTES = 4 << 20
"""A record or list larger than this is refused unread; that of the study has 0.2 MB."""


def _within(name: str) -> str:
    """Refuse a path that is not of a file or folder of the project."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or name.startswith("-") or not name.isprintable():
        raise ValueError(f"{name!r:.80} is no path in the project")
    return name


Inside = Annotated[str, AfterValidator(_within)]


class _Entry(BaseModel):
    """What is read of a file, or directory, in a stage."""

    model_config = ConfigDict(strict=True)
    path: Inside
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]


class _Member(BaseModel):
    """What is read of a file in the list of a directory's files."""

    model_config = ConfigDict(strict=True)
    relpath: Inside
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class _Stage(BaseModel):
    model_config = ConfigDict(strict=True)
    deps: list[_Entry] = []
    outs: list[_Entry] = []


class _Lock(BaseModel):
    model_config = ConfigDict(strict=True)
    stages: dict[Annotated[str, Field(pattern=r"^[\w-]+(@[\w.-]+)?$", max_length=200)], _Stage]


@dataclass(frozen=True)
class Stage:
    """A stage as it last ran: the MD5 of every input and output."""

    name: str
    inputs: dict[Path, str]
    outputs: dict[Path, str]

    @property
    def command(self) -> str:
        """What makes its outputs again. The command stored in dvc.lock is untrusted and never shown."""
        return catalogue.command_of(self.name)


def read(path: Path = LOCK) -> list[Stage]:
    """Read the stages of `dvc.lock`; `UserError` if it is damaged."""
    content = config.read_yaml(path, MAX_BYTES, "record of DVC's")
    try:
        entries = _Lock.model_validate(content).stages
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}") from None
    return [Stage(name, _by_path(entry.deps), _by_path(entry.outs)) for name, entry in entries.items()]


def outputs(scope: Scope) -> Iterator[Mismatch]:
    """Compare the outputs with `dvc.lock`: those of stages whose inputs are still what they were made from."""
    if not LOCK.exists():
        scope.notes.append(f"{LOCK}: not here, so nothing is compared with it")
        return
    try:
        stages = read()
    except UserError as error:
        yield Mismatch(LOCK, "DVC's record", problem(LOCK, error), "dvc repro")
        return
    outdated = stale(stages, scope.settings)
    if outdated:
        names = ", ".join(sorted(outdated))
        scope.notes.append(
            f"{LOCK}: made from other inputs, not compared: {names}; `vanishing sync` enters what is here"
        )
    listings, missing = _Listings(), []
    for stage in stages:
        for path, digest in stage.outputs.items() if stage.name not in outdated else ():
            if path.exists():
                found = _compare(scope, path, digest, stage.command, listings.read(digest))
                yield from guarded(path, stage.command, found)
            else:
                missing.append(str(path))
    if missing:
        scope.notes.append(f"{LOCK}: not here, not compared: {', '.join(missing)}; `dvc pull` brings what was pushed")


def objects(scope: Scope) -> Iterator[Mismatch]:
    """Compare every object in DVC's cache with its name, which is its MD5; DVC itself trusts those it may not write."""
    folder = _cache()
    if not folder.is_dir():
        scope.notes.append(f"{folder}: not here, so no cache of DVC's is checked")
        return
    stages = read() if LOCK.exists() and LOCK not in scope.mismatched else []
    named = dict(owners(stages))
    for path in sorted(folder.glob("??/*")):
        name = path.parent.name + path.name
        if re.fullmatch(r"[0-9a-f]{32}(\.dir)?", name):
            command = _again(path, *named[name]) if name in named else remove(path, "-f")
            yield from scope.compare(path, name.removesuffix(DIRECTORY), "its name", command, "md5")
            if name.endswith(DIRECTORY):
                try:
                    _members(path, name)
                except (UserError, OSError) as error:  # where it is damaged, that was found first
                    yield Mismatch(path, "a list of a directory's files", problem(path, error), command)


def restores(path: Path, digest: str, algorithm: str = "sha256") -> str | None:
    """Return the command that brings a file of this hash back from DVC's cache; None if that has none."""
    try:
        stages = read() if LOCK.exists() else []
    except UserError:
        return None  # told by `outputs`
    listings = _Listings()
    for stage in stages:
        for output, recorded in stage.outputs.items():
            inside = path.relative_to(output).as_posix() if output in path.parents else ""
            name = (listings.read(recorded) or {}).get(inside) if inside else recorded if output == path else None
            if name and kept(name) and files.digest(_object(name), algorithm) == digest:
                return git.checkout(path, "dvc checkout --force")
    return None


def stale(stages: Iterable[Stage], settings: config.Parameters) -> set[str]:
    """Name the stages whose record is of other inputs than there are now, directly or through another stage.

    An input that a stage makes is judged by that stage's own inputs: where those are as they were and the file
    is not, the file is damaged, and its record holds.
    """
    stages = list(stages)
    texts = {path: _md5(text.encode()) for path, text in graph.configurations(settings).items()}
    made = {stage.name: [path for path in stage.outputs if path != paths.CONFIGURATION] for stage in stages}
    above = {
        stage.name: {name for name, outs in made.items() for out in outs if _overlap(out, stage.inputs)}
        for stage in stages
    }
    found = {stage.name for stage in stages if _changed(stage, texts, {out for outs in made.values() for out in outs})}
    while more := {name for name, needed in above.items() if needed & found} - found:
        found |= more
    return found


def _changed(stage: Stage, texts: dict[Path, str], made: set[Path]) -> bool:
    """Whether an input that no stage makes is another than the record's, or the configuration would be."""
    if paths.CONFIGURATION in stage.outputs:
        return stage.outputs[paths.CONFIGURATION] != _listed(
            {path.relative_to(paths.CONFIGURATION).as_posix(): digest for path, digest in texts.items()}
        )
    sources = {path: digest for path, digest in stage.inputs.items() if not any(_overlap(out, [path]) for out in made)}
    return any((texts.get(path) or _content(path)) != digest for path, digest in sources.items())


def _compare(scope: Scope, path: Path, digest: str, command: str, listing: dict[str, str] | None) -> Iterator[Mismatch]:
    """Compare an output with its record: file by file where the cache still lists a directory's files."""
    if not digest.endswith(DIRECTORY):
        yield from scope.compare(path, digest, str(LOCK), command, "md5")
        return
    there = _files(path)
    if listing is None:
        scope.compared.update(path / name for name in there)
        if _listed({name: files.digest(path / name, "md5") for name in there}) != digest:
            yield Mismatch(path, f"the files of {digest} ({LOCK})", f"others among its {len(there)}", command)
        return
    for name in sorted(set(there) | set(listing)):
        if name not in listing:
            yield Mismatch(path / name, f"no such file ({LOCK})", "one", remove(path / name))
        elif name not in there:
            mend = scope.mend(path / name, listing[name], command, "md5")
            yield Mismatch(path / name, f"{listing[name]} ({LOCK})", "nothing", mend)
        else:
            yield from scope.compare(path / name, listing[name], str(LOCK), command, "md5")


class _Listings:
    """The files of directories, as objects in the cache list them."""

    def __init__(self) -> None:
        self.folder = _cache()

    def read(self, digest: str) -> dict[str, str] | None:
        """Return the MD5 of each file of the directory `digest`, by name; None if its list is missing or damaged."""
        path = self.folder / digest[:2] / digest[2:]
        if not digest.endswith(DIRECTORY) or not path.is_file():
            return None
        try:
            return _members(path, digest)
        except UserError:
            return None  # told by `objects`


def _members(path: Path, digest: str) -> dict[str, str]:
    """Read the list `path` of a directory's files, if its hash is `digest`; `UserError` if it is none."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes")
    content = path.read_bytes()
    if _md5(content) != digest.removesuffix(DIRECTORY):
        raise UserError(f"{path}: damaged")
    try:
        members = TypeAdapter(list[_Member]).validate_json(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}") from None
    return {member.relpath: member.md5 for member in members}


def _first(error: ValidationError) -> str:
    """Say in a line what pydantic complains of first."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])) or "content"
    return f"{where:.200}: {first['msg']:.200}"


def kept(digest: str) -> bool:
    """Return whether an object is in DVC's cache."""
    return _object(digest).is_file()


def _object(digest: str) -> Path:
    """Return where DVC's cache has an object."""
    return _cache() / digest[:2] / digest[2:]


def owners(stages: Iterable[Stage]) -> Iterator[tuple[str, tuple[Stage, Path]]]:
    """Yield each object that `dvc.lock` names, with the stage and the file that it is of."""
    listings = _Listings()
    for stage in stages:
        for path, digest in stage.outputs.items():
            yield digest, (stage, path)
            for name, member in (listings.read(digest) or {}).items():
                yield member, (stage, path / name)


def _again(path: Path, stage: Stage, original: Path) -> str:
    """Name what makes an object again: from the file in the checkout where that is whole, else by its stage."""
    name = path.parent.name + path.name
    whole = original.is_dir() or (original.is_file() and files.digest(original, "md5") == name)
    made = "" if whole else f"{stage.command} && "
    return f"{remove(path, '-f')} && {made}dvc commit --force --no-relink {shlex.quote(stage.name)}"


def _by_path(entries: Iterable[_Entry]) -> dict[Path, str]:
    return {Path(entry.path): entry.md5 for entry in entries}


def _cache() -> Path:
    """Return the folder of the cached files."""
    return (sync.cache() or CACHE) / "files" / "md5"


def _files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not IGNORED.intersection(path.parts))


def _content(path: Path) -> str:
    """Return the hash that DVC has for a file or directory; nothing for one that is not there."""
    if path.is_dir():
        return _listed({name: files.digest(path / name, "md5") for name in _files(path)})
    return files.digest(path, "md5") if path.is_file() else ""


def _listed(hashes: dict[str, str]) -> str:
    """Return the hash that DVC gives a directory of these files."""
    entries = [{"md5": digest, "relpath": name} for name, digest in sorted(hashes.items())]
    return _md5(json.dumps(entries, sort_keys=True).encode()) + DIRECTORY


def _overlap(path: Path, others: Iterable[Path]) -> bool:
    """Whether `path` is one of `others`, in one, or holds one."""
    return any(path == other or path in other.parents or other in path.parents for other in others)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
