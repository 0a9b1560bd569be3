import errno
import fcntl
import hashlib
import os
import stat
import struct
import time
from pathlib import Path

import pytest

from vanishing import errors, files


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    files.write(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    files.write(path, b"\0\r\n")
    assert path.read_bytes() == b"\0\r\n"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077], ids=oct)
def test_the_umask_says_who_may_read_and_write_what_was_written(tmp_path, mask):
    before = os.umask(mask)
    try:
        files.write(tmp_path / "folder" / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "folder" / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


def test_a_default_acl_of_the_folder_goes_before_the_umask(tmp_path):
    """One as `setfacl -d -m g::rwx` writes it: of owner, group and others, each a tag, permissions and no id."""
    entries = ((0x01, 7), (0x04, 7), (0x20, 0))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, 0xFFFFFFFF) for tag, bits in entries)
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")
    files.write(tmp_path / "file", "x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o660


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_failure_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "file"
    if before:
        path.write_bytes(before)
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as handle:
        handle.write(b"half")
        raise KeyboardInterrupt
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_a_reader_sees_the_old_content_until_the_new_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files.replacing(path) as handle:
        handle.write(b"new")
        handle.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with files.replacing(path) as first, files.replacing(path) as second:
        first.write(b"1" * 10)
        second.write(b"2" * 5)
    assert path.read_bytes() == b"1" * 10


def test_what_a_killed_writer_has_left_goes_and_what_a_living_one_has_stays(tmp_path):
    path, others = tmp_path / "file", tmp_path / ".file2.k1ll3d_x"
    (tmp_path / ".file.k1ll3d_x").write_bytes(b"half")
    others.write_bytes(b"half")
    with files.replacing(path) as living:
        living.write(b"living")
        files.write(path, b"second")
        assert len(list(tmp_path.iterdir())) == 3
    assert set(tmp_path.iterdir()) == {path, others}
    assert path.read_bytes() == b"living"


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_flock_files_are_written_and_what_is_old_goes(tmp_path, monkeypatch, error):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuse)
    young, old = tmp_path / ".file.y0ung_00", tmp_path / ".file.o1d_0000"
    for left, age in ((young, files.LEFT - 60), (old, files.LEFT + 60)):
        left.write_bytes(b"half")
        os.utime(left, (0, time.time() - age))
    files.write(tmp_path / "file", "x")
    assert set(tmp_path.iterdir()) == {tmp_path / "file", young}


def test_what_another_user_has_left_and_nobody_else_may_remove_stays(tmp_path, monkeypatch):
    """As in a sticky folder, where each removes what is his own."""

    def refuse(path, missing_ok=False):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), f"{path}")

    monkeypatch.setattr(Path, "unlink", refuse)
    (tmp_path / ".file.k1ll3d_x").write_bytes(b"half")
    files.write(tmp_path / "file", "x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_link_into_a_cache_is_replaced_and_the_cache_kept(tmp_path):
    cached, path = tmp_path / "cached", tmp_path / "file"
    cached.write_bytes(b"cached")
    path.hardlink_to(cached)
    files.write(path, b"new")
    assert (cached.read_bytes(), path.read_bytes()) == (b"cached", b"new")


def test_the_hash_is_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert files.sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_full_disk_that_does_not_answer_is_told_as_full(monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "statvfs", fail)
    error = OSError(errno.ENOSPC, "No space left on device", "results/history.csv")
    assert errors.line(error) == (
        "results/history.csv: No space left on device; make room, then run the same command to resume"
    )
